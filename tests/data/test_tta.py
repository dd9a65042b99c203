"""Test-time augmentation and ensembles: predictions are averaged."""

import json

import pytest
import torch
from PIL import Image, ImageOps

from tlcli import finetune, load
from tlcli.data.decode import decode
from tlcli.data.preprocessing import Preprocessing, to_tensor
from tlcli.data.tta import TTA_VIEWS, count_views, make_views

PRE = Preprocessing(80, 64, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def images(flowers):
    return sorted(flowers.glob("*/*.jpg"))[::5]


@pytest.fixture(scope="module")
def other(tmp_path_factory, flowers):
    """Train another network on the same classes, with another preprocessing."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    return finetune(flowers, model="lenet5", epochs=2, augment="none", output=folder)


def probabilities(classifier, images):
    answers = classifier.predict(images, top=1000)
    table = [[dict(answer.top)[name] for name in classifier.classes] for answer in answers]
    return torch.tensor(table)


def test_the_views_are_the_center_the_corners_and_their_mirror_images(images):
    image = Image.open(images[0]).convert("RGB").resize((120, 90))
    plain = PRE.to_pixels(image)
    large = to_tensor(PRE.resize_shorter_side(image))
    assert large.shape == (3, 80, 106)
    corners = [large[:, y : y + 64, x : x + 64] for y in (0, 16) for x in (0, 42)]
    five = [plain, *corners]
    for name, expected in (
        ("none", [plain]),
        ("flip", [plain, plain.flip(2)]),
        ("5", five),
        ("10", [*five, *(view.flip(2) for view in five)]),
    ):
        assert torch.equal(make_views(image, PRE, name), torch.stack(expected))
        assert count_views(name) == len(expected)


def test_all_views_of_a_symmetric_image_give_equal_predictions(images):
    half = Image.open(images[0]).convert("RGB").resize((256, 256)).crop((0, 0, 128, 256))
    mirrored = Image.new("RGB", (256, 256))
    mirrored.paste(half, (0, 0))
    mirrored.paste(ImageOps.mirror(half), (128, 0))
    even = Image.new("RGB", (300, 200), (120, 90, 60))
    for image, name in ((mirrored, "flip"), (even, "5"), (even, "10")):
        plain = probabilities(load("efficientnet_lite0"), image)
        several = probabilities(load("efficientnet_lite0", tta=name), image)
        assert torch.allclose(plain, several, atol=1e-5)


def test_a_mirrored_view_is_the_view_of_the_mirrored_image(trained, images):
    # of EfficientNet-lite0, which sees its images upside down
    pictures = [Image.open(path).convert("RGB") for path in images[::3]]
    classifier = load("efficientnet_lite0")
    plain = probabilities(classifier, pictures)
    mirrored = probabilities(classifier, [ImageOps.mirror(p) for p in pictures])
    assert (plain - mirrored).abs().max() > 0.01
    both = load("efficientnet_lite0", tta="flip")
    assert torch.allclose(probabilities(both, pictures), (plain + mirrored) / 2, atol=1e-5)
    # what is usual was learnt on plain views
    alone, several = load(trained.folder), load(trained.folder, tta="10")
    for a, b in zip(alone.predict(pictures), several.predict(pictures), strict=True):
        assert a.ood == pytest.approx(b.ood, rel=1e-3)


def test_networks_and_views_are_averaged_together(trained, other, images):
    images = images[::4]
    each = [probabilities(load(run.folder, tta="10"), images) for run in (trained, other)]
    both = load([trained.folder, other.folder], tta="10")
    # 1e-3: together, the smaller network sees what the larger one needs of a JPEG
    assert torch.allclose(probabilities(both, images), torch.stack(each).mean(0), atol=1e-3)
    manual = []
    pre = load(other.folder).members[0].preprocessing
    for path in images:
        crops = make_views(decode(path, pre.min_side), pre, "10")
        cut = [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in crops]
        manual.append(probabilities(load(other.folder), cut).mean(0))
    assert torch.allclose(each[1], torch.stack(manual), atol=1e-5)


@pytest.mark.parametrize("name", TTA_VIEWS)
def test_more_views_do_not_take_more_memory_at_once(other, images, name, monkeypatch):
    from tlcli.features.extract import FeatureExtractor

    seen = []
    call = FeatureExtractor.__call__
    monkeypatch.setattr(
        FeatureExtractor, "__call__", lambda self, x: seen.append(len(x)) or call(self, x)
    )
    list(load(other.folder, tta=name).stream(images * 5))
    assert max(seen) <= 32
    assert sum(seen) >= 40 * count_views(name)


def test_on_the_command_line(tlcli, trained, other, images, tmp_path):
    done = tlcli("predict", *images, "-m", trained.folder, "--tta", "flip", "-f", "json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert list(rows[0]) == ["path", "label", "probability", "error", "ood"]
    expected = load(trained.folder, tta="flip").predict(images)
    assert [row["probability"] for row in rows] == pytest.approx([a.probability for a in expected])
    wrong = tlcli("predict", images[0], "-m", trained.folder, "--tta", "3")
    assert wrong.exit_code == 2
    assert "--tta: '3' is unknown" in wrong.stderr
    both = tlcli("evaluate", tmp_path, trained.folder, "-m", other.folder)
    assert both.exit_code == 2
    assert "and --model both name a model" in both.stderr


def test_an_ensemble_is_evaluated_on_images_that_all_members_held_out(
    tlcli, trained, other, flowers, tmp_path
):
    models = ("-m", trained.folder, "-m", other.folder)
    done = tlcli("evaluate", *models, flowers, "--tta", "flip", "-f", "json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["n"] == trained.metrics["n"] == other.metrics["n"] < 40
    assert "held out of training" in done.stderr
    split = finetune(flowers, model="lenet5", epochs=1, seed=3, output=tmp_path / "split")
    models = ("-m", trained.folder, "-m", split.folder)
    fewer = tlcli("evaluate", *models, flowers, "-f", "json")
    if fewer.exit_code == 1:
        assert "no image that all of the models were not trained on" in fewer.stderr
    else:
        assert json.loads(fewer.stdout)["n"] < result["n"]
