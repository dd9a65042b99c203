"""Augmentation: parsing, what each transform changes, random draws, mixing, contact sheets."""

import random
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.auto_augment import OPERATIONS, rand_augment, trivial_augment
from tlcli.data.augmentation.presets import PRESETS, TRANSFORMS, parse_augment
from tlcli.data.augmentation.spec import make_augmentation, random_box
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


# The text of an augmentation


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


# Each transform alone


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


# Random draws


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


def test_impossible_views_are_refused_before_anything_is_measured(
    two_classes, tmp_path, monkeypatch
):
    from tlcli import finetune

    monkeypatch.setattr("tlcli.recipes.decide.measure_folder", None)
    for augment, message in (
        ("light,mixup", "--views sets the number of cached views"),
        ("none", "would repeat the same view"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(two_classes, views=3, augment=augment, output=tmp_path / augment)


def test_boxes_are_drawn_from_the_given_range():
    rng = random.Random(0)
    shares = []
    for _ in range(300):
        left, top, right, bottom = random_box((100, 100), (0.02, 0.33), (0.3, 3.3), rng)
        shares.append((right - left) * (bottom - top) / 1e4)
    assert 0.015 < min(shares) < 0.05
    assert 0.28 < max(shares) < 0.34


def test_the_docs_list_every_preset_and_transform():
    page = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    for name, of in TRANSFORMS.items():
        assert f"| `{name}` | {of.default:g} | {of.max:g} | {of.description} |" in page
    for name, values in PRESETS.items():
        message = ", ".join(f"{k} {v:g}" for k, v in values.items()) or "every image as it is"
        assert f"| `{name}` | {message} |" in page
