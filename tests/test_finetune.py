"""The main job, end to end, on real weights and small folders."""

import csv
import json
import re

import pytest
import torch
from safetensors import safe_open

from tlcli import finetune, load
from tlcli.backbones import build
from tlcli.errors import UsageError, UserError
from tlcli.events import Reporter
from tlcli.inference.predict import open_bundle


class Notes(Reporter):
    """Remembers what was told."""

    def __init__(self):
        self.notes, self.warnings, self.tasks = [], [], {}

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, task, done, total, **figures):
        self.tasks.setdefault(task, []).append((done, total, figures))


def test_drawn_flowers_are_learnt_and_the_run_folder_is_complete(trained):
    assert trained.status == "finished"
    assert trained.metrics["top1"] >= 0.8
    names = {p.name for p in trained.folder.iterdir()}
    assert names == {"model.safetensors", "run.json", "history.csv", "metrics.json", "report.html"}
    run = json.loads((trained.folder / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["plan"]["case"] == "small-similar"
    assert run["options"]["seed"] == 0
    assert run["remembered"] is True
    assert json.loads((trained.folder / "metrics.json").read_text()) == run["metrics"]
    rows = list(csv.DictReader((trained.folder / "history.csv").open()))
    assert float(rows[-1]["val_top1"]) == pytest.approx(trained.metrics["top1"])


def test_the_bundle_holds_everything_under_one_metadata_key(trained):
    with safe_open(trained.bundle, "pt") as file:
        assert list(file.metadata()) == ["tlcli"]
        meta = json.loads(file.metadata()["tlcli"])
    assert meta["format"] == 1
    assert meta["backbone"] == "efficientnet_lite0"
    assert len(meta["classes"]) == 5
    assert meta["preprocessing"]["crop"] == 224
    assert meta["metrics"]["n"] == trained.metrics["n"]
    assert {"plan", "calibration", "dataset", "seed", "versions", "cut"} <= meta.keys()
    assert "seconds" not in json.dumps(meta)


def test_the_same_run_gives_the_same_bytes(trained, flowers, tmp_path):
    again = finetune(flowers, output=tmp_path / "again")
    assert again.bundle.read_bytes() == trained.bundle.read_bytes()
    other = finetune(flowers, output=tmp_path / "other", seed=1)
    assert other.bundle.read_bytes() != trained.bundle.read_bytes()


def test_frozen_tensors_are_those_of_the_pretrained_file(trained):
    pretrained = build.load("efficientnet_lite0")
    network, _ = open_bundle(trained.bundle)
    start, now = pretrained.model.state_dict(), network.backbone.model.state_dict()
    head = {k for k in now if k.startswith(network.backbone.head)}
    assert len(head) == 2
    assert all(torch.equal(start[k], now[k]) for k in now.keys() - head)


def test_small_different_drops_the_stages_behind_the_cut(two_classes, tmp_path):
    run = finetune(two_classes, case="small-different", output=tmp_path / "run")
    network, meta = open_bundle(run.bundle)
    assert meta.dropped
    assert "new_head.weight" in network.tensors()
    assert not any(k.startswith("features.8") for k in network.tensors())
    answers = load(run.folder).predict(sorted(two_classes.glob("val/*/*")))
    assert {a.label for a in answers} <= set(meta.classes)
    right = sum(a.label in a.path for a in answers) / len(answers)
    assert right == pytest.approx(run.metrics["top1"])


def test_large_similar_solves_the_head_then_trains_everything(two_classes, tmp_path):
    run = finetune(two_classes, case="large-similar", epochs=2, output=tmp_path / "run")
    rows = list(csv.DictReader((run.folder / "history.csv").open()))
    assert [r["phase"] for r in rows] == ["head", "all", "all"]
    pretrained = build.load("efficientnet_lite0")
    network, _ = open_bundle(run.bundle)
    start = pretrained.model.state_dict()
    moved = {k for k, v in network.tensors().items() if not torch.equal(v, start[k])}
    assert "features.0.0.weight" in moved
    assert "features.0.1.running_mean" in moved


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_step_options_are_heard(two_classes, tmp_path, optimizer):
    notes = Notes()
    run = finetune(
        two_classes,
        reporter=notes,
        optimizer=optimizer,
        lr=0.01,
        epochs=3,
        batch_size=4,
        accumulate=2,
        lr_schedule="constant",
        weight_decay=0.0,
        init="normal",
        augment="none",
        output=tmp_path / "run",
    )
    schedule = run.plan.schedule
    assert (schedule.optimizer, schedule.lr, schedule.epochs) == (optimizer, 0.01, 3)
    rows = list(csv.DictReader((run.folder / "history.csv").open()))
    assert len(rows) == 3
    assert {float(r["lr"]) for r in rows} == {0.01}
    assert {"loss", "top1"} <= notes.tasks["training"][-1][2].keys()


def test_nan_keeps_the_best_and_says_what_to_do(two_classes, tmp_path):
    with pytest.raises(UserError, match="loss became") as caught:
        finetune(
            two_classes,
            freeze="features.5",
            optimizer="sgd",
            lr=1e18,
            epochs=4,
            lr_schedule="constant",
            output=tmp_path / "run",
        )
    assert "--lr" in caught.value.hint


def test_unreadable_images_are_named_and_left_out(flowers, tmp_path):
    data = tmp_path / "data"
    for folder in (p for p in flowers.iterdir() if p.is_dir()):
        (data / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (data / folder.name / path.name).hardlink_to(path)
    bad = data / sorted(p.name for p in data.iterdir())[0] / "broken.jpg"
    bad.write_bytes(next(flowers.glob("*/*.jpg")).read_bytes()[:300])
    for options in ({}, {"freeze": "none", "epochs": 1, "batch_size": 8}):
        notes = Notes()
        run = finetune(data, reporter=notes, output=tmp_path / f"run{len(options)}", **options)
        assert any("broken.jpg" in w for w in notes.warnings)
        assert run.status == "finished"
        counts = json.loads((run.folder / "run.json").read_text())["dataset"]["classes"]
        assert sum(sum(c.values()) for c in counts.values()) == 40


def test_a_run_folder_is_never_overwritten(trained, flowers):
    before = trained.bundle.stat().st_mtime_ns
    with pytest.raises(UserError, match="not overwritten"):
        finetune(flowers, output=trained.folder)
    assert trained.bundle.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "--lr -1 is out of range"),
        ({"epochs": 0, "batch_size": 0}, "--epochs 0 .*--batch-size 0"),
        ({"augment": "heavy"}, "--augment"),
        ({"model": "vgg61"}, "vgg61"),
        ({"views": 3, "augment": "none"}, "--views 3"),
        ({"views": 3, "case": "large-different"}, "--views"),
        ({"device": "gpu"}, "--device"),
    ],
)
def test_wrong_options_are_told_before_anything_is_made(two_classes, tmp_path, options, message):
    with pytest.raises(UsageError) as caught:
        finetune(two_classes, output=tmp_path / "run", **options)
    assert re.search(message, caught.value.message)
    assert not (tmp_path / "run").exists()


def test_without_val_images_nothing_is_claimed(flowers, tmp_path):
    classes = sorted(p for p in flowers.iterdir() if p.is_dir())[:2]
    for folder in classes:
        (tmp_path / "data" / folder.name).mkdir(parents=True)
        path = next(folder.iterdir())
        (tmp_path / "data" / folder.name / path.name).hardlink_to(path)
    run = finetune(tmp_path / "data", reporter=Notes(), output=tmp_path / "run")
    assert run.metrics["n"] == 0
    assert run.metrics["top1"] is None
