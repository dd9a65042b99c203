"""tlcli evaluate."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from tlcli.cli import output
from tlcli.cli.inputs import TTA, WITHOUT_MODEL
from tlcli.errors import UsageError

if TYPE_CHECKING:
    from tlcli.metrics.metrics import CalibrationError

MOST_CLASSES = 15
"""Above this many classes a confusion table is too wide for a terminal; the pairs tell more."""
MOST_PAIRS = 10


def command(
    named: list[str] = typer.Argument(
        ...,
        metavar="[BUNDLE] DIR",
        help="A bundle, a run folder or a backbone's name (left out: "
        f"{WITHOUT_MODEL}), and a folder of images, one sub-folder a class.",
    ),
    model: list[str] = typer.Option(
        None,
        "--model",
        "-m",
        help="The bundle by name instead of by place. Several, each with -m, are an ensemble.",
        show_default="BUNDLE",
    ),
    against: str = typer.Option(
        None,
        "--against",
        metavar="OTHER",
        help="Compare with another bundle on the same images (McNemar's exact test).",
    ),
    confusion: Path = typer.Option(
        None, "--confusion", metavar="FILE", help="Write the confusion matrix: .csv or .png."
    ),
    worst: int = typer.Option(10, "--worst", min=0, help="How many mistakes to list."),
    tta: str = TTA,
    format_name: str = output.FORMAT,
    file: Path = output.FILE,
    weights: str = typer.Option("auto", help="Weights of a backbone; as in finetune."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No notes on stderr."),
) -> None:
    """Judge a model on labelled images: accuracy with its interval, mistakes, calibration."""
    if len(named) > 2:
        raise UsageError("evaluate takes a bundle and a folder", "tlcli evaluate runs/x flowers")
    if model and len(named) == 2:
        raise UsageError(
            f"{named[0]} is named beside --model",
            f"for an ensemble: tlcli evaluate -m {named[0]} -m {model[0]} {named[1]}",
        )
    format_name = output.resolve(format_name, file)
    from tlcli.artifacts import confusion_matrix as matrix
    from tlcli.cli.inputs import model_or_default
    from tlcli.cli.progress import Terminal
    from tlcli.inference.evaluate import evaluate

    if confusion is not None:
        matrix.check_file(confusion)
    with Terminal(quiet) as terminal:
        result = evaluate(
            model_or_default(model or named[:-1]),
            named[-1],
            against=against,
            worst=worst,
            weights=weights,
            device_name=device,
            tta=tta,
            reporter=terminal,
        )
    if confusion is not None:
        matrix.write(confusion, list(result["per_class"]), result["confusion"])
    output.send(lambda out: _write(result, format_name, out), file)
    if result["skipped"] or result["unknown_classes"]:
        raise typer.Exit(3)


def _write(result: dict[str, Any], format_name: str, out: TextIO) -> None:
    if format_name == "json":
        out.write(json.dumps(result, indent=2) + "\n")
    elif format_name != "table":
        output.write_rows([result], list(result), format_name, out)
    else:
        for title, rows in _sections(result):
            out.write(f"\n{title}\n" if rows else f"{title}\n")
            if rows:
                output.table(rows, list(rows[0]), out)


def _sections(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What a person wants to see, most important first: a title and a table."""
    from tlcli.metrics.metrics import Metrics

    metrics = Metrics.from_dict(result)
    yield _share("top-1", metrics.top1, metrics.top1_low, metrics.top1_high, metrics.n), []
    if metrics.top5 is not None:
        yield _share("top-5", metrics.top5, metrics.top5_low, metrics.top5_high, metrics.n), []
    yield f"balanced accuracy {metrics.balanced_accuracy:.1%}", []
    yield _calibration(metrics.calibration), []
    if result["against"]:
        yield _against(result["against"]), []
    yield "classes", [{"class": name, **vars(of)} for name, of in metrics.per_class.items()]
    names = metrics.classes
    if len(names) <= MOST_CLASSES:
        rows = zip(names, metrics.confusion, strict=True)
        yield (
            "what is taken for what (rows: the true class)",
            [{"true": name, **dict(zip(names, row, strict=True))} for name, row in rows],
        )
    if result["confused"]:
        yield "most often confused", result["confused"][:MOST_PAIRS]
    if result["mistakes"]:
        yield "worst mistakes", result["mistakes"]


def _share(what: str, value: Any, low: Any, high: Any, n: int) -> str:
    return f"{what} {value:.1%} (95% interval {low:.1%} to {high:.1%}, n = {n})"


def _calibration(of: "CalibrationError") -> str:
    raw = ""
    if of.temperature != 1:
        raw = f"; {of.raw_ece:.3f} before the temperature of {of.temperature:.2f}"
    interval = f"95% interval {of.ece_low:.3f} to {of.ece_high:.3f}"
    return f"expected calibration error {of.ece:.3f} ({interval}{raw})"


def _against(of: dict[str, Any]) -> str:
    this, other = (
        _share("top-1", of[f"{name}_top1"], of[f"{name}_low"], of[f"{name}_high"], of["n"])
        for name in ("this", "other")
    )
    return (
        f"this: {this}\n"
        f"other: {other}, "
        f"{of['model']}\n"
        f"right in this alone: {of['only_this_right']}, in the other alone: "
        f"{of['only_other_right']}; McNemar's exact test: p = {of['p']:.2g}"
    )
