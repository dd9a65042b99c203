"""Measure what augmentation and test-time views gain: `python -m tests.bench.augment`.

Trains on the flowers in ../shared, evaluates every setting on the same validation images, and
writes docs/measured/augmentation.md.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.common import MOBILENET, environment, make_parser, write_page
from tests.paths import FLOWERS
from tlcli import finetune, load
from tlcli.data.labelled import find_labeled_images
from tlcli.inference.evaluate import Evaluation, compare_evaluations, predict_labeled
from tlcli.recipes.finetune import Run
from tlcli.reporter import Reporter

HEADER = "| what | accuracy | 95% interval | against the first row | McNemar's p | seconds |\n" + (
    "|---|---|---|---|---|---|"
)
PRESETS = ("light", "none", "standard", "strong", "light,vflip", "light,pca", "light,pca=1")


def train_head(folder: Path, augment: str = "light", **options: Any) -> tuple[Run, float]:
    """Train a linear head on the last stage's features; return the run and its seconds."""
    started = time.perf_counter()
    output = folder / f"run-{len(list(folder.iterdir()))}"
    run = finetune(FLOWERS, case="small-similar", augment=augment, output=output, **options)
    return run, time.perf_counter() - started


def evaluate(runs: Sequence[Run], tta: str = "none") -> tuple[Evaluation, float]:
    """Evaluate runs as one ensemble on the validation images; return the result and its seconds."""
    classifier = load([run.folder for run in runs], tta=tta)
    _, images = find_labeled_images(FLOWERS)
    started = time.perf_counter()
    result = predict_labeled(classifier, images, Reporter(), "evaluating")
    return result, time.perf_counter() - started


def row(name: str, this: Evaluation, first: Evaluation, seconds: float) -> str:
    """Format a row of the table; the first one is compared with nothing."""
    found = compare_evaluations(this, first)
    n = found["n"]
    difference = found["only_this_right"] - found["only_other_right"]
    against = "" if this is first else f"{difference / n:+.1%}"
    p = "" if this is first else f"{found['p']:.2f}"
    interval = f"{found['this_low']:.1%} to {found['this_high']:.1%}"
    line = f"| {name} | {found['this_top1']:.1%} of {n} | {interval} | {against} | {p} "
    return f"{line}| {seconds:.0f} |"


def presets(folder: Path) -> Iterator[str]:
    """Presets, for a new head on the last features of one plain and one augmented view."""
    yield HEADER
    first = None
    for augment in PRESETS:
        run, seconds = train_head(folder, augment)
        this, _ = evaluate([run])
        first = first or this
        yield row(f"`--augment {augment}`", this, first, seconds)


def views(folder: Path) -> Iterator[str]:
    """Several views at prediction, of one network and of two."""
    yield HEADER
    lite = train_head(folder)[0]
    first, seconds = evaluate([lite])
    yield row("efficientnet_lite0, `--tta none`", first, first, seconds)
    for tta in ("flip", "5", "10"):
        this, seconds = evaluate([lite], tta)
        yield row(f"efficientnet_lite0, `--tta {tta}`", this, first, seconds)
    mobile = train_head(folder, model="mobilenet_v2", weights=str(MOBILENET))[0]
    for name, runs in (("mobilenet_v2", [mobile]), ("both", [lite, mobile])):
        for tta in ("none", "flip"):
            this, seconds = evaluate(runs, tta)
            yield row(f"{name}, `--tta {tta}`", this, first, seconds)


PARTS = {"presets": presets, "views": views}


def main() -> None:
    parser = make_parser(__doc__, only="run one part (presets or views), and only print it")
    only = parser.parse_args().only
    lines = []
    for name, part in PARTS.items():
        if only not in name:
            continue
        lines += ["", f"## {name.capitalize()}", "", (part.__doc__ or "").strip(), ""]
        with tempfile.TemporaryDirectory() as folder:
            for line in part(Path(folder)):
                print(line, flush=True)
                lines.append(line)
    if not only:
        text = (
            "# Augmentation, measured\n\n"
            "Made by `python -m tests.bench.augment` on the 400 validation images of "
            "../shared/data/flowers (1,000 training images). Seconds are for training "
            f"(presets) and for predicting all images (views), on {environment()}, shared and "
            "noisy.\n"
        )
        write_page("augmentation.md", text + "\n".join(lines))


if __name__ == "__main__":
    main()
