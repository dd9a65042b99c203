"""One job on two processes, started as people start it."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runtime.distributed_worker import TRAINING_OPTIONS
from tlcli import finetune, load
from tlcli.runtime.distributed import collectives, process_group, sharding

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment(cache, **more):
    return os.environ | {"PYTHONPATH": str(ROOT), "TLCLI_CACHE": str(cache)} | more


def torchrun(*arguments, cache, **more):
    """Run `tlcli finetune` on two processes to its end."""
    command = [*TORCHRUN, "-m", "tlcli", "finetune", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, check=False, **more
    )


def rows(cache):
    """Return the rows of all cache tables, by the table's folder and the row's id."""
    return {
        (table.parent.name, row["id"].tobytes()): row["row"].tobytes()
        for table in Path(cache).rglob("*.npy")
        for row in np.load(table)
    }


def test_a_single_process_gets_its_inputs_back():
    assert (
        process_group.rank(),
        process_group.world_size(),
        process_group.launched_as_rank0(),
    ) == (
        0,
        1,
        True,
    )
    order = torch.randperm(10)
    own, batch = sharding.shard_batches(order, 4)
    assert own is order
    assert batch == 4
    assert (sharding.loss_divisor(7, 7), sharding.n_copies(7)) == (7, 1)
    assert sharding.all_reduce_sum(order) is order
    module = torch.nn.Linear(2, 2)
    assert sharding.wrap_ddp(module) is module
    assert collectives.broadcast_from_first(lambda: {"a": order})["a"] is order


def test_two_processes_give_the_bytes_of_one(trained, flowers, tmp_path):
    done = torchrun(
        flowers, "--similarity", "similar", "--output", tmp_path / "run", cache=tmp_path / "cache"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'model.safetensors'}\n"
    lines = done.stderr.splitlines()
    results = [line for line in lines if line.startswith(("plan:", "head solved", "val accuracy"))]
    assert len(results) == 3, done.stderr
    # Rank 0 alone measures, in the plain view; the other views are shared.
    assert "features (shard 1 of 2): 17 of 34 views read from the cache" in lines
    # The features of each process are, bit for bit, those that a single process computes.
    two, one = rows(tmp_path / "cache"), rows(os.environ["TLCLI_CACHE"])
    assert len(two) > 100
    assert two.keys() <= one.keys()
    assert all(one[key] == value for key, value in two.items())
    bundle = tmp_path / "run" / "model.safetensors"
    assert bundle.read_bytes() == trained.bundle.read_bytes()


@pytest.fixture(scope="module")
def agreed(tmp_path_factory):
    """Run tests.runtime.distributed_worker alone, and as two processes; return what each wrote."""
    alone, out = (tmp_path_factory.mktemp(name) for name in ("alone", "two"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    job["LOCAL_WORLD_SIZE"] = "2"
    worker = [sys.executable, "-m", "tests.runtime.distributed_worker", "agreement"]
    started = [subprocess.Popen([*worker, alone], cwd=ROOT)]
    started += [
        subprocess.Popen(
            [*worker, out], cwd=ROOT, env=os.environ | job | {"RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    files = (alone / "0.pt", out / "0.pt", out / "1.pt")
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("case", ["21", "17", "70", *TRAINING_OPTIONS])
def test_training_on_two_processes_equals_training_on_one(agreed, case):
    one, *two = agreed
    for found in two:
        for name in ("weights", "logits", "figures"):
            torch.testing.assert_close(found[f"{name}-{case}"], one[f"{name}-{case}"])
        assert torch.equal(found[f"labels-{case}"], one[f"labels-{case}"])
        assert torch.equal(found[f"weights-{case}"], two[0][f"weights-{case}"])


def test_collectives_give_every_process_the_same(agreed):
    _, *two = agreed
    for number, found in enumerate(two):
        assert found["broadcast"].tolist() == [0, 1, 2]
        assert found["union"] == 2
        assert found["min_per_process"] == 500
        assert found["averaged"].tolist() == [1.5, 1.5]
        assert found["frozen"].tolist() == [1.0 + number] * 2


@pytest.mark.slow
def test_training_most_of_a_network_learns_as_well_as_in_one_process(flowers, tmp_path):
    options = ["--freeze", "features.5", "--epochs", "3", "--batch-size", "8", "--lr", "0.001"]
    done = torchrun(flowers, "--output", tmp_path / "run", *options, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert len(found) == 3
    assert float(found[-1]["train_loss"]) < float(found[0]["train_loss"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["top1"] >= 0.8
    answers = load(tmp_path / "run").predict(sorted(flowers.glob("*/*.jpg")))
    assert sum(answer.label in answer.path for answer in answers) >= 0.8 * len(answers)


LONG = ["--freeze", "all-but-head", "--optimizer", "adamw", "--epochs", "100000", "--patience", "0"]


@pytest.fixture
def running(two_classes, tmp_path):
    """Start a job that would train forever, wait for its third epoch, and end it with the test."""
    log = tmp_path / "log"
    with log.open("w") as file:
        job = subprocess.Popen(
            [*TORCHRUN, "-m", "tlcli", "finetune", two_classes, *LONG, "-o", tmp_path / "run"],
            env=environment(tmp_path / "cache"),
            stdout=file,
            stderr=file,
        )
    try:
        while "epoch 3/" not in log.read_text():
            assert job.poll() is None, log.read_text()
            time.sleep(0.2)
        yield job, log
    finally:
        if job.poll() is None:
            job.terminate()
            job.wait()


def processes(job):
    """Return the ids of the job's processes by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"\) \S (\d+)", (entry / "stat").read_text())
            variables = (entry / "environ").read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        rank = [v.partition("=")[2] for v in variables if v.startswith("RANK=")]
        if parent and int(parent[1]) == job.pid and rank:
            found[int(rank[0])] = int(entry.name)
    return found


def saved(folder):
    """Return the run's recorded status; check that its model can be loaded."""
    assert load(folder).classes
    return json.loads((folder / "run.json").read_text())["status"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_job_with_what_was_best(running, tmp_path, rank):
    job, log = running
    os.kill(processes(job)[rank], signal.SIGKILL)
    assert job.wait(60) == 1
    text = log.read_text()
    assert text.count("error: another process of this job has ended") == 1, text
    assert "bug in tlcli" not in text
    assert "SIGKILL" in text
    assert f"tlcli finetune --resume {tmp_path / 'run'}" in text
    if rank:  # where it is not the first that died, it saves what there is
        assert f"the best so far is saved in {tmp_path / 'run'}" in text
        assert saved(tmp_path / "run") == "interrupted"


def losses(folder):
    """Return the training losses by phase and epoch."""
    rows = csv.DictReader((folder / "history.csv").open())
    return {(row["phase"], row["epoch"]): float(row["train_loss"]) for row in rows}


@pytest.fixture(scope="module")
def twelve(lenet):
    """Return options of a short run in two phases, without dropout and BatchNorm."""
    return {**lenet, "epochs": 12, "patience": 0}


@pytest.fixture(scope="module")
def straight(flowers, twelve, tmp_path_factory):
    return finetune(flowers, output=tmp_path_factory.mktemp("straight") / "run", **twelve)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("again", ["one process", "two processes"])
def test_a_killed_process_leaves_a_run_that_goes_on(
    straight, flowers, twelve, tmp_path, rank, again
):
    folder, log = tmp_path / "run", tmp_path / "log"
    options = [f"--{k.replace('_', '-')}={v}" for k, v in twelve.items()]
    with log.open("w") as file:
        job = subprocess.Popen(
            [*TORCHRUN, "-m", "tlcli", "finetune", flowers, *options, "-o", folder],
            env=environment(tmp_path / "cache"),
            stdout=file,
            stderr=file,
        )
    while "epoch 3/12" not in log.read_text():
        assert job.poll() is None, log.read_text()
        time.sleep(0.02)
    os.kill(processes(job)[rank], signal.SIGKILL)
    assert job.wait(60) == 1
    assert "error: another process of this job has ended" in log.read_text()
    done = json.loads((folder / "run.json").read_text())
    assert done["status"] == ("interrupted" if rank else "running")
    if again == "two processes":
        resumed = torchrun("--resume", folder, cache=tmp_path / "cache")
        assert resumed.returncode == 0, resumed.stderr
        assert f"{folder}: resuming " in resumed.stderr
    else:
        finetune(resume=folder)
    assert saved(folder) == "finished"
    # Every step was taken once: the losses are those of one uninterrupted process.
    assert losses(folder) == pytest.approx(losses(straight.folder), rel=0.02)


@pytest.mark.slow
def test_ctrl_c_ends_all_with_what_was_best(running, tmp_path):
    job, log = running
    job.send_signal(signal.SIGINT)
    assert job.wait(60) != 0
    text = log.read_text()
    assert text.count("interrupted; the best so far is saved") == 1, text
    assert "error: " not in text
    assert saved(tmp_path / "run") == "interrupted"


@pytest.mark.slow
def test_an_error_in_one_process_is_told_once_and_ends_all(tmp_path):
    command = [*TORCHRUN, "-m", "tests.runtime.distributed_worker", "failing", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == '{"error": "the second one\'s weights are missing"}\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--lr", "-1", "is out of range"),
        ("--batch-size", "1", "is less than one image for each of 2 processes"),
    ],
)
def test_a_wrong_option_is_told_once(flowers, tmp_path, option, value, why):
    done = torchrun(flowers, option, value, cache=tmp_path / "cache", cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count(f"error: {option} {value} {why}") == 1
    assert not (tmp_path / "runs").exists()
