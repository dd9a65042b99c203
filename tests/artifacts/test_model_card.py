"""Model cards: known and unknown facts, names as data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.artifacts.exported import HOSTILE, save_network
from tlcli.artifacts import bundle
from tlcli.artifacts.export.model_card import model_card
from tlcli.artifacts.render import escape_markdown
from tlcli.artifacts.run_folder import TrainingData, read_training_data
from tlcli.backbones.weights import weights_license
from tlcli.metrics.metrics import ClassMetrics, Metrics


def test_an_edited_card_stays(tlcli, small, tmp_path):
    first = tlcli("export", small, "--output", tmp_path / "a.pt")
    assert "MODEL_CARD" not in first.stderr
    again = tlcli("export", small, "--output", tmp_path / "b.pt")
    assert "MODEL_CARD" not in again.stderr
    (tmp_path / "MODEL_CARD.md").write_text("mine")
    third = tlcli("export", small, "--output", tmp_path / "c.pt")
    assert third.exit_code == 0
    assert "was not changed" in third.stderr
    assert (tmp_path / "MODEL_CARD.md").read_text() == "mine"


def test_the_card_tells_what_is_known(trained):
    meta = bundle.read_meta(trained.bundle)
    run = json.loads((trained.folder / "run.json").read_text())
    text = model_card(meta, read_training_data(trained.folder))
    low, high = meta.metrics.top1_low, meta.metrics.top1_high
    assert f"95% Wilson interval {low:.1%} to {high:.1%}, n = {meta.metrics.n}" in text
    assert "# flowers: efficientnet_lite0" in text
    assert str(trained.folder) not in text
    assert run["dataset"]["root"] not in text
    for name in meta.classes:
        counts = run["dataset"]["classes"][name]
        assert f"| {name} | {counts['train']} | {counts['val']} | 0 |" in text
    assert "Apache License 2.0" in text
    assert escape_markdown(meta.plan["why"]) in text


def test_the_card_without_anything_known_says_so(tmp_path):
    path = save_network(tmp_path / "model.safetensors", "lenet5", classes=HOSTILE)
    meta = bundle.read_meta(path)
    for run in ({}, {"dataset": 3}, {"dataset": {"root": 1, "classes": []}}):
        (tmp_path / "run.json").write_text(json.dumps(run))
        text = model_card(meta, read_training_data(tmp_path))
        assert "nothing is measured" in text
        assert "unknown" in text
    damaged = replace(
        meta, metrics=Metrics.from_dict({"top1": 0.5, "per_class": {"a": 1}}), plan={"trained": 1}
    )
    assert "50.0%" in model_card(damaged, None)


def test_names_in_the_card_are_data(tmp_path):
    path = save_network(tmp_path / "model.safetensors", "lenet5", classes=HOSTILE)
    counts = {name: {"train": 1, "val": 0, "test": 0} for name in HOSTILE}
    data = TrainingData(Path("/x/<b>bold<b>"), counts)
    per_class = {name: ClassMetrics(1, precision=1.0) for name in HOSTILE}
    metrics = Metrics(n=3, top1=1.0, per_class=per_class)
    meta = replace(bundle.read_meta(path), metrics=metrics)
    text = model_card(meta, data)
    assert "<" not in text
    assert "\x1b" not in text
    assert "\n# h" not in text
    assert r"a\|b \`c\` \*d\* \[e\](http\://f)" in text
    assert escape_markdown("www.a.com") == r"www\.a.com"


@pytest.mark.parametrize(
    ("name", "label", "known"),
    [
        ("efficientnet_lite0", "efficientnet-lite0-57934424.pth", "Apache License 2.0"),
        ("efficientnet_lite0", "mine.pth", "Unknown"),
        ("resnet18", "IMAGENET1K_V1", "Unknown: torchvision"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", "facebookresearch/SWAG"),
        ("vgg16", "mine.safetensors", "came from a file"),
        ("lenet5", "none", "No pretrained weights"),
        ("lenet5", "mine.pth", "came from a file"),
    ],
)
def test_licenses_of_weights(name, label, known):
    assert known in weights_license(name, label)
