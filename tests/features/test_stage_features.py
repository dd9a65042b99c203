"""The measuring pass: features of all stages, and the views it computes ahead."""

import json

import pytest
import torch

from tests.fakes import RecordingReporter
from tlcli import finetune
from tlcli.backbones import build
from tlcli.backbones.network import build_network
from tlcli.data.augmentation.presets import PRESETS
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import scan
from tlcli.features import stage_features as look
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import FeatureExtractor, extract_features
from tlcli.features.stage_features import StageFeatures
from tlcli.features.views import Views
from tlcli.planning import similarity
from tlcli.planning.measure import measure_folder
from tlcli.runtime.device import Compute, choose_device

SMALL = {  # a small member of each family that is quick enough on a few images
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet_lite": "efficientnet_lite0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "swin": "swin_t",
    "vgg": "vgg11",
    "vit": "vit_b_32",
}


def test_upside_down_is_upside_down():
    images = torch.randint(256, (3, 3, 30, 20), dtype=torch.uint8)
    changed = similarity.upside_down(images)
    assert torch.equal(changed[0, :, 0, 0], images[0, :, -1, -1])
    assert torch.equal(similarity.upside_down(changed), images)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.usefixtures("small_batches")
def test_what_the_pass_keeps_is_what_finetune_would_compute(family, tmp_path, flowers):
    torch.manual_seed(0)
    backbone = build.build(SMALL[family])
    backbone.weights_sha256, backbone.pretrained = "made up", len(backbone.stages)
    cache, compute = FeatureCache(tmp_path), choose_device("cpu")
    samples = scan(flowers).train[:3]
    seen = StageFeatures(backbone, compute, cache, RecordingReporter())
    views = Views(2, make_augmentation(PRESETS["light"]), seed=3)
    outputs, unreadable = seen.extract(samples, views)
    assert not unreadable
    assert outputs["head"].shape == (3, 1000)
    assert all(o.dim() == 2 and len(o) == 3 and o.isfinite().all() for o in outputs.values())
    widths = [o.shape[1] for o in outputs.values()]
    # Both of the small cases read rows that the pass has written, and the same numbers.
    middle = list(outputs)[len(outputs) // 2]
    for cut, dropped in ((seen.last_stage, False), (middle, True)):
        names = [s.name for s in backbone.stages]
        if dropped and names.index(cut) >= len(names) - 2:
            continue
        network = build_network(backbone, cut=cut, dropped=dropped, n_classes=2)
        prefix = FeatureExtractor(
            network.prefix,
            backbone.preprocessing,
            compute,
            RecordingReporter(),
            origin=backbone.origin,
        )
        fresh, _, _ = extract_features(
            samples, prefix, task="x", views=views, reporter=RecordingReporter()
        )
        if fresh.dim() > 3:
            continue  # a map behind which the head pools itself (SqueezeNet)
        assert torch.equal(fresh[:, 0], outputs[cut]), cut
        notes = RecordingReporter()
        again = {"views": views, "cache": cache, "reporter": notes}
        cached, _, _ = extract_features(samples, prefix, task="x", **again)
        assert notes.notes == ["x: 6 of 6 views read from the cache"]
        assert torch.equal(cached, fresh)
    assert widths[-1] == 1000


@pytest.mark.parametrize("views", [1, 2])
def test_a_slow_backbone_is_shown_fewer_images(tmp_path, flowers, monkeypatch, views):
    backbone = build.load_backbone("efficientnet_lite0")
    monkeypatch.setattr(look, "MAX_SECONDS", 1e-6)
    monkeypatch.setattr(look, "MIN_SAMPLE", 9)
    monkeypatch.setattr(Compute, "batch_size", 8)
    monkeypatch.setattr(look, "FORECAST_AFTER_BATCHES", 1)
    dataset, notes = scan(flowers), RecordingReporter()
    found = measure_folder(
        StageFeatures(backbone, choose_device("cpu"), FeatureCache(tmp_path), notes),
        dataset.train,
        dataset.classes,
        views=Views(views, make_augmentation(PRESETS["light"])),
    )
    assert found.evidence.sampled == 9
    assert "is slow on this machine" in notes.notes[0]


def test_once_a_view_is_known_to_take_too_long_none_is_drawn(tmp_path, flowers, monkeypatch):
    monkeypatch.setattr(Compute, "batch_size", 4)
    monkeypatch.setattr(look, "FORECAST_AFTER_BATCHES", 1)
    views, samples = Views(2, make_augmentation(PRESETS["light"])), scan(flowers).train
    pass_ = StageFeatures(
        build.load_backbone("efficientnet_lite0"),
        choose_device("cpu"),
        FeatureCache(tmp_path),
        RecordingReporter(),
    )
    outputs, _ = pass_.extract(samples, views, lambda view_seconds: 1 if view_seconds else 2)
    assert {len(output) for output in outputs.values()} == {len(samples)}
    drawn = [views.view_id(s, 1) in pass_.tables[0] for s in samples]
    assert drawn[:2] == [True, True]
    assert not drawn[-1]


@pytest.mark.parametrize(("family", "kept"), [("squeezenet", 1), ("resnet", 2)])
@pytest.mark.usefixtures("small_batches")
def test_views_that_no_head_would_read_are_not_computed(family, kept, tmp_path, two_classes):
    """SqueezeNet's head pools the last maps itself, and only pooled ones are kept."""
    backbone = build.build(SMALL[family])
    backbone.weights_sha256, backbone.pretrained = "made up", len(backbone.stages)
    dataset, views = scan(two_classes), Views(2, make_augmentation(PRESETS["light"]))
    found = measure_folder(
        StageFeatures(backbone, choose_device("cpu"), FeatureCache(tmp_path), RecordingReporter()),
        dataset.train,
        dataset.classes,
        views=views,
    )
    drawn = [views.view_id(s, 1) for s in dataset.train]
    for table in found.tables.values():
        assert sum(row in table for row in drawn) == (kept - 1) * len(dataset.train)


def test_a_second_view_that_takes_too_long_is_left_out_and_said(tmp_path, flowers, monkeypatch):
    monkeypatch.setattr("tlcli.planning.views.MAX_VIEW_SECONDS", 1e-6)
    notes = RecordingReporter()
    done = finetune(flowers, output=tmp_path / "run", size="small", reporter=notes)
    assert json.loads((done.folder / "run.json").read_text())["views"] == 1
    assert any("only the plain view" in note and "--views 2" in note for note in notes.notes)
