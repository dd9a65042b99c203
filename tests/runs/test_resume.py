"""Runs that are stopped, killed and extended: nothing is lost, and every byte is the same."""

import csv
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import TWO_PHASES
from tests.fakes import RecordingReporter, fail_at_step
from tlcli import finetune, load
from tlcli.artifacts import checkpoint
from tlcli.artifacts import run_folder as run
from tlcli.backbones import build
from tlcli.errors import UsageError, UserError
from tlcli.planning.plan import Plan
from tlcli.runs import writer as record


@pytest.fixture(scope="module")
def whole(tmp_path_factory, flowers, lenet):
    """The run with those options that nothing has stopped."""
    return finetune(flowers, output=tmp_path_factory.mktemp("whole") / "run", **lenet)


def same(a, b):
    """Whether two runs came to the same in everything but time."""
    assert a.bundle.read_bytes() == b.bundle.read_bytes()
    rows = [list(csv.DictReader((r.folder / "history.csv").open())) for r in (a, b)]
    untimed = [[r["phase"], r["epoch"], r["lr"], r["train_loss"], r["val_loss"]] for r in rows[0]]
    assert untimed == [
        [r["phase"], r["epoch"], r["lr"], r["train_loss"], r["val_loss"]] for r in rows[1]
    ]
    assert json.loads((b.folder / "run.json").read_text())["status"] == "finished"
    return True


# In this process, at chosen moments


@pytest.mark.parametrize("step", [1, 2, 5, 11])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    whole, flowers, lenet, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch:
        fail_at_step(patch, step)
        stopped = finetune(flowers, output=tmp_path / "run", **lenet)
    assert stopped.status == "interrupted"
    assert load(stopped.folder)  # the best so far, to work with
    assert run.state_file(stopped.folder).exists() == (step > 1)
    assert same(whole, finetune(resume=stopped.folder))


def test_batchnorm_and_accumulated_gradients_go_on_as_they_were(two_classes, tmp_path, monkeypatch):
    options = {**TWO_PHASES, "epochs": 2, "optimizer": "sgd", "accumulate": 2}
    straight = finetune(two_classes, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 3)
        finetune(two_classes, output=tmp_path / "b", **options)
    notes = RecordingReporter()
    assert same(straight, finetune(resume=tmp_path / "b", reporter=notes))
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
    state = checkpoint.read(run.state_file(tmp_path / "b"))
    assert state["fit"]["steps"]["part"]["batches"] == 1
    assert set(state["fit"]["now"]) == set(straight_trained(straight))
    assert same(straight, finetune(resume=tmp_path / "b"))


def test_augmentation_averages_and_a_picked_rate_go_on_as_they_were(
    flowers, lenet, tmp_path, monkeypatch
):
    several = {"augment": "standard,mixup", "average": "ema", "lr": "find", "balance": "sampler"}
    options = lenet | several | {"checkpoint_minutes": 0}
    straight = finetune(flowers, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 5)
        finetune(flowers, output=tmp_path / "b", **options)
    assert same(straight, finetune(resume=tmp_path / "b"))
    told = [json.loads((tmp_path / x / "run.json").read_text())["augmentation"] for x in "ab"]
    assert told[0] == told[1]
    assert told[0]["transforms"]["mixup"] == 0.2


def straight_trained(trained):
    """The names of the tensors that a run has trained: the frozen ones are in no checkpoint."""
    from tlcli.inference.load import open_bundle

    network, _ = open_bundle(trained.bundle)
    return network.tensors([s for s in network.stages if s.name in trained.plan.trained])


def test_a_run_that_had_saved_no_state_begins_anew(whole, flowers, lenet, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tlcli.recipes.train_phase.fit", lambda *_, **__: raise_it(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(flowers, output=tmp_path / "run", **lenet)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    notes = RecordingReporter()
    assert same(whole, finetune(resume=tmp_path / "run", reporter=notes))
    assert any("training starts over" in note for note in notes.notes)


def raise_it(error):
    raise error


def test_the_plan_is_not_measured_again(flowers, tmp_path, monkeypatch):
    options = {"optimizer": "adamw", "epochs": 2, "batch_size": 8, "checkpoint_minutes": 0}
    straight = finetune(flowers, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 3)
        with pytest.raises(KeyboardInterrupt):  # nothing to save but the state
            finetune(flowers, output=tmp_path / "b", **options)
    monkeypatch.setattr("tlcli.recipes.decide.measure_folder", None)
    assert same(straight, finetune(resume=tmp_path / "b"))
    plan = json.loads((tmp_path / "b" / "run.json").read_text())["plan"]
    assert plan["evidence"]["sweep"]
    assert json.loads(json.dumps(Plan.from_dict(plan).to_dict())) == plan


def test_the_process_may_end_while_it_measures_or_saves(
    whole, flowers, lenet, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(record.RunWriter, "save", lambda *_: raise_it(SystemExit))
        with pytest.raises(SystemExit):
            finetune(flowers, output=tmp_path / "run", **lenet)
    assert same(whole, finetune(resume=tmp_path / "run"))


def test_an_interrupted_resume_leaves_the_bundle_that_was_there(
    whole, flowers, lenet, tmp_path, monkeypatch
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
    assert same(whole, finetune(resume=tmp_path / "run"))


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
    assert same(straight, finetune(resume=tmp_path / "b"))
    moved = data.rename(tmp_path / "moved")
    (tmp_path / "b").rename(tmp_path / "c")
    more = finetune(moved, resume=tmp_path / "c", epochs="+1")
    assert more.plan.training.epochs == 4


# Longer


def test_a_finished_run_is_extended_along_the_longer_schedule(
    flowers, lenet, tmp_path, monkeypatch
):
    first = finetune(flowers, output=tmp_path / "a", **lenet)
    with pytest.raises(UserError, match="has finished"):
        finetune(resume=first.folder)
    longer = finetune(resume=first.folder, epochs="+2")
    rows = list(csv.DictReader((longer.folder / "history.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "1", "2", "3", "4", "5"]
    assert "epochs = 5\n" in (longer.folder / "options.toml").read_text()
    planned = finetune(flowers, output=tmp_path / "five", **{**lenet, "epochs": 5})
    theirs = list(csv.DictReader((planned.folder / "history.csv").open()))
    # The rate from the fourth epoch on is that of a run of five.
    assert [r["lr"] for r in rows[-2:]] == [r["lr"] for r in theirs[-2:]]
    # Stopped while it is extended, before and after its first new state is saved.
    for step in (1, 15):
        finetune(flowers, output=tmp_path / f"b{step}", **lenet)
        with monkeypatch.context() as patch:
            fail_at_step(patch, step)
            finetune(resume=tmp_path / f"b{step}", epochs="+2")
        assert same(longer, finetune(resume=tmp_path / f"b{step}"))


def test_an_extension_that_is_killed_at_its_first_file_goes_on(
    flowers, lenet, tmp_path, monkeypatch
):
    finetune(flowers, output=tmp_path / "run", **lenet)
    with monkeypatch.context() as patch:
        patch.setattr("tlcli.artifacts.run_folder.write_run_json", lambda *_: raise_it(SystemExit))
        with pytest.raises(SystemExit):
            finetune(resume=tmp_path / "run", epochs="+2")
    assert run.read_run_json(tmp_path / "run")["status"] == "finished"
    assert finetune(resume=tmp_path / "run").plan.training.epochs == 5


def test_patience_is_remembered_and_an_extension_begins_it_anew(flowers, lenet, tmp_path):
    options = {**lenet, "epochs": 20, "patience": 1, "lr": 1e-9}  # nothing gets better
    first = finetune(flowers, output=tmp_path / "run", **options)
    rows = list(csv.DictReader((first.folder / "history.csv").open()))
    done = int(rows[-1]["epoch"])
    assert done < 20
    more = finetune(resume=tmp_path / "run", epochs="+3")
    assert more.plan.training.epochs == done + 3
    assert len(list(csv.DictReader((more.folder / "history.csv").open()))) > len(rows)


def test_a_solved_head_has_nothing_to_extend_and_keeps_no_checkpoint(trained):
    assert not (trained.folder / "checkpoint").exists()
    with pytest.raises(UserError, match="was solved") as caught:
        finetune(resume=trained.folder, epochs="+10")
    assert "--optimizer adamw" in caught.value.hint


# What does not fit


def test_options_that_contradict_the_run_are_refused_by_name(whole, tlcli):
    before = (whole.folder / "run.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        finetune(resume=whole.folder, lr=0.5, epochs=4, model="vgg16", cache=False)
    told = caught.value.message
    assert "--lr 0.5 (the run has 0.0003)" in told
    assert "--epochs 4 (the run has 3)" in told
    assert "--model vgg16 (the run has lenet5)" in told
    assert "cache" not in told
    assert "+10" in caught.value.hint
    # The same value, given or chosen by the plan, is none of them.
    for given in ({"lr": 0.0003}, {"epochs": 3}, {"batch_size": 3}, {"device": "cpu"}):
        with pytest.raises(UserError, match="has finished"):
            finetune(resume=whole.folder, **given)
    result = tlcli("finetune", "--resume", whole.folder, "--epochs", "4", "--seed", "1")
    assert result.exit_code == 2
    assert "--seed 1 (the run has 0)" in result.stderr
    assert (whole.folder / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": "ten"}, "not a whole number"),
        ({"epochs": "+0"}, "at least one"),
        ({"config": "x.toml"}, "own options"),
        ({"cache_limit": -1.0}, "out of range"),
    ],
)
def test_wrong_usage_of_resume(whole, given, said):
    with pytest.raises(UsageError, match=said):
        finetune(resume=whole.folder, **given)


def test_added_epochs_need_a_run(flowers):
    with pytest.raises(UsageError, match="adds epochs to an existing run"):
        finetune(flowers, epochs="+3")


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


def test_damaged_files_are_told(whole, tmp_path):
    for damage in (b"", b"no tensors", run.state_file(whole.folder).read_bytes()[:-100]):
        folder = tmp_path / str(len(damage))
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "run.json").write_bytes((whole.folder / "run.json").read_bytes())
        run.state_file(folder).write_bytes(damage)
        with pytest.raises(UserError, match="damaged"):
            finetune(resume=folder)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no run"):
            finetune(resume=nothing)


def test_two_processes_cannot_train_one_run(whole):
    with run.locked(whole.folder), pytest.raises(UserError, match="another process"):
        finetune(resume=whole.folder, epochs="+1")


def test_too_little_memory_leaves_what_can_be_resumed(whole, flowers, lenet, tmp_path, monkeypatch):
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
        assert same(whole, finetune(resume=folder))


def test_a_checkpoint_gives_back_what_was_put_in(tmp_path):
    state = {"a": [1, 2.5, None, True, "x"], "b": {0: {"c": torch.arange(3)}, 1: {}}}
    state["d"] = {"e": torch.tensor(1.5), "f": [torch.zeros(2, 0)]}
    checkpoint.save(tmp_path / "state", state)
    back = checkpoint.read(tmp_path / "state")
    assert back["a"] == state["a"]
    assert torch.equal(back["b"][0]["c"], state["b"][0]["c"])
    assert back["b"][1] == {}
    assert back["d"]["e"] == 1.5
    assert back["d"]["f"][0].shape == (2, 0)
    assert checkpoint.read(tmp_path / "nothing") is None


# Real processes, really killed


def command(log, limit, arguments):
    """The body of a process: the program with those arguments."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from tlcli.__main__ import main

    sys.argv = ["tlcli", *arguments]
    main()


@pytest.fixture(scope="module")
def program():
    """Starts `tlcli` in a process of its own, from one that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tlcli.recipes.finetune", "tlcli.cli.progress"])

    def start(log, *arguments, limit=0):
        process = context.Process(target=command, args=(log, limit, [str(a) for a in arguments]))
        process.start()
        return process

    start(os.devnull, "--version").join()  # the imports are no part of what is timed
    return start


def flags(options):
    """The options as a command line has them."""
    return [part for k, v in options.items() for part in (f"--{k.replace('_', '-')}", v)]


def killed_at_random(program, data, options, folder, kills, seed):
    """Runs that are killed, in all at least so many times, and compared with one that is not.

    How many of the processes went on with a run.
    """
    draw = random.Random(seed)
    new = ["finetune", data, *flags(options), "--quiet"]
    started = time.perf_counter()
    process = program(folder / "whole.log", *new, "-o", folder / "whole")
    process.join()
    took = time.perf_counter() - started
    assert process.exitcode == 0, (folder / "whole.log").read_text()
    whole = (folder / "whole" / "model.safetensors").read_bytes()
    killed = resumed = number = 0
    while killed < kills:
        number += 1
        there, log, code = folder / f"run-{number}", folder / f"{number}.log", None
        while code != 0:
            going_on = (there / "run.json").exists()
            resumed += going_on
            again = ["finetune", "--resume", there, "--quiet"] if going_on else [*new, "-o", there]
            process = program(log, *again)
            process.join(draw.random() * took if killed < kills else None)
            process.kill()
            process.join()
            code = process.exitcode
            assert code in (0, -signal.SIGKILL), log.read_text()
            killed += code != 0
        assert (there / "model.safetensors").read_bytes() == whole
        assert not list(there.rglob(".*"))  # nothing half written is left
    return resumed


def test_killed_at_random_moments(program, flowers, lenet, tmp_path):
    options = {**lenet, "epochs": 8}
    killed_at_random(program, flowers, options, tmp_path, kills=4, seed=time.time_ns())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["small", "default"])
def test_killed_at_many_random_moments(program, flowers, lenet, tmp_path, network):
    """The default has BatchNorm and dropout; its state is saved every half second."""
    large = {**TWO_PHASES, "checkpoint_minutes": 0.01, "batch_size": 8}
    options = {**lenet, "epochs": 8} if network == "small" else large
    assert killed_at_random(program, flowers, options, tmp_path, kills=24, seed=0) > 10


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_best_and_the_run_goes_on(
    program, flowers, lenet, tmp_path, number, code
):
    options = {**lenet, "epochs": 50}
    folder, log = tmp_path / "run", tmp_path / "log"
    process = program(log, "finetune", flowers, *flags(options), "-o", folder)
    while "epoch 2/50" not in (log.read_text() if log.exists() else ""):
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code, log.read_text()
    assert f"tlcli finetune --resume {folder}" in log.read_text()
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert load(folder).predict(next(flowers.glob("*/*.jpg")))[0].label
    assert finetune(resume=folder).status == "finished"


def test_a_full_disk_costs_checkpoints_and_leaves_what_can_be_resumed(
    program, whole, flowers, lenet, tmp_path
):
    folder, log = tmp_path / "run", tmp_path / "log"
    # No file may grow larger than run.json: neither the state nor the bundle can be written.
    process = program(log, "finetune", flowers, *flags(lenet), "-o", folder, limit=100_000)
    process.join()
    told = log.read_text()
    assert process.exitcode == 1, told
    assert "continues without this checkpoint" in told
    assert f"--resume {folder}" in told
    assert "Traceback" not in told
    assert {p.name for p in folder.iterdir()} <= {"run.json", "options.toml", "checkpoint"}
    assert same(whole, finetune(resume=folder))


def test_what_killed_writers_left_goes_with_the_next_start(tmp_path):
    """Ours and safetensors' own; nothing else."""
    (tmp_path / "checkpoint").mkdir()
    left = [
        ".run.json.x1.part.json",
        "checkpoint/.tmpdsjtcq",
        "checkpoint/.state.a.part.safetensors",
    ]
    kept = ["run.json", ".notes", "checkpoint/state.safetensors"]
    for name in left + kept:
        (tmp_path / name).write_text("")
    with run.locked(tmp_path):
        pass
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert there == set(kept)
