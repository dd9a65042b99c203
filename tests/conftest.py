"""Fixtures that tests of several folders share: images, runs and the command line."""

import os
import signal
import tempfile

# Before torch is imported, here and in the processes that tests start: see CONTRIBUTING.md.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from typer.testing import CliRunner

from tests.paths import DATA, SHARED

# Tests must not fill the cache of the person who runs them.
CACHE = tempfile.TemporaryDirectory(prefix="tlcli-tests-")
os.environ["TLCLI_CACHE"] = CACHE.name

# A script's background jobs ignore Ctrl-C, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared():
    """Return the folder of real photographs and weights beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real photographs and weights in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    """Draw five classes of eight flowers; no test may change them."""
    from tlcli.data.drawings.sample import draw_sample

    folder = tmp_path_factory.mktemp("data") / "flowers"
    draw_sample(folder, per_class=8)
    return folder


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory, flowers):
    """Link two of the drawn classes, six images each, into train and val, for slow tests."""
    folder = tmp_path_factory.mktemp("data") / "two"
    for name in sorted(p.name for p in flowers.iterdir() if p.is_dir())[:2]:
        for number, path in enumerate(sorted((flowers / name).iterdir())[:6]):
            target = folder / ("val" if number >= 4 else "train") / name
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).hardlink_to(path)
    return folder


# The head is solved, then everything is trained for a few steps, and each step is saved.
TWO_PHASES = {"case": "large-similar", "epochs": 3, "batch_size": 3, "checkpoint_minutes": 0}


@pytest.fixture(scope="session")
def lenet(tmp_path_factory):
    """Return the options of a run in two phases on a small network, which takes about a second."""
    import torch
    from safetensors.torch import save_file

    from tlcli.backbones import build

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    save_file(build.build("lenet5").model.state_dict(), file)
    return {"model": "lenet5", "weights": str(file), **TWO_PHASES}


@pytest.fixture(scope="module")
def straight_run(tmp_path_factory, flowers, lenet):
    """Train with the options of `lenet`, without an interruption."""
    from tlcli.recipes.finetune import finetune

    return finetune(flowers, output=tmp_path_factory.mktemp("straight") / "run", **lenet)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, flowers):
    """Train the default model on the drawn flowers: a new head on the last stage's features.

    Forty drawings are so close to the similarity threshold that a few others would change the plan,
    so the similarity is given.
    """
    from tlcli.recipes.finetune import finetune

    output = tmp_path_factory.mktemp("runs") / "trained"
    return finetune(flowers, similarity="similar", output=output)


@pytest.fixture
def small_batches(monkeypatch):
    """Compute in batches of four: padded to 32, a few images would cost as much as many."""
    monkeypatch.setattr("tlcli.runtime.device.Compute.batch_size", 4)


@pytest.fixture
def tlcli(monkeypatch):
    """Return a function that runs the command line in this process: `tlcli("predict", path)`."""
    from tlcli.cli import app

    monkeypatch.delenv("TLCLI_MODEL", raising=False)

    def run(*arguments, **more):
        return CliRunner().invoke(app, [str(a) for a in arguments], **more)

    return run
