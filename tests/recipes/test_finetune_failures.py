"""The main job where something fails: losses, images, folders, options, weights."""

import json
import re

import pytest
import torch

from tests.fakes import RecordingReporter
from tlcli import finetune, load
from tlcli.backbones import build
from tlcli.errors import UsageError, UserError


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


def test_what_was_best_before_the_loss_went_wrong_is_saved(two_classes, tmp_path, monkeypatch):
    from torch.nn import functional

    calls = []
    right = functional.cross_entropy

    def goes_wrong(logits, labels, **more):
        calls.append(len(labels))
        loss = right(logits, labels, **more)
        return loss * torch.nan if len(calls) > 12 and torch.is_grad_enabled() else loss

    monkeypatch.setattr(functional, "cross_entropy", goes_wrong)
    with pytest.raises(UserError) as caught:
        finetune(
            two_classes,
            optimizer="adamw",
            epochs=50,
            batch_size=4,
            augment="none",
            patience=0,
            output=tmp_path / "run",
        )
    assert "best so far is saved in" in caught.value.message
    assert re.search(r"in epoch \d+, batch \d", caught.value.message)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "diverged"
    assert load(tmp_path / "run").predict(next(two_classes.glob("val/*/*")))[0].label


def test_unreadable_images_are_named_and_left_out(flowers, tmp_path):
    data = tmp_path / "data"
    for folder in (p for p in flowers.iterdir() if p.is_dir()):
        (data / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (data / folder.name / path.name).hardlink_to(path)
    bad = data / sorted(p.name for p in data.iterdir())[0] / "broken.jpg"
    bad.write_bytes(next(flowers.glob("*/*.jpg")).read_bytes()[:300])
    for options in ({}, {"freeze": "none", "epochs": 1, "batch_size": 8}):
        notes = RecordingReporter()
        run = finetune(data, reporter=notes, output=tmp_path / f"run{len(options)}", **options)
        assert any("broken.jpg" in w for w in notes.warnings)
        assert run.status == "finished"
        counts = json.loads((run.folder / "run.json").read_text())["dataset"]["classes"]
        assert sum(sum(c.values()) for c in counts.values()) == 40


def test_a_run_folder_is_never_overwritten(trained, flowers):
    before = trained.bundle.stat().st_mtime_ns
    with pytest.raises(UserError, match="not be overwritten"):
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


def test_weights_with_nan_are_told_plainly(two_classes, tmp_path):
    torch.manual_seed(0)
    state = build.build("squeezenet1_1").model.state_dict()
    state["features.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    for case in ("small-similar", "small-different"):
        with pytest.raises(UserError, match="training was stopped"):
            finetune(
                two_classes,
                reporter=RecordingReporter(),
                model="squeezenet1_1",
                weights=tmp_path / "nan.pth",
                case=case,
                output=tmp_path / "run",
            )
        assert not (tmp_path / "run").exists()
