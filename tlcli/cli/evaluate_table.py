"""The result of `tlcli evaluate` for people: figures, then tables, most important first."""

from collections.abc import Iterator
from typing import Any, TextIO

from tlcli.cli import output
from tlcli.metrics.metrics import CalibrationError, Metrics

MAX_TABLE_CLASSES = 15
"""With more classes than this the confusion matrix is too wide for a terminal."""
MAX_PAIRS_IN_TABLE = 10
"""Pairs of classes that are listed as most often confused."""


def show_evaluation(result: dict[str, Any], out: TextIO) -> None:
    """Write the result of `tlcli.evaluate`."""
    metrics = Metrics.from_dict(result)
    for line in _figures(metrics):
        out.write(f"{line}\n")
    if result["against"]:
        out.write(_comparison(result["against"]))
    for title, rows in _tables(metrics, result):
        out.write(f"\n{title}\n")
        output.write_table(rows, list(rows[0]), out)


def _figures(metrics: Metrics) -> Iterator[str]:
    """Yield the figures for all images together."""
    yield _accuracy("top-1", metrics.top1, metrics.top1_low, metrics.top1_high, metrics.n)
    if metrics.top5 is not None:
        yield _accuracy("top-5", metrics.top5, metrics.top5_low, metrics.top5_high, metrics.n)
    yield f"balanced accuracy {metrics.balanced_accuracy:.1%}"
    yield _calibration(metrics.calibration)


def _accuracy(name: str, value: Any, low: Any, high: Any, n: int) -> str:
    return f"{name} {value:.1%} (95% interval {low:.1%} to {high:.1%}, n = {n})"


def _calibration(error: CalibrationError) -> str:
    raw = ""
    if error.temperature != 1:
        raw = f"; {error.raw_ece:.3f} without the temperature of {error.temperature:.2f}"
    interval = f"95% interval {error.ece_low:.3f} to {error.ece_high:.3f}"
    return f"expected calibration error {error.ece:.3f} ({interval}{raw})"


def _comparison(against: dict[str, Any]) -> str:
    """Return the lines about the other model."""
    this, other = (
        _accuracy(
            "top-1",
            against[f"{name}_top1"],
            against[f"{name}_low"],
            against[f"{name}_high"],
            against["n"],
        )
        for name in ("this", "other")
    )
    return (
        f"this model: {this}\n"
        f"other model: {other}, {against['model']}\n"
        f"only this model is right: {against['only_this_right']}, only the other: "
        f"{against['only_other_right']}; McNemar's exact test: p = {against['p']:.2g}\n"
    )


def _tables(metrics: Metrics, result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield a title and rows for each table that is not empty."""
    classes = metrics.classes
    yield "classes", [{"class": name, **vars(of)} for name, of in metrics.per_class.items()]
    if len(classes) <= MAX_TABLE_CLASSES:
        matrix = zip(classes, metrics.confusion, strict=True)
        yield (
            "confusion matrix (rows: true class, columns: predicted class)",
            [{"true": name, **dict(zip(classes, row, strict=True))} for name, row in matrix],
        )
    if result["confused"]:
        yield "most often confused", result["confused"][:MAX_PAIRS_IN_TABLE]
    if result["mistakes"]:
        yield "most confident mistakes", result["mistakes"]
