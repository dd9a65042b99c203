"""Progress, notes and warnings on stderr."""

import sys
import time
from types import TracebackType
from typing import Any

from tlcli.reporter import Reporter
from tlcli.text import printable

UNITS = {"bytes": (1_000_000, "MB")}
"""How much of a unit is told as one of another."""


class Terminal(Reporter):
    """Draws progress bars on a terminal; elsewhere writes one line for each finished task."""

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
        if not self.quiet:
            self._line(text, "")

    def warn(self, text: str) -> None:
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
        if self.quiet or not total:
            return
        per, unit = UNITS.get(unit, (1, unit))
        now = time.perf_counter()
        first = self.started.setdefault(task, now)
        finished = done >= total
        if sys.stderr.isatty():
            self._bar(task, done / per, total / per, unit, figures)
        elif finished:
            seconds = now - first
            digits = 0 if per == 1 else 1
            rate = f", {total / per / seconds:.{digits}f} a second" if seconds > 0 else ""
            sys.stderr.write(f"{task}: {total / per:.{digits}f} {unit} in {seconds:.1f} s{rate}\n")
        if finished:
            self.started.pop(task, None)

    def _bar(
        self, task: str, done: float, total: float, unit: str, figures: dict[str, float]
    ) -> None:
        from rich import progress
        from rich.console import Console

        if self.bars is None:
            self.bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[figures]}"),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bars.start()
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=total, figures="")
        handle = self.tasks[task]
        elapsed = time.perf_counter() - self.started[task]
        rate = f"{done / elapsed:.0f} {unit}/s " if elapsed > 0.5 else ""
        printable = " ".join(_figure(k, v) for k, v in figures.items())
        self.bars.update(handle, completed=done, figures=f"{rate}{printable}")
        if done >= total:
            self.bars.remove_task(handle)
            del self.tasks[task]


def _figure(name: str, value: float) -> str:
    return f"{name} {value:.1%}" if name == "top1" else f"{name} {value:.3f}"
