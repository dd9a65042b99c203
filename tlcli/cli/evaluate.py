"""`tlcli evaluate`: evaluate a model on labeled images."""

from pathlib import Path
from typing import Any

import typer

from tlcli.cli.flags import (
    DEFAULT_BUNDLE,
    FORMAT_FLAG,
    OUTPUT_FLAG,
    QUIET_FLAG,
    TTA_FLAG,
    option_flag,
)
from tlcli.errors import UsageError


def command(
    named: list[str] = typer.Argument(
        ...,
        metavar="[BUNDLE] DIR",
        help=f"Bundle, run folder or name of a backbone (default: {DEFAULT_BUNDLE}), and a folder "
        "of images with one sub-folder per class.",
    ),
    model: list[str] = typer.Option(
        None,
        "--model",
        "-m",
        metavar="NAME",
        help="Model to evaluate, in place of BUNDLE. Repeat -m for an ensemble.",
    ),
    against: str = typer.Option(
        None,
        "--against",
        metavar="NAME",
        help="Compare with another bundle on the same images (McNemar's exact test).",
    ),
    confusion: Path = typer.Option(
        None,
        "--confusion",
        metavar="FILE",
        help="Write the confusion matrix to a .csv or .png file.",
    ),
    worst: int = typer.Option(
        10,
        "--worst",
        min=0,
        metavar="INT",
        help="Number of mistakes to list.",
        show_default="10; 0 or more",
    ),
    tta: str = TTA_FLAG,
    format_name: str = FORMAT_FLAG,
    file: Path = OUTPUT_FLAG,
    weights: str = option_flag(
        "weights", help="Weights of a backbone that is given by name; as in finetune."
    ),
    device: str = option_flag("device"),
    quiet: bool = QUIET_FLAG,
) -> None:
    """Evaluate a model on labeled images: accuracy, mistakes and calibration.

    Every accuracy comes with its 95% interval.
    """
    bundles, data = _named(named, model)
    from tlcli.artifacts import confusion_matrix
    from tlcli.cli import output
    from tlcli.cli.progress import Terminal
    from tlcli.inference.evaluate import evaluate

    format_name = output.choose_result_format(format_name, file)
    if confusion is not None:
        confusion_matrix.check_file(confusion)
    with Terminal(quiet) as terminal:
        result = evaluate(
            bundles,
            data,
            against=against,
            worst=worst,
            weights=weights,
            device_name=device,
            tta=tta,
            reporter=terminal,
        )
    if confusion is not None:
        confusion_matrix.write_confusion_matrix(
            confusion, list(result["per_class"]), result["confusion"]
        )
    _write(result, format_name, file)
    if result["skipped"] or result["unknown_classes"]:
        raise typer.Exit(3)


def _named(named: list[str], model: list[str] | None) -> tuple[list[str] | None, str]:
    """Return the models and the folder that the command line names."""
    from tlcli.cli.inputs import model_or_default

    if len(named) > 2:
        raise UsageError(
            "evaluate takes a bundle and a folder", "for example: tlcli evaluate runs/x flowers"
        )
    if model and len(named) == 2:
        raise UsageError(
            f"{named[0]} and --model both name a model",
            f"for an ensemble: tlcli evaluate -m {named[0]} -m {model[0]} {named[1]}",
        )
    return model_or_default(model or named[:-1]), named[-1]


def _write(result: dict[str, Any], format_name: str, file: Path | None) -> None:
    """Write the result to stdout or to `file`."""
    from tlcli.cli import output
    from tlcli.cli.evaluate_table import show_evaluation

    if format_name == "table":
        output.send(lambda out: show_evaluation(result, out), file)
    elif format_name == "json":
        output.send(lambda out: out.write(output.json_text(result)), file)
    else:
        output.write_result([result], list(result), format_name, file=file)
