"""`tlcli predict`: predict the class of each image."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from tlcli.cli.output import Rows
    from tlcli.inference.prediction import Prediction
    from tlcli.reporter import Reporter

PREDICTION_COLUMNS = ("path", "label", "probability", "error", "ood")


def command(
    images: list[str] = typer.Argument(
        None,
        metavar="IMAGE...",
        help="Image files, folders of images, or quoted patterns; - reads paths from stdin, one "
        "per line.",
        show_default=False,
    ),
    model: list[str] = typer.Option(
        None,
        "--model",
        "-m",
        metavar="NAME",
        help="Bundle, run folder, or name of a backbone (which predicts the ImageNet classes). "
        "Repeat -m for an ensemble.",
        show_default=DEFAULT_BUNDLE,
    ),
    top: int = typer.Option(
        None, "--top", "-k", min=1, metavar="K", help="Add the K most probable classes (K >= 1)."
    ),
    labels_only: bool = typer.Option(
        False, "--labels-only", help="Write only the labels; TSV and CSV then have no header line."
    ),
    threshold: float = typer.Option(
        0.0,
        "--threshold",
        min=0,
        max=1,
        metavar="NUMBER",
        help='Label predictions below this probability "unknown".',
        show_default="0; 0 to 1",
    ),
    reject: bool = typer.Option(
        False,
        "--reject",
        help='Label images that are unlike the training images (ood above 1) "unknown".',
    ),
    tta: str = TTA_FLAG,
    format_name: str = FORMAT_FLAG,
    file: Path = OUTPUT_FLAG,
    null: bool = typer.Option(False, "-0", help="Paths on stdin end with NUL, not newline."),
    stdin_image: bool = typer.Option(
        False, "--stdin-image", help="Read the bytes of one image from stdin."
    ),
    weights: str = option_flag(
        "weights", help="Weights of a backbone that is named with --model; as in finetune."
    ),
    device: str = option_flag("device"),
    precision: str = option_flag(
        "precision",
        help="Precision to predict in; auto is bf16 where this machine has it and at least 99% of "
        "the validation predictions were the same as in fp32, else fp32.",
    ),
    quiet: bool = QUIET_FLAG,
) -> None:
    """Predict the class of each image, with its probability."""
    from tlcli.cli import inputs, output
    from tlcli.cli.progress import Terminal
    from tlcli.inference.load import load

    columns = _columns(labels_only, top)
    format_name = output.choose_result_format(format_name, file, "tsv" if labels_only else "table")
    chosen, named = inputs.model_or_default(model), inputs.images(images or [], null, stdin_image)
    counts: Counter[str] = Counter()
    with Terminal(quiet) as terminal:
        classifier = load(
            chosen,
            weights=weights,
            device_name=device,
            precision=precision,
            tta=tta,
            reporter=terminal,
        )
        if chosen is None:
            terminal.note(f"model: {Path(classifier.source).parent}")
        predictions = classifier.stream(named, top=top or 1, threshold=threshold, reject=reject)
        rows = _rows(predictions, terminal, counts)
        output.write_result(rows, columns, format_name, file=file, header=not labels_only)
    if counts["failed"]:
        raise typer.Exit(3)


def _columns(labels_only: bool, top: int | None) -> tuple[str, ...]:
    """Return the columns of the result."""
    if labels_only and top:
        raise UsageError("--labels-only and --top contradict each other", "leave one out")
    if labels_only:
        return ("label",)
    return (*PREDICTION_COLUMNS, "top") if top else PREDICTION_COLUMNS


def _rows(
    predictions: "Iterable[Prediction]", reporter: "Reporter", counts: Counter[str]
) -> "Rows":
    """Yield one row per image; warn about each that failed and count it as "failed"."""
    for prediction in predictions:
        row = {c: getattr(prediction, c) for c in PREDICTION_COLUMNS}
        row["path"] = prediction.path or "-"
        if prediction.error is not None:
            counts["failed"] += 1
            reporter.warn(f"{row['path']}: {prediction.error}")
        row["top"] = [{"label": n, "probability": p} for n, p in prediction.top]
        yield row
