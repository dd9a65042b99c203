"""The main job, end to end, on real weights and small folders."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from tests.fakes import RecordingReporter
from tlcli import finetune, load
from tlcli.backbones import build
from tlcli.errors import UsageError, UserError
from tlcli.inference.load import open_bundle
from tlcli.training import calibration


def test_drawn_flowers_are_learnt_and_the_run_folder_is_complete(trained):
    assert trained.status == "finished"
    assert trained.metrics["top1"] >= 0.8
    names = {p.name for p in trained.folder.iterdir()}
    assert names == {
        *("model.safetensors", "run.json", "history.csv", "metrics.json", "report.html"),
        "options.toml",
    }
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
    assert meta["format"] == 3
    assert meta["backbone"] == "efficientnet_lite0"
    assert len(meta["classes"]) == 5
    assert meta["preprocessing"]["crop"] == 224
    assert meta["metrics"]["n"] == trained.metrics["n"]
    assert {"plan", "calibration", "dataset", "seed", "versions", "cut"} <= meta.keys()
    assert "seconds" not in json.dumps(meta)


def test_the_same_run_gives_the_same_bytes(trained, flowers, tmp_path):
    again = finetune(flowers, similarity="similar", output=tmp_path / "again")
    assert again.bundle.read_bytes() == trained.bundle.read_bytes()
    other = finetune(flowers, similarity="similar", output=tmp_path / "other", seed=1)
    assert other.bundle.read_bytes() != trained.bundle.read_bytes()


def test_frozen_tensors_are_those_of_the_pretrained_file(trained):
    pretrained = build.load_backbone("efficientnet_lite0")
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


def test_images_kept_aside_for_calibration_are_out_of_both_phases(
    two_classes, tmp_path, monkeypatch
):
    monkeypatch.setattr(calibration, "MIN_HELD_OUT", 2)
    monkeypatch.setattr(calibration, "HELD_OUT_SHARE", 0.4)
    run = finetune(two_classes, case="large-similar", epochs=1, output=tmp_path / "run")
    assert open_bundle(run.bundle)[1].calibration.method == "held-out"
    rows = list(csv.DictReader((run.folder / "history.csv").open()))
    assert [r["phase"] for r in rows] == ["head", "all"]
    assert float(rows[0]["train_top1"]) == 1


def test_large_similar_solves_the_head_then_trains_everything(two_classes, tmp_path):
    run = finetune(two_classes, case="large-similar", epochs=2, output=tmp_path / "both")
    rows = list(csv.DictReader((run.folder / "history.csv").open()))
    assert [r["phase"] for r in rows] == ["head", "all", "all"]
    assert float(rows[0]["train_top1"]) == 1
    # the best of both phases is kept, also where training everything made it worse
    worse = finetune(
        two_classes, case="large-similar", epochs=1, optimizer="sgd", lr=9.0, output=tmp_path / "w"
    )
    rows = list(csv.DictReader((worse.folder / "history.csv").open()))
    assert worse.metrics["top1"] == pytest.approx(max(float(r["val_top1"]) for r in rows))
    run = finetune(two_classes, case="large-different", epochs=2, output=tmp_path / "run")
    pretrained = build.load_backbone("efficientnet_lite0")
    network, _ = open_bundle(run.bundle)
    start = pretrained.model.state_dict()
    moved = {k for k, v in network.tensors().items() if not torch.equal(v, start[k])}
    assert "features.0.0.weight" in moved
    assert "features.0.1.running_mean" in moved


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_step_options_are_heard(two_classes, tmp_path, optimizer):
    notes = RecordingReporter()
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
    config = run.plan.training
    assert (config.optimizer, config.lr, config.epochs) == (optimizer, 0.01, 3)
    rows = list(csv.DictReader((run.folder / "history.csv").open()))
    assert len(rows) == 3
    assert {float(r["lr"]) for r in rows} == {0.01}
    assert {"loss", "top1"} <= notes.tasks["training"][-1][2].keys()


def test_without_val_images_nothing_is_claimed(flowers, tmp_path):
    classes = sorted(p for p in flowers.iterdir() if p.is_dir())[:2]
    for folder in classes:
        (tmp_path / "data" / folder.name).mkdir(parents=True)
        path = next(folder.iterdir())
        (tmp_path / "data" / folder.name / path.name).hardlink_to(path)
    run = finetune(tmp_path / "data", reporter=RecordingReporter(), output=tmp_path / "run")
    assert run.metrics["n"] == 0
    assert run.metrics["top1"] is None


def test_the_classic_recipe_trains_the_classifier_of_vgg16(shared, two_classes, tmp_path):
    weights = shared / "weights" / "vgg16_features-keras-imagenet.pth"
    notes = RecordingReporter()
    run = finetune(
        two_classes,
        reporter=notes,
        model="vgg16",
        weights=str(weights),
        freeze="features",
        optimizer="sgd",
        lr=0.001,
        epochs=1,
        augment="none",
        output=tmp_path / "run",
    )
    assert run.plan.cut == "avgpool"
    assert run.plan.trained == ("classifier.0", "classifier.3", "head")
    assert any("untrained" in note for note in notes.notes)
    network, _ = open_bundle(run.bundle)
    loaded = torch.load(weights, weights_only=True)
    tensors = network.tensors()
    assert all(torch.equal(tensors[k], v.float()) for k, v in loaded.items())
    assert tensors["classifier.6.weight"].shape == (2, 4096)


def test_mixed_precision_trains_and_its_metrics_are_of_fp32(two_classes, tmp_path):
    run = finetune(
        two_classes, precision="bf16", case="large-different", epochs=1, output=tmp_path / "r"
    )
    assert json.loads((run.folder / "run.json").read_text())["compute"] == "cpu bf16"
    answers = load(run.folder).predict(sorted(two_classes.glob("val/*/*")))
    right = sum(a.label in a.path for a in answers) / len(answers)
    assert right == pytest.approx(run.metrics["top1"])


def test_a_test_folder_is_scored_but_has_no_say(two_classes, tmp_path):
    data = tmp_path / "data"
    for path in two_classes.glob("*/*/*.jpg"):
        part, name = path.parts[-3:-1]
        target = data / ("test" if part == "val" else part) / name
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).hardlink_to(path)
    for folder in list((data / "train").iterdir()):
        (data / "val" / folder.name).mkdir(parents=True)
        image = sorted(folder.iterdir())[0]
        image.rename(data / "val" / folder.name / image.name)
    run = finetune(data, output=tmp_path / "run")
    assert run.metrics["n"] == 2
    assert run.metrics["test"]["n"] == 4


def test_activations_that_outgrow_the_limit_are_computed_again_and_it_is_said(
    two_classes, tmp_path, monkeypatch
):
    # At the end of a run its cache is trimmed to the limit: not the one that other tests share.
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "cache"))
    options = {"freeze": "features.5", "epochs": 2, "augment": "none", "batch_size": 4}
    options |= {"precision": "fp32"}  # bf16 moves with the batch size by more
    remembered = finetune(two_classes, output=tmp_path / "a", **options)
    notes = RecordingReporter()
    options |= {"cache_limit": 1e-6}
    recomputed = finetune(two_classes, reporter=notes, output=tmp_path / "b", **options)
    assert any("computed again in every epoch" in note for note in notes.notes)
    # without augmentation both ways train on the same numbers, but for the batch size's 1e-6
    for k, v in open_bundle(remembered.bundle)[0].tensors().items():
        assert torch.allclose(v, open_bundle(recomputed.bundle)[0].tensors()[k], atol=1e-2), k


def test_an_incomplete_group_of_accumulated_batches_steps_in_full(two_classes, tmp_path):
    options = {"optimizer": "sgd", "lr": 3.0, "epochs": 1, "lr_schedule": "constant"}
    options |= {"augment": "none", "momentum": 0.0, "weight_decay": 0.0, "precision": "fp32"}
    # Eight training images: one batch of eight is one step on all, and so are two of four.
    once = finetune(two_classes, batch_size=8, output=tmp_path / "a", **options)
    grouped = finetune(two_classes, batch_size=4, accumulate=9, output=tmp_path / "b", **options)
    a, b = (open_bundle(r.bundle)[0].final_layer.weight for r in (once, grouped))
    # Dropout draws differ, so lengths are compared; divided by nine, b would be a quarter of a.
    assert a.norm().item() == pytest.approx(b.norm().item(), rel=0.3)


def test_a_batch_larger_than_the_data_costs_nothing(two_classes, tmp_path):
    run = finetune(
        two_classes, case="large-different", epochs=1, batch_size=10**8, output=tmp_path / "run"
    )
    assert run.status == "finished"


def test_the_best_so_far_lies_in_the_checkpoint_while_a_run_goes_on(
    two_classes, tmp_path, monkeypatch
):
    from tlcli.runs import writer as record

    monkeypatch.setattr(record, "BEST_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(
        record.RunWriter, "save", lambda *_: None
    )  # as if it had been killed before
    folder = tmp_path / "run"
    finetune(two_classes, optimizer="adamw", epochs=2, augment="none", output=folder)
    assert {p.name for p in folder.iterdir()} == {"checkpoint", "run.json", "options.toml"}
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    image = next(two_classes.glob("val/*/*"))
    assert load(folder / "checkpoint" / "model.safetensors").predict(image)[0].label
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "checkpoint" in caught.value.hint


def test_python_may_give_paths_as_strings(two_classes, tmp_path):
    run = finetune(str(two_classes), output=str(tmp_path / "run"))
    assert run.folder == tmp_path / "run"
    with pytest.raises(UsageError, match="whole number"):
        finetune(two_classes, epochs=1.5)


def test_solving_and_predicting_do_without_the_import_of_torchs_compiler(two_classes, tmp_path):
    """A second, which is most of what a run with everything cached takes beyond its imports."""
    code = (
        "import sys, tlcli\n"
        f"run = tlcli.finetune({str(two_classes)!r}, output={str(tmp_path / 'run')!r})\n"
        "tlcli.load(run.folder).predict([next(iter(sys.argv[1:]))])\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    image = next(two_classes.glob("val/*/*"))
    subprocess.run([sys.executable, "-c", code, str(image)], check=True)
