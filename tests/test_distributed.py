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

from tlcli import load
from tlcli.transfer import distributed, shares

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment(cache, **more):
    return os.environ | {"PYTHONPATH": str(ROOT), "TLCLI_CACHE": str(cache)} | more


def torchrun(*arguments, cache, **more):
    """`tlcli finetune` on two processes, to its end."""
    command = [*TORCHRUN, "-m", "tlcli", "finetune", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, check=False, **more
    )


def rows(cache):
    """The cached activations by their shelf's key and the image's and view's."""
    return {
        (shelf.parent.name, row["id"].tobytes()): row["row"].tobytes()
        for shelf in Path(cache).rglob("*.npy")
        for row in np.load(shelf)
    }


def test_alone_everything_is_what_it_was():
    assert (distributed.rank(), distributed.world(), distributed.speaks()) == (0, 1, True)
    order = torch.randperm(10)
    own, batch = shares.parts(order, 4)
    assert own is order
    assert batch == 4
    assert shares.pooled(0.1, 3, 7, 7) == (0.1, 3, 1.0)
    module = torch.nn.Linear(2, 2)
    assert shares.parallel(module) is module
    assert distributed.told(lambda: {"a": order})["a"] is order


def test_two_processes_give_the_bytes_of_one(trained, flowers, tmp_path):
    done = torchrun(flowers, "--output", tmp_path / "run", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'model.safetensors'}\n"
    said = done.stderr.splitlines()
    told = [line for line in said if line.startswith(("plan:", "head solved", "val accuracy"))]
    assert len(told) == 3, done.stderr
    assert any(line.startswith("features, 1 of 2 shares") for line in said)
    # What each computed of the features is, bit for bit, what one process computes of them all.
    mine, theirs = rows(tmp_path / "cache"), rows(os.environ["TLCLI_CACHE"])
    assert len(mine) > 100
    assert mine.keys() <= theirs.keys()
    assert all(theirs[key] == value for key, value in mine.items())
    bundle = tmp_path / "run" / "model.safetensors"
    assert bundle.read_bytes() == trained.bundle.read_bytes()


@pytest.fixture(scope="module")
def agreed(tmp_path_factory):
    """What tests.distributed_worker found alone, and in each of two processes."""
    alone, out = (tmp_path_factory.mktemp(name) for name in ("alone", "two"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    job["LOCAL_WORLD_SIZE"] = "2"
    worker = [sys.executable, "-m", "tests.distributed_worker", "agreement"]
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


@pytest.mark.parametrize("case", ["21", "17", "70", "accumulated"])
def test_steps_on_two_processes_are_those_of_one(agreed, case):
    one, *two = agreed
    for found in two:
        for name in ("weights", "logits", "figures"):
            torch.testing.assert_close(found[f"{name}-{case}"], one[f"{name}-{case}"])
        assert torch.equal(found[f"labels-{case}"], one[f"labels-{case}"])
        assert torch.equal(found[f"weights-{case}"], two[0][f"weights-{case}"])


def test_what_processes_tell_each_other(agreed):
    _, *two = agreed
    for number, found in enumerate(two):
        assert found["told"].tolist() == [0, 1, 2]
        assert found["union"] == 2
        assert found["fair"] == 500
        assert found["level"].tolist() == [1.5, 1.5]
        assert found["apart"].tolist() == [1.0 + number] * 2
