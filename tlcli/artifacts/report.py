"""report.html: one page about a run that needs no other file. The drawings' numbers are made here,
the page itself is templates/report.html."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.artifacts.atomic import write_text
from tlcli.artifacts.render import render
from tlcli.metrics.metrics import Metrics
from tlcli.planning.plan import Plan

MAX_CLASSES_IN_MATRIX = 40
"""Above this many classes the matrix is too large to look at; the most confused pairs are listed
instead."""
MAX_LISTED_PAIRS = 20
"""Most confused pairs that are listed."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 56, 16, 10, 28
"""Pixels of a chart and of its margins."""


@dataclass(frozen=True)
class Report:
    """The content of the page.

    Attributes:
        dataset: name of the folder of images.
        weights: label of the weights that training started from.
        status: how the run ended.
        compute: device and precision.
        history: one row per epoch, as in history.csv.
        lr_curve: learning rates, growing, and the smoothed loss at each; empty without a range
            test.
        found_lr: the learning rate that the range test chose.
        warnings: about the images.
    """

    dataset: str
    backbone: str
    weights: str
    status: str
    seconds: float
    compute: str
    seed: int
    plan: Plan
    metrics: Metrics
    history: Sequence[Mapping[str, Any]] = ()
    lr_curve: Sequence[tuple[float, float]] = ()
    found_lr: float | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """The numbers of a line chart in an SVG of `WIDTH` x `HEIGHT`.

    Attributes:
        lines: the points of each line by its name, as SVG has them.
        x_labels: position and text of the labels below the chart.
        y_labels: position and text of the labels on the left.
        marker: the x of a vertical line, if there is one.
    """

    lines: Mapping[str, str]
    x_labels: Sequence[tuple[float, str]]
    y_labels: Sequence[tuple[float, str]]
    marker: float | None = None


def write_report(folder: Path, report: Report) -> None:
    """Write report.html into a run folder."""
    write_text(folder / "report.html", render_report(report))


def render_report(report: Report) -> str:
    """Return the page as HTML; all names in it are escaped."""
    classes = report.metrics.classes
    return render(
        "report.html",
        report=report,
        pairs=confused_classes(report.metrics) if len(classes) > MAX_CLASSES_IN_MATRIX else None,
        accuracy=accuracy_chart(report.history) if len(report.history) > 1 else None,
        lr_test=lr_chart(report.lr_curve, report.found_lr) if report.lr_curve else None,
        chart={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM},
    )


def confused_classes(metrics: Metrics) -> list[tuple[int, str, str]]:
    """Return the most confused pairs: images, true class, predicted class; most images first."""
    pairs = (
        (count, true, predicted)
        for true, row in zip(metrics.classes, metrics.confusion, strict=True)
        for predicted, count in zip(metrics.classes, row, strict=True)
        if count and true != predicted
    )
    return sorted(pairs, reverse=True)[:MAX_LISTED_PAIRS]


def accuracy_chart(history: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw training and validation accuracy by epoch.

    Args:
        history: at least two rows; an accuracy may be None.
    """
    keys = ("train_top1", "val_top1")
    low = max(0.0, min(row[key] for row in history for key in keys if row[key] is not None) - 0.02)
    n = len(history)
    lines = {
        key: _points(
            (_x(i / (n - 1)), _y((row[key] - low) / (1 - low + 1e-9)))
            for i, row in enumerate(history)
            if row[key] is not None
        )
        for key in keys
    }
    step = max(1, math.ceil((n - 1) / 10))
    return Chart(
        lines,
        x_labels=[(_x(i / (n - 1)), str(i + 1)) for i in range(0, n, step)],
        y_labels=[(_y(share), f"{low + share * (1 - low):.0%}") for share in (0, 0.5, 1)],
    )


def lr_chart(curve: Sequence[tuple[float, float]], found_lr: float | None) -> Chart:
    """Draw the loss by learning rate, on a logarithmic axis, with the chosen rate as a marker.

    Args:
        curve: learning rates, growing, and the loss at each; at least two.
    """
    first, last = math.log10(curve[0][0]), math.log10(curve[-1][0])
    losses = [loss for _, loss in curve]
    low, high = min(losses), max(losses)

    def place(lr: float) -> float:
        return _x(min(1.0, max(0.0, (math.log10(lr) - first) / (last - first))))

    powers = range(math.ceil(first), math.floor(last) + 1)
    return Chart(
        {
            "loss": _points(
                (place(lr), _y((loss - low) / (high - low + 1e-12))) for lr, loss in curve
            )
        },
        x_labels=[(place(10.0**power), f"1e{power}") for power in powers],
        y_labels=[(_y(0), f"{low:.3g}"), (_y(1), f"{high:.3g}")],
        marker=None if found_lr is None else place(found_lr),
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
