"""Progress, notes and warnings on stderr."""

import sys
import time
from types import TracebackType
from typing import Any

from tlcli.reporter import Reporter
from tlcli.text import printable

UNITS = {"bytes": (1_000_000, "MB")}
"""Units that are shown in a larger one: how many make it up, and its name."""
MIN_RATE_SECONDS = 0.5
"""Seconds of a task before a bar shows its rate."""


class Terminal(Reporter):
    """Draws progress bars on a terminal; elsewhere writes a line for each finished task."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        self.started: dict[str, float] = {}

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def note(self, text: str) -> None:
        """Write a line, unless quiet."""
        if not self.quiet:
            self._line(text, "")

    def warn(self, text: str) -> None:
        """Write a warning."""
        self._line(f"warning: {text}", "yellow")

    def _line(self, text: str, style: str) -> None:
        text = printable(text)
        if self.bars is not None:
            from rich.text import Text

            self.bars.console.print(Text(text, style=style), soft_wrap=True)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def progress(
        self, task: str, done: int, total: int, unit: str = "images", **figures: float
    ) -> None:
        """Move the task's bar, or without a terminal write a line once the task is finished."""
        if self.quiet or not total:
            return
        size, unit = UNITS.get(unit, (1, unit))
        now = time.perf_counter()
        first = self.started.setdefault(task, now)
        finished = done >= total
        if sys.stderr.isatty():
            self._move_bar(task, done / size, total / size, unit, figures)
        elif finished:
            seconds = now - first
            digits = 0 if size == 1 else 1
            rate = f", {total / size / seconds:.{digits}f} per second" if seconds > 0 else ""
            amount = f"{total / size:.{digits}f} {unit}"
            sys.stderr.write(f"{task}: {amount} in {seconds:.1f} s{rate}\n")
        if finished:
            self.started.pop(task, None)

    def _move_bar(
        self, task: str, done: float, total: float, unit: str, figures: dict[str, float]
    ) -> None:
        if self.bars is None:
            self.bars = _new_bars()
            self.bars.start()
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=total, figures="")
        bar = self.tasks[task]
        elapsed = time.perf_counter() - self.started[task]
        rate = f"{done / elapsed:.0f} {unit}/s " if elapsed > MIN_RATE_SECONDS else ""
        shown = " ".join(_figure(name, value) for name, value in figures.items())
        self.bars.update(bar, completed=done, figures=f"{rate}{shown}")
        if done >= total:
            self.bars.remove_task(bar)
            del self.tasks[task]


def _new_bars() -> Any:
    """Return Rich's display of progress bars on stderr, which vanish when they are done."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[figures]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _figure(name: str, value: float) -> str:
    return f"{name} {value:.1%}" if name == "top1" else f"{name} {value:.3f}"
