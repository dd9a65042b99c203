"""What augmentation and several views at prediction gain: `python -m tests.bench.augment`.

Trains on the flowers in ../shared, judges each way on the same val images, and writes
docs/measured/augmentation.md. `--only WORD` runs the parts whose name holds WORD (presets, views)
and prints them alone.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torchvision

from tlcli import finetune, load
from tlcli.data.labelled import labelled
from tlcli.inference.evaluate import Evaluation, compare, judge
from tlcli.recipes.finetune import Run
from tlcli.reporter import Reporter

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
FLOWERS = SHARED / "data" / "flowers"
MOBILENET = SHARED / "weights" / "mobilenet_v2-tf-imagenet.pth"
HEAD = "| what | accuracy | 95% interval | against the first row | McNemar's p | seconds |\n" + (
    "|---|---|---|---|---|---|"
)
PRESETS = ("light", "none", "standard", "strong", "light,vflip", "light,pca", "light,pca=1")


def trained(folder: Path, augment: str = "light", **more: object) -> tuple[Run, float]:
    """Train a new head on the last features; return the seconds that it took too."""
    started = time.perf_counter()
    output = folder / f"run-{len(list(folder.iterdir()))}"
    run = finetune(FLOWERS, case="small-similar", augment=augment, output=output, **more)
    return run, time.perf_counter() - started


def judged(runs: Sequence[Run], tta: str = "none") -> tuple[Evaluation, float]:
    """Predict the val images; return the seconds that it took too."""
    classifier = load([run.folder for run in runs], tta=tta)
    _, images = labelled(FLOWERS)
    started = time.perf_counter()
    return judge(classifier, images, Reporter(), "judging"), time.perf_counter() - started


def row(name: str, mine: Evaluation, first: Evaluation, seconds: float) -> str:
    """A line of the table; of `first` itself without a comparison."""
    found = compare(mine, first)
    n = found["n"]
    difference = found["only_this_right"] - found["only_other_right"]
    against = "" if mine is first else f"{difference / n:+.1%}"
    p = "" if mine is first else f"{found['p']:.2f}"
    interval = f"{found['this_low']:.1%} to {found['this_high']:.1%}"
    line = f"| {name} | {found['this_top1']:.1%} of {n} | {interval} | {against} | {p} "
    return f"{line}| {seconds:.0f} |"


def presets(folder: Path) -> Iterator[str]:
    """Presets, for a new head on the last features of one plain and one augmented view."""
    yield HEAD
    first = None
    for augment in PRESETS:
        run, seconds = trained(folder, augment)
        mine, _ = judged([run])
        first = first or mine
        yield row(f"`--augment {augment}`", mine, first, seconds)


def views(folder: Path) -> Iterator[str]:
    """Several views at prediction, of one network and of two."""
    yield HEAD
    lite = trained(folder)[0]
    first, seconds = judged([lite])
    yield row("efficientnet_lite0, `--tta none`", first, first, seconds)
    for tta in ("flip", "5", "10"):
        mine, seconds = judged([lite], tta)
        yield row(f"efficientnet_lite0, `--tta {tta}`", mine, first, seconds)
    mobile = trained(folder, model="mobilenet_v2", weights=str(MOBILENET))[0]
    for name, runs in (("mobilenet_v2", [mobile]), ("both", [lite, mobile])):
        for tta in ("none", "flip"):
            mine, seconds = judged(runs, tta)
            yield row(f"{name}, `--tta {tta}`", mine, first, seconds)


PARTS = {"presets": presets, "views": views}


def main() -> None:
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
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
            "Made by `python -m tests.bench.augment` on the 400 val images of "
            "../shared/data/flowers (1,000 training images). Seconds are for training "
            f"(presets) and for predicting all images (views), on {os.cpu_count()} cores "
            f"({platform.machine()}, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}), shared and noisy.\n" + "\n".join(lines) + "\n"
        )
        (ROOT / "docs" / "measured" / "augmentation.md").write_text(text)


if __name__ == "__main__":
    main()
