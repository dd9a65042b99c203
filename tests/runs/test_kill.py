"""Runs that are killed, interrupted by signals, or out of disk space."""

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time

import pytest

from tests.conftest import TWO_PHASES
from tests.fakes import same_run
from tlcli import finetune, load
from tlcli.artifacts import run_folder as run

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
    expected = (folder / "whole" / "model.safetensors").read_bytes()
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
        assert (there / "model.safetensors").read_bytes() == expected
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
    program, straight_run, flowers, lenet, tmp_path
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
    assert same_run(straight_run, finetune(resume=folder))


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
