"""Fakes and helpers that tests of several folders share."""

import csv
import json
import random

from PIL import Image

from tlcli.reporter import Reporter
from tlcli.training.loop import TrainingLoop


class RecordingReporter(Reporter):
    """A reporter that keeps everything that is reported.

    Attributes:
        tasks: The (done, total, figures) of each report of progress, by task.
        units: What each task counts.
    """

    def __init__(self):
        self.notes, self.warnings, self.tasks, self.units = [], [], {}, {}

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, task, done, total, unit="images", **figures):
        self.units[task] = unit
        self.tasks.setdefault(task, []).append((done, total, figures))


def noise_image(size, seed=0):
    """Draw an RGB image of random pixels."""
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


def fail_at_step(monkeypatch, number, error=KeyboardInterrupt, after=True):
    """Make a training step of this process fail, by its number, after or before it is taken."""
    count = 0
    update = TrainingLoop._update

    def failing(self):
        nonlocal count
        count += 1
        if after or count != number:
            update(self)
        if count == number:
            raise error

    monkeypatch.setattr(TrainingLoop, "_update", failing)


def same_run(a, b):
    """Check that two runs are the same in everything but time."""
    assert a.bundle.read_bytes() == b.bundle.read_bytes()
    rows = [list(csv.DictReader((r.folder / "history.csv").open())) for r in (a, b)]
    untimed = [[r["phase"], r["epoch"], r["lr"], r["train_loss"], r["val_loss"]] for r in rows[0]]
    assert untimed == [
        [r["phase"], r["epoch"], r["lr"], r["train_loss"], r["val_loss"]] for r in rows[1]
    ]
    assert json.loads((b.folder / "run.json").read_text())["status"] == "finished"
    return True


def raise_it(error):
    """Raise an error inside an expression."""
    raise error
