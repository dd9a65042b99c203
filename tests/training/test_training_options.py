"""The training options in real runs: the files that are written, and usage that is refused."""

import csv
import json

import pytest
import torch

from tlcli import finetune
from tlcli.backbones import build
from tlcli.backbones.network import build_network, set_dropout
from tlcli.inference.load import open_bundle
from tlcli.training.loop import TrainingLoop


def test_a_found_rate_is_reported_written_and_drawn(two_classes, tmp_path, tlcli):
    folder = tmp_path / "run"
    done = tlcli(
        "finetune", two_classes, "--case", "small-similar", "--lr", "find", "--epochs", 2,
        "--batch-size", 4, "--augment", "none", "--average", "ema", "--label-smoothing", 0.1,
        "--dropout", 0.5, "--balance", "sampler", "--metric", "balanced_accuracy", "-o", folder,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "training: AdamW, a measured learning rate" in done.stderr
    assert "--lr find:" in done.stderr
    run = json.loads((folder / "run.json").read_text())
    rows = list(csv.DictReader((folder / "lr_find.csv").open()))
    assert float(rows[0]["lr"]) <= run["found_lr"] <= float(rows[-1]["lr"])
    assert len(rows) > 10
    assert "Learning rate range test" in (folder / "report.html").read_text()
    history = list(csv.DictReader((folder / "history.csv").open()))
    assert "val_balanced_accuracy" in history[0]
    assert run["plan"]["schedule"]["find_lr"] is True
    assert run["options"]["lr"] == "find"


def test_head_first_and_gradual_unfreezing_of_a_part(two_classes, tmp_path):
    run = finetune(
        two_classes, freeze="features.7", head_first=True, unfreeze="gradual", epochs=2,
        batchnorm="frozen", balance="sampler", warmup=0.0, output=tmp_path / "run",
    )  # fmt: skip
    rows = list(csv.DictReader((run.folder / "history.csv").open()))
    assert [row["phase"] for row in rows] == ["head", "all", "all"]
    start = build.load_backbone("efficientnet_lite0").model.state_dict()
    tensors = open_bundle(run.bundle)[0].tensors()
    running = [k for k in tensors if "running" in k]
    assert running
    assert all(torch.equal(tensors[k], start[k]) for k in running)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", "fast"), "--lr fast is neither a number nor find"),
        (("--head-first",), "--head-first"),
        (("--warmup", "50", "--epochs", "2"), "--warmup 50"),
        (("--dropout", "1"), "--dropout 1 is out of range"),
        (("--balance", "classes"), "--balance"),
    ],
)
def test_contradictions_are_wrong_usage(two_classes, tmp_path, tlcli, options, message):
    folder = tmp_path / "run"
    done = tlcli("finetune", two_classes, "--case", "small-similar", *options, "-o", folder)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_dropout_reaches_the_head_of_each_kind_and_bundles_stay_as_they_are(name):
    network = build_network(build.build(name), cut="none", dropped=False, n_classes=3)
    names = list(network.tensors())
    set_dropout(network, 0.4)
    assert list(network.tensors()) == names
    head = network.stages[-1]
    dropouts = [m for m in head.modules() if isinstance(m, torch.nn.Dropout)]
    assert [m.p for m in dropouts] == [0.4]
    layers = list(head.steps)
    assert layers.index(dropouts[0]) < layers.index(network.final_layer)


def test_weights_balance_the_solved_head():
    from tlcli.training.logistic_regression import solve

    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 90 + [1] * 10)
    features = torch.randn(100, 1, 4, generator=draw) + labels[:, None, None] * 0.8
    plain = solve(features, labels, 2, bias=True, seed=0)
    weights = torch.tensor([100 / 180, 5.0])
    even = solve(features, labels, 2, bias=True, seed=0, class_weights=weights)

    def found(solution):
        predicted = (features[:, 0] @ solution.weight.T + solution.bias).argmax(1)
        return int((predicted[labels == 1] == 1).sum())

    assert found(even) > found(plain)


def test_a_run_with_a_found_rate_and_averages_is_resumed_to_the_same_bytes(
    flowers, tmp_path, monkeypatch
):
    options = {
        "model": "lenet5", "lr": "find", "average": "ema", "balance": "sampler", "epochs": 3,
        "batch_size": 8, "label_smoothing": 0.1, "patience": 0,
    }  # fmt: skip
    whole = finetune(flowers, output=tmp_path / "whole", **options)
    steps, update = [], TrainingLoop._update

    def failing(self):
        update(self)
        steps.append(self.epoch)
        if len(steps) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", failing)
        finetune(flowers, output=tmp_path / "run", **options)
    on = finetune(resume=tmp_path / "run")
    assert on.bundle.read_bytes() == whole.bundle.read_bytes()
    curves = [(r.folder / "lr_find.csv").read_bytes() for r in (on, whole)]
    assert curves[0] == curves[1]
    found = [json.loads((r.folder / "run.json").read_text())["found_lr"] for r in (on, whole)]
    assert found[0] == found[1]
