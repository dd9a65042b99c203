"""Augmentation: parsing, what each transform changes, random draws, mixing, contact sheets."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from tests.fakes import RecordingReporter
from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.auto_augment import OPERATIONS, rand_augment, trivial_augment
from tlcli.data.augmentation.mixup import Mixing, make_mixing, mix_batch
from tlcli.data.augmentation.pca_color import principal_colors
from tlcli.data.augmentation.presets import PRESETS, TRANSFORMS, parse_augment
from tlcli.data.augmentation.spec import make_augmentation, random_box
from tlcli.data.dataset import Sample
from tlcli.data.loader import load_batches
from tlcli.data.preprocessing import Preprocessing, to_tensor
from tlcli.errors import UsageError

PRE = Preprocessing(72, 64, "bilinear", (0.5, 0.25, 1.0), (0.5, 0.5, 0.5))
FILL = [128, 64, 255]
COLORS = ((0.3, 0.2, 0.1), (0.0, 0.02, -0.04), (0.001, 0.0, 0.0))
EVERYTHING = ",".join(TRANSFORMS)


def gradient(size=(72, 72)):
    """Make an image whose red grows to the right and green downwards; none is near 0 or 255."""
    width, height = size
    image = Image.new("RGB", size)
    image.putdata(
        [(60 + 100 * x // width, 60 + 100 * y // height, 120)
         for y in range(height) for x in range(width)]
    )  # fmt: skip
    return image


PLAIN = PRE.to_pixels(gradient()).int()


def view(text, seed=0, image=None):
    aug = make_augmentation(parse_augment(text), COLORS)
    return augment_image(image or gradient(), PRE, aug, random.Random(seed)).int()


# What is asked for


def test_transforms_after_a_preset_change_it():
    assert parse_augment("light") == PRESETS["light"] == {"flip": 0.5, "crop": 0.5, "rotate": 10}
    assert parse_augment("none") == {}
    assert parse_augment("light, vflip ,rotate=30") == PRESETS["light"] | {
        "vflip": 0.5,
        "rotate": 30,
    }
    assert parse_augment("strong,erase=0,flip=0").keys() == PRESETS["strong"].keys() - {
        "erase",
        "flip",
    }
    assert parse_augment("flip,pca=0.5") == {"flip": 0.5, "pca": 0.5}
    assert parse_augment(EVERYTHING) == {name: of.default for name, of in TRANSFORMS.items()}
    assert not any("vflip" in preset for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("standrd", "'standrd' is unknown", "standard"),
        ("light,vflipp,rotate=x,erase=2", "'vflipp' is unknown; rotate=x: ", "vflip"),
        ("light,vflipp,rotate=x,erase=2", "erase=2: it takes a number from 0 (off) to 1", ""),
        ("flip,light", "the preset light must come first", "light,vflip"),
        ("light,", "missing between two commas", ""),
        ("flip,flip=0", "flip is named twice", ""),
        ("jitter=nan", "jitter=nan: it takes a number", ""),
        ("rotate=-3", "rotate=-3: it takes a number", ""),
    ],
)
def test_all_errors_are_listed_with_a_suggestion(text, message, hint):
    with pytest.raises(UsageError) as error:
        parse_augment(text)
    assert message in error.value.message
    assert hint in error.value.hint


def test_the_text_in_cache_keys_stays_the_same():
    # the text is part of the cache's keys
    light = "Augmentation(flip=0.5, scale=(0.5, 1.0), ratio=(0.75, 1.3333333333333333), degrees=10)"
    assert str(make_augmentation(parse_augment("light"))) == light
    assert str(make_augmentation(parse_augment("flip,crop,rotate"))) == light
    more = str(make_augmentation(parse_augment("light,pca"), COLORS))
    assert more == f"{light[:-1]}, pca=0.1, colours={COLORS})"
    assert (
        make_augmentation(parse_augment("none"))
        is make_augmentation(parse_augment("mixup"))
        is None
    )


# What each transform changes, and what it leaves


def test_mirror_images_and_no_others():
    assert torch.equal(view("flip=1"), PLAIN.flip(2))
    assert torch.equal(view("vflip=1"), PLAIN.flip(1))
    assert torch.equal(view("flip=1,vflip=1"), PLAIN.flip(1, 2))


def test_rotation_alone_is_the_same_in_pillow_and_torchvision():
    # beside shear it goes through torchvision, whose angles run the other way round
    turned = [view("rotate=40", seed) for seed in range(5)]
    both = [view("rotate=40,shear=0.000001", seed) for seed in range(5)]
    for a, b in zip(turned, both, strict=True):
        assert (a - b).abs().float().mean() < 1
        assert (a - PLAIN).abs().float().mean() > 2


def test_translation_shifts_by_whole_pixels_within_its_limit():
    shifts = set()
    for seed in range(20):
        moved = view("translate=0.25", seed)
        inside = (moved != torch.tensor(FILL)[:, None, None]).any(0)
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        y, x = 64 - len(rows), 64 - len(columns)
        assert max(x, y) <= 16
        kept = moved[:, rows][:, :, columns]
        top, left = (0 if rows[0] > 0 else y), (0 if columns[0] > 0 else x)
        assert torch.equal(kept, PLAIN[:, top : top + 64 - y, left : left + 64 - x])
        shifts.add((x, y))
    assert len(shifts) > 10


def test_shear_keeps_the_center_and_moves_the_corners():
    sheared = view("shear=20", 3)
    assert (sheared - PLAIN)[:, 31:33, 31:33].abs().max() <= 2
    assert (sheared - PLAIN)[:, 0].abs().float().mean() > 5


def test_jitter_keeps_gray_images_gray_and_hue_keeps_lightness():
    gray = ImageOps.grayscale(gradient()).convert("RGB")
    jittered = view("jitter", image=gray)
    assert not torch.equal(jittered, PRE.to_pixels(gray).int())
    assert (jittered[0] - jittered[2]).abs().max() <= 1
    assert torch.equal(view("hue=0.5", image=gray), PRE.to_pixels(gray).int())
    turned = view("hue=0.5", 4)
    assert (turned - PLAIN).abs().max() > 20
    assert (turned.amax(0) - PLAIN.amax(0)).abs().max() <= 1


def test_grayscale_is_gray():
    gray = view("grey=1")
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(
        gray, to_tensor(ImageOps.grayscale(PRE.resize_and_crop(gradient())).convert("RGB"))
    )


def test_erasing_leaves_all_but_one_rectangle():
    for seed in range(10):
        erased = view("erase=1", seed)
        changed = (erased != PLAIN).any(0)
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        box = erased[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box == torch.tensor(FILL)[:, None, None]).all()
        assert int(changed.sum()) == box[0].numel()
        assert 0.015 < box[0].numel() / 64**2 < 0.35


def test_the_color_shift_adds_one_color_along_the_principal_ones():
    draws = []
    for seed in range(200):
        added = view("pca=0.1", seed) - PLAIN
        assert (added == added[:, :1, :1]).all()
        draws.append(added[:, 0, 0].double() / 255)
    measured = torch.stack(draws)
    expected = 0.1 * torch.tensor(COLORS).double().square().sum(0).sqrt()
    assert measured.mean(0).abs().max() < 0.01
    assert torch.allclose(measured.std(0), expected, rtol=0.15, atol=0.002)


def test_a_crop_shows_a_part_and_without_it_the_plain_view():
    assert torch.equal(view("flip=0.000001"), PLAIN)
    spans = [int(v[0].max() - v[0].min()) for v in (view("crop=0.1", s) for s in range(30))]
    assert min(spans) < 50 < 80 < max(spans)


def test_policies_equal_torchvisions(monkeypatch):
    image = gradient((64, 64))
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        for step in (0, 9, 20, 30):
            for ours, theirs in ((_rand, v2.RandAugment(1, step, **_LIKE)),
                                 (_trivial, v2.TrivialAugmentWide(**_LIKE))):  # fmt: skip
                drawn = iter([number, step])
                with monkeypatch.context() as patch:
                    patch.setattr(torch, "randint", lambda *_, d=drawn: torch.tensor(next(d)))
                    patch.setattr(torch, "rand", lambda *_: torch.tensor(0.9))
                    expected = theirs(image)
                got = ours(image, operation, step)
                assert list(theirs._AUGMENTATION_SPACE) == list(OPERATIONS)
                # torch's magnitudes are float32: a pixel may round the other way
                assert numpy.abs(numpy.int32(got) - numpy.int32(expected)).max() <= 1, (name, step)


_LIKE = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": FILL}


def _rand(image, operation, step):
    of_side = image.width if operation.of_side else 1
    return _strength(image, operation, operation.rand * of_side, step)


def _trivial(image, operation, step):
    return _strength(image, operation, operation.trivial, step)


def _strength(image, operation, greatest, step):
    magnitude = operation.weakest + (greatest - operation.weakest) * step / 30
    return operation.apply(image, magnitude, tuple(FILL))


def test_policies_reach_every_operation_and_both_signs():
    image = gradient((64, 64))
    for policy in (lambda r: rand_augment(image, 9, tuple(FILL), r),
                   lambda r: trivial_augment(image, tuple(FILL), r)):  # fmt: skip
        seen = {policy(random.Random(seed)).tobytes() for seed in range(150)}
        assert len(seen) > 40


# Whose draws they are


def test_a_view_depends_on_its_seed_alone(flowers):
    paths = sorted(flowers.glob("*/*.jpg"))[:12]
    aug = make_augmentation(parse_augment(EVERYTHING), COLORS)
    keys = [f"0:{path.name}:1" for path in paths]

    def views(workers, order):
        batches = load_batches([paths[i] for i in order], PRE, batch_size=5, augmentation=aug,
                               keys=[keys[i] for i in order], workers=workers)  # fmt: skip
        images = torch.cat([images for images, _ in batches])[: len(order)]
        return images[torch.tensor(order).argsort()]

    torch.manual_seed(1)
    one = views(1, list(range(12)))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    four = views(4, list(reversed(range(12))))
    assert torch.equal(one, four)
    assert torch.equal(before, torch.get_rng_state())


# Mean red, green and blue of the four quarters of two views. Python's draws and Pillow's pixels do
# not change with the versions of torch and torchvision.
QUARTERS = {
    0: [130, 189, 62, 207, 56, 67, 167, 74, 159, 250, 5, 88],
    7: [82, 80, 123, 125, 57, 76, 91, 123, 129, 85, 185, 127],
}


@pytest.mark.parametrize("seed", QUARTERS)
def test_a_seed_gives_the_same_view_in_every_version(seed):
    quarters = view(EVERYTHING, seed).float().unfold(1, 32, 32).unfold(2, 32, 32).mean((3, 4))
    assert torch.allclose(quarters.flatten(), torch.tensor(QUARTERS[seed]).float(), atol=2)


# Principal colors


def saved(folder, pictures):
    samples = []
    for number, picture in enumerate(pictures):
        path = folder / f"{number}.png"
        picture.save(path)
        samples.append(Sample(path, 0, f"{number:04}"))
    return samples


def test_principal_colors_are_numpys_eigenvectors(tmp_path):
    draw = numpy.random.default_rng(0)
    mixed = draw.normal(size=(32 * 32 * 8, 3)) @ numpy.diag([40, 12, 3]) @ _turn() + 128
    pixels = mixed.clip(0, 255).astype("uint8").reshape(8, 32, 32, 3)
    samples = saved(tmp_path, [Image.fromarray(p) for p in pixels])
    found = numpy.array(principal_colors(samples))
    values, vectors = numpy.linalg.eigh(numpy.cov(pixels.reshape(-1, 3).T / 255, bias=True))
    for row, value, vector in zip(found, values[::-1], vectors.T[::-1], strict=True):
        assert numpy.linalg.norm(row) == pytest.approx(value, abs=3e-6)
        assert abs(row @ vector) == pytest.approx(value, abs=3e-6)
        assert row[numpy.abs(row).argmax()] > 0
    (tmp_path / "text.png").write_text("no picture")
    others = [*reversed(samples), Sample(tmp_path / "text.png", 0, "zzz")]
    assert principal_colors(others) == principal_colors(samples)


def _turn():
    return numpy.linalg.qr(numpy.array([[1.0, 1, 1], [1, -1, 0], [0, 1, 2]]))[0]


def test_without_images_or_colors_nothing_is_shifted(tmp_path):
    assert principal_colors([]) == ((0.0, 0.0, 0.0),) * 3
    black = saved(tmp_path, [Image.new("RGB", (8, 8))])
    assert principal_colors(black) == ((0.0, 0.0, 0.0),) * 3
    with pytest.raises(ValueError, match="principal colors"):
        augment_image(gradient(), PRE, make_augmentation(parse_augment("pca")), random.Random(0))


# Mixing


def flat_batch():
    """Make six images of one gray value each, 40 times their label."""
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    return (40 * labels)[:, None, None, None].expand(6, 3, 20, 30).to(torch.uint8), labels


@pytest.mark.parametrize("mixing", [Mixing(mixup=1), Mixing(cutmix=1), Mixing(0.4, 0.4)])
def test_soft_labels_are_the_shares_of_the_image(mixing):
    images, labels = flat_batch()
    shares = set()
    for seed in range(30):
        mixed, soft = mix_batch(images, labels, 7, mixing, random.Random(seed))
        assert mixed.dtype == torch.uint8
        assert soft.shape == (6, 7)
        assert torch.allclose(soft.sum(1), torch.ones(6))
        # the mean gray value of the mixed image shows which part comes from which image
        expected = (soft * 40 * torch.arange(7)).sum(1)
        assert torch.allclose(mixed.float().mean((1, 2, 3)), expected, atol=0.51)
        again = mix_batch(images, labels, 7, mixing, random.Random(seed))
        assert torch.equal(mixed, again[0])
        assert torch.equal(soft, again[1])
        shares.add(round(soft.max().item(), 3))
    assert len(shares) > 10
    assert torch.equal(images, flat_batch()[0])


def test_mixups_expected_share_is_one_half_and_cutmix_pastes():
    images, labels = flat_batch()
    hard = torch.eye(6)
    kept = [
        mix_batch(images, labels, 6, Mixing(mixup=0.4), random.Random(s))[1] for s in range(400)
    ]
    # an image is mixed with itself in one of six cases
    mean = torch.stack(kept).mean(0)
    assert torch.allclose(mean.diag(), torch.full((6,), 0.5 + 0.5 / 6), atol=0.06)
    assert torch.allclose(mean, mean.T, atol=0.06)
    pasted = mix_batch(images, labels, 6, Mixing(cutmix=1), random.Random(3))
    for image, share in zip(*pasted, strict=True):
        greys = set(image.unique().tolist())
        assert greys <= {40 * i for i in (share > 0).nonzero()[:, 0].tolist()}
    assert not torch.equal(pasted[1], hard)


def test_batches_are_mixed_by_their_content_and_epoch(flowers):
    from tlcli.backbones import build
    from tlcli.data.dataset import scan
    from tlcli.features.extract import FeatureExtractor
    from tlcli.features.sources import RecomputedFeatures
    from tlcli.runtime import device

    dataset = scan(flowers)
    pre = build.build("lenet5").preprocessing
    forward = FeatureExtractor(torch.nn.Sequential(), pre, device.choose_device("cpu"))
    source = RecomputedFeatures(dataset.train, forward, None, 0, Mixing(1, 1), 5)
    order = torch.arange(len(source))
    full = list(source.batches(order, 8, 3))
    rest = list(source.batches(order[8:], 8, 3))
    other = list(source.batches(order, 8, 4))
    for (x, y), (u, v) in zip(full[1:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
        assert y.shape[1] == 5
    assert not torch.equal(full[0][0], other[0][0])
    plain = torch.cat([y for _, y in replace(source, mixing=None).batches(order, 8, 3)])
    assert plain.shape == (len(source),)


# Runs


def test_a_run_records_mixing_and_principal_colors(two_classes, tmp_path):
    from tlcli import finetune

    reporter = RecordingReporter()
    run = finetune(
        two_classes,
        freeze="all-but-head",
        augment="standard,mixup=0.4",
        epochs=1,
        output=tmp_path / "run",
        reporter=reporter,
    )
    assert run.plan.training.optimizer == "adamw"
    assert "--augment mixup asks for training in steps" in run.plan.why
    assert any("mixed, so features are computed again" in note for note in reporter.notes)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["augmentation"]["transforms"] == parse_augment("standard,mixup=0.4")
    assert len(record["augmentation"]["colours"]) == 3
    assert record["remembered"] is False
    assert run.metrics["n"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lbfgs", "augment": "cutmix"}, "takes no --augment cutmix"),
        ({"views": 3, "augment": "light,mixup"}, "--views is about remembered activations"),
    ],
)
def test_mixing_is_refused_where_nothing_can_be_mixed(two_classes, tmp_path, options, message):
    from tlcli import finetune

    with pytest.raises(UsageError, match=message):
        finetune(two_classes, freeze="all-but-head", output=tmp_path / "run", **options)


def test_impossible_views_are_refused_before_anything_is_measured(
    two_classes, tmp_path, monkeypatch
):
    from tlcli import finetune

    monkeypatch.setattr("tlcli.recipes.decide.measure_folder", None)
    for augment, message in (
        ("light,mixup", "--views is about"),
        ("none", "the same view repeated"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(two_classes, views=3, augment=augment, output=tmp_path / augment)


# The contact sheet


def test_a_contact_sheet_shows_every_class_plain_and_in_views(tlcli, flowers, tmp_path):
    odd = tmp_path / "data"
    for name, source in (("<b>[red]\n\u202ex", "rose"), ("b" * 200, "tulip")):
        (odd / name).mkdir(parents=True)
        for path in sorted((flowers / source).iterdir())[:3]:
            (odd / name / path.name).hardlink_to(path)
    sheet = tmp_path / "sheet.png"
    asked = ("--augment", "strong,mixup", "--views", "3", "-o", sheet)
    done = tlcli("sample", "--augmented", odd, *asked)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{sheet}\n"
    first = sheet.read_bytes()
    with Image.open(sheet) as image:
        assert image.width > 4 * 144
        assert image.height > 3 * 144
    again = tlcli("sample", "--augmented", odd, *asked)
    assert again.exit_code == 1
    assert "not overwritten" in again.stderr
    assert sheet.read_bytes() == first
    sheet.unlink()
    assert tlcli("sample", "--augmented", odd, *asked).exit_code == 0
    assert sheet.read_bytes() == first


def test_the_sheet_shows_the_views_of_training(flowers, tmp_path, monkeypatch):
    from tlcli.data.dataset import scan
    from tlcli.recipes import contact_sheet as sheet

    rows = []
    monkeypatch.setattr(
        sheet, "draw_grid", lambda _, given: rows.extend(given) or Image.new("L", (9, 9))
    )
    sheet.contact_sheet(flowers, tmp_path / "a.png", model="lenet5", seed=5)
    assert [row.name for row in rows] == ["daisy", "lavender", "rose", "sunflower", "tulip"]
    dataset = scan(flowers, seed=5)
    daisy = min((s for s in dataset.train if s.label == 0), key=lambda s: s.digest)
    pre = Preprocessing(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    light = make_augmentation(parse_augment("light"))
    keys = [f"5:{daisy.digest}:{number}" for number in (1, 2)]
    (batch,) = load_batches([daisy.path] * 2, pre, batch_size=2, augmentation=light, keys=keys)
    for number in (1, 2):
        assert torch.equal(to_tensor(rows[0].pictures[number]), batch[0][number - 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augment", "strong"], "--augment: only with --augmented"),
        (["--augmented", "--per-class", "3"], "--per-class: only without --augmented"),
        (["--augmented", "-o", "x.jpg"], "the sheet is a PNG"),
        (["--augmented", "--augment", "stong"], "strong"),
        (["--augmented", "--model", "vgg17"], "vgg16"),
    ],
)
def test_invalid_arguments_of_sample_are_refused(tlcli, flowers, arguments, message):
    done = tlcli("sample", flowers, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_boxes_are_drawn_from_the_given_range():
    rng = random.Random(0)
    shares = []
    for _ in range(300):
        left, top, right, bottom = random_box((100, 100), (0.02, 0.33), (0.3, 3.3), rng)
        shares.append((right - left) * (bottom - top) / 1e4)
    assert 0.015 < min(shares) < 0.05
    assert 0.28 < max(shares) < 0.34


def test_mixing_is_made_from_the_strengths():
    assert make_mixing(parse_augment("light")) is None
    assert make_mixing(parse_augment("light,mixup,cutmix=0.5")) == Mixing(0.2, 0.5)


def test_the_docs_list_every_preset_and_transform():
    page = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    for name, of in TRANSFORMS.items():
        assert f"| `{name}` | {of.default:g} | {of.max:g} | {of.description} |" in page
    for name, values in PRESETS.items():
        message = ", ".join(f"{k} {v:g}" for k, v in values.items()) or "every image as it is"
        assert f"| `{name}` | {message} |" in page
