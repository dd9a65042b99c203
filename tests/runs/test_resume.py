"""Interrupted runs that are resumed: nothing is lost, and every byte is the same."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import TWO_PHASES
from tests.fakes import RecordingReporter, fail_at_step, raise_it, same_run
from tlcli import finetune, load
from tlcli.artifacts import checkpoint
from tlcli.artifacts import run_folder as run
from tlcli.backbones import build
from tlcli.errors import UsageError, UserError
from tlcli.planning.plan import Plan
from tlcli.runs import writer as record

# In this process, at chosen moments


@pytest.mark.parametrize("step", [1, 2, 5, 11])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    straight_run, flowers, lenet, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch:
        fail_at_step(patch, step)
        stopped = finetune(flowers, output=tmp_path / "run", **lenet)
    assert stopped.status == "interrupted"
    assert load(stopped.folder)  # the best so far, to work with
    assert run.state_file(stopped.folder).exists() == (step > 1)
    assert same_run(straight_run, finetune(resume=stopped.folder))


def test_batchnorm_and_accumulated_gradients_go_on_as_they_were(two_classes, tmp_path, monkeypatch):
    options = {**TWO_PHASES, "epochs": 2, "optimizer": "sgd", "accumulate": 2}
    straight = finetune(two_classes, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 3)
        finetune(two_classes, output=tmp_path / "b", **options)
    notes = RecordingReporter()
    assert same_run(straight, finetune(resume=tmp_path / "b", reporter=notes))
    assert any("resuming " in note for note in notes.notes)


def test_what_was_drawn_in_the_middle_of_an_epoch_is_drawn_again(flowers, tmp_path, monkeypatch):
    """Dropout's masks, by AdamW."""
    network = build.build("mobilenet_v3_small")
    assert any(isinstance(m, torch.nn.Dropout) for m in network.model.modules())
    file = tmp_path / "weights.safetensors"
    save_file(network.model.state_dict(), file)
    options = {"model": "mobilenet_v3_small", "weights": str(file), "checkpoint_minutes": 0}
    options |= {"freeze": "features", "epochs": 2, "batch_size": 8, "augment": "none"}
    straight = finetune(flowers, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 7)
        finetune(flowers, output=tmp_path / "b", **options)
    state = checkpoint.read_checkpoint(run.state_file(tmp_path / "b"))
    assert state["fit"]["steps"]["part"]["batches"] == 1
    assert set(state["fit"]["now"]) == set(straight_trained(straight))
    assert same_run(straight, finetune(resume=tmp_path / "b"))


def test_augmentation_averages_and_a_picked_rate_go_on_as_they_were(
    flowers, lenet, tmp_path, monkeypatch
):
    several = {"augment": "standard,mixup", "average": "ema", "lr": "find", "balance": "sampler"}
    options = lenet | several | {"checkpoint_minutes": 0}
    straight = finetune(flowers, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 5)
        finetune(flowers, output=tmp_path / "b", **options)
    assert same_run(straight, finetune(resume=tmp_path / "b"))
    told = [json.loads((tmp_path / x / "run.json").read_text())["augmentation"] for x in "ab"]
    assert told[0] == told[1]
    assert told[0]["transforms"]["mixup"] == 0.2


def straight_trained(trained):
    """The names of the tensors that a run has trained: the frozen ones are in no checkpoint."""
    from tlcli.inference.load import open_bundle

    network, _ = open_bundle(trained.bundle)
    return network.tensors([s for s in network.stages if s.name in trained.plan.trained])


def test_a_run_that_had_saved_no_state_begins_anew(
    straight_run, flowers, lenet, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("tlcli.recipes.train_phase.fit", lambda *_, **__: raise_it(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(flowers, output=tmp_path / "run", **lenet)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    notes = RecordingReporter()
    assert same_run(straight_run, finetune(resume=tmp_path / "run", reporter=notes))
    assert any("training starts over" in note for note in notes.notes)


def test_the_plan_is_not_measured_again(flowers, tmp_path, monkeypatch):
    options = {"optimizer": "adamw", "epochs": 2, "batch_size": 8, "checkpoint_minutes": 0}
    straight = finetune(flowers, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 3)
        with pytest.raises(KeyboardInterrupt):  # nothing to save but the state
            finetune(flowers, output=tmp_path / "b", **options)
    monkeypatch.setattr("tlcli.recipes.decide.measure_folder", None)
    assert same_run(straight, finetune(resume=tmp_path / "b"))
    plan = json.loads((tmp_path / "b" / "run.json").read_text())["plan"]
    assert plan["evidence"]["sweep"]
    assert json.loads(json.dumps(Plan.from_dict(plan).to_dict())) == plan


def test_the_process_may_end_while_it_measures_or_saves(
    straight_run, flowers, lenet, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(record.RunWriter, "save", lambda *_: raise_it(SystemExit))
        with pytest.raises(SystemExit):
            finetune(flowers, output=tmp_path / "run", **lenet)
    assert same_run(straight_run, finetune(resume=tmp_path / "run"))


def test_an_interrupted_resume_leaves_the_bundle_that_was_there(
    straight_run, flowers, lenet, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        fail_at_step(patch, 15)
        stopped = finetune(flowers, output=tmp_path / "run", **lenet)
    before = stopped.bundle.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("tlcli.recipes.train_phase.fit", lambda *_, **__: raise_it(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(resume=tmp_path / "run")
    assert stopped.bundle.read_bytes() == before
    assert same_run(straight_run, finetune(resume=tmp_path / "run"))


def test_unreadable_images_stay_left_out(flowers, lenet, tmp_path, monkeypatch):
    data = tmp_path / "data"
    for path in flowers.glob("*/*.jpg"):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / path.parent.name / path.name).hardlink_to(path)
    name = sorted(p.name for p in data.iterdir())[0]
    (data / name / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    straight = finetune(data, output=tmp_path / "a", reporter=RecordingReporter(), **lenet)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 5)
        finetune(data, output=tmp_path / "b", reporter=RecordingReporter(), **lenet)
    left_out = json.loads((tmp_path / "b" / "run.json").read_text())["dataset"]["left_out"]
    assert left_out == [f"{name}/broken.jpg"]
    monkeypatch.setattr("tlcli.features.sources.find_unreadable", None)  # not looked for again
    assert same_run(straight, finetune(resume=tmp_path / "b"))
    moved = data.rename(tmp_path / "moved")
    (tmp_path / "b").rename(tmp_path / "c")
    more = finetune(moved, resume=tmp_path / "c", epochs="+1")
    assert more.plan.training.epochs == 4


# What does not fit


def test_options_that_contradict_the_run_are_refused_by_name(straight_run, tlcli):
    before = (straight_run.folder / "run.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        finetune(resume=straight_run.folder, lr=0.5, epochs=4, model="vgg16", cache=False)
    told = caught.value.message
    assert "--lr 0.5 (the run has 0.0003)" in told
    assert "--epochs 4 (the run has 3)" in told
    assert "--model vgg16 (the run has lenet5)" in told
    assert "cache" not in told
    assert "+10" in caught.value.hint
    # The same value, given or chosen by the plan, is none of them.
    for given in ({"lr": 0.0003}, {"epochs": 3}, {"batch_size": 3}, {"device": "cpu"}):
        with pytest.raises(UserError, match="has finished"):
            finetune(resume=straight_run.folder, **given)
    result = tlcli("finetune", "--resume", straight_run.folder, "--epochs", "4", "--seed", "1")
    assert result.exit_code == 2
    assert "--seed 1 (the run has 0)" in result.stderr
    assert (straight_run.folder / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": "ten"}, "not a whole number"),
        ({"epochs": "+0"}, "at least one"),
        ({"config": "x.toml"}, "own options"),
        ({"cache_limit": -1.0}, "out of range"),
    ],
)
def test_wrong_usage_of_resume(straight_run, given, said):
    with pytest.raises(UsageError, match=said):
        finetune(resume=straight_run.folder, **given)


def test_other_images_weights_and_versions_are_refused_with_the_difference(
    flowers, lenet, tmp_path, monkeypatch
):
    data = tmp_path / "data"
    for path in flowers.glob("*/*.jpg"):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / path.parent.name / path.name).hardlink_to(path)
    file = tmp_path / "weights.safetensors"
    save_file(build.build("lenet5").model.state_dict(), file)
    finetune(data, output=tmp_path / "run", **{**lenet, "weights": str(file)})
    gone = next(data.glob("daisy/*"))
    gone.unlink()
    with pytest.raises(UserError, match="daisy has 7 images, not 8"):
        finetune(resume=tmp_path / "run", epochs="+1")
    gone.hardlink_to(flowers / "daisy" / gone.name)
    save_file(build.build("lenet5").model.state_dict(), file)
    with pytest.raises(UserError, match="other weights"):
        finetune(resume=tmp_path / "run", epochs="+1")
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    with pytest.raises(UserError, match=r"torch .* \(here 9.9.9\)"):
        finetune(resume=tmp_path / "run", epochs="+1")


def test_damaged_files_are_told(straight_run, tmp_path):
    for damage in (b"", b"no tensors", run.state_file(straight_run.folder).read_bytes()[:-100]):
        folder = tmp_path / str(len(damage))
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "run.json").write_bytes((straight_run.folder / "run.json").read_bytes())
        run.state_file(folder).write_bytes(damage)
        with pytest.raises(UserError, match="damaged"):
            finetune(resume=folder)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"no run|not a run"):
            finetune(resume=nothing)


def test_two_processes_cannot_train_one_run(straight_run):
    with run.locked(straight_run.folder), pytest.raises(UserError, match="another process"):
        finetune(resume=straight_run.folder, epochs="+1")


def test_too_little_memory_leaves_what_can_be_resumed(
    straight_run, flowers, lenet, tmp_path, monkeypatch
):
    for number, error in enumerate(
        (
            MemoryError(),
            torch.OutOfMemoryError("CUDA out of memory"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        )
    ):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            fail_at_step(patch, 5, error, after=False)
            with pytest.raises(UserError, match="not enough memory") as caught:
                finetune(flowers, output=folder, **lenet)
        assert f"--resume {folder}" in caught.value.hint
        assert same_run(straight_run, finetune(resume=folder))


def test_a_checkpoint_gives_back_what_was_put_in(tmp_path):
    state = {"a": [1, 2.5, None, True, "x"], "b": {0: {"c": torch.arange(3)}, 1: {}}}
    state["d"] = {"e": torch.tensor(1.5), "f": [torch.zeros(2, 0)]}
    checkpoint.save_checkpoint(tmp_path / "state", state)
    back = checkpoint.read_checkpoint(tmp_path / "state")
    assert back["a"] == state["a"]
    assert torch.equal(back["b"][0]["c"], state["b"][0]["c"])
    assert back["b"][1] == {}
    assert back["d"]["e"] == 1.5
    assert back["d"]["f"][0].shape == (2, 0)
    assert checkpoint.read_checkpoint(tmp_path / "nothing") is None
