"""Mixup and CutMix: labels, draws, and runs that use them."""

import json
import random
from dataclasses import replace

import pytest
import torch

from tests.fakes import RecordingReporter
from tlcli.data.augmentation.mixup import Mixing, make_mixing, mix_batch
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UsageError

PRE = Preprocessing(72, 64, "bilinear", (0.5, 0.25, 1.0), (0.5, 0.5, 0.5))


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
    assert "because of --epochs, --augment mixup" in run.plan.why
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
        ({"views": 3, "augment": "light,mixup"}, "--views sets the number of cached views"),
    ],
)
def test_mixing_is_refused_where_nothing_can_be_mixed(two_classes, tmp_path, options, message):
    from tlcli import finetune

    with pytest.raises(UsageError, match=message):
        finetune(two_classes, freeze="all-but-head", output=tmp_path / "run", **options)


def test_mixing_is_made_from_the_strengths():
    assert make_mixing(parse_augment("light")) is None
    assert make_mixing(parse_augment("light,mixup,cutmix=0.5")) == Mixing(0.2, 0.5)
