"""Fakes and helpers that tests of several folders share."""

from tlcli.reporter import Reporter
from tlcli.training.loop import TrainingLoop


class RecordingReporter(Reporter):
    """Keep everything that is reported: notes, warnings, and (done, total, figures) by task."""

    def __init__(self):
        self.notes, self.warnings, self.tasks = [], [], {}

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, task, done, total, unit="images", **figures):  # noqa: ARG002
        self.tasks.setdefault(task, []).append((done, total, figures))


def fail_at_step(monkeypatch, number, error=KeyboardInterrupt, after=True):
    """Make the `number`th training step of this process fail, after or before it is taken."""
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
