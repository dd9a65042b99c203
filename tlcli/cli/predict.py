"""tlcli predict."""

from pathlib import Path

import typer

from tlcli.cli import output
from tlcli.cli.inputs import TTA, WITHOUT_MODEL

COLUMNS = ("path", "label", "probability", "error", "ood")


def command(
    images: list[str] = typer.Argument(
        None,
        metavar="IMAGE...",
        help="Image files, folders of them, or quoted patterns; - reads paths from stdin, one a "
        "line.",
    ),
    model: list[str] = typer.Option(
        None,
        "--model",
        "-m",
        help="A bundle, a run folder, or a backbone's name (predicts ImageNet's classes). "
        "Several, each with -m, are an ensemble.",
        show_default=WITHOUT_MODEL,
    ),
    top: int = typer.Option(None, "--top", "-k", min=1, help="Add the K likeliest classes."),
    labels_only: bool = typer.Option(
        False, "--labels-only", help="The label alone; as TSV and CSV without a header line."
    ),
    threshold: float = typer.Option(
        0.0, "--threshold", min=0, max=1, help="Less probable answers become unknown."
    ),
    reject: bool = typer.Option(
        False, "--reject", help="Images unlike the training images (ood above 1) become unknown."
    ),
    tta: str = TTA,
    format_name: str = output.FORMAT,
    file: Path = output.FILE,
    null: bool = typer.Option(False, "-0", help="Paths on stdin end with NUL, not newline."),
    stdin_image: bool = typer.Option(False, "--stdin-image", help="Stdin is one image's bytes."),
    weights: str = typer.Option("auto", help="Weights of a backbone; as in finetune."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    precision: str = typer.Option(
        "auto",
        help="fp32, bf16 or (CUDA) fp16; auto is bf16 where this machine has it and at least 99% "
        "of the val answers were the same in it (and says so), else fp32.",
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No notes on stderr."),
) -> None:
    """Name the class of each image, with its probability."""
    from tlcli.cli import inputs
    from tlcli.cli.progress import Terminal
    from tlcli.inference.load import load

    if labels_only and top:
        raise output.UsageError("--labels-only has no room for --top", "leave one out")
    columns = ("label",) if labels_only else (*COLUMNS, *(["top"] if top else []))
    format_name = output.resolve(format_name, file, "tsv" if labels_only else "table")
    named = inputs.images(images or [], null, stdin_image)
    failed = 0

    with Terminal(quiet) as terminal:
        chosen = inputs.model_or_default(model)
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
        answers = classifier.stream(named, top=top or 1, threshold=threshold, reject=reject)

        def rows() -> output.Rows:
            nonlocal failed
            for answer in answers:
                row = {c: getattr(answer, c) for c in COLUMNS} | {"path": answer.path or "-"}
                if answer.error is not None:
                    failed += 1
                    terminal.warn(f"{row['path']}: {answer.error}")
                row["top"] = [{"label": n, "probability": p} for n, p in answer.top]
                yield row

        output.write(rows(), columns, format_name, file=file, header=not labels_only)
    if failed:
        raise typer.Exit(3)
