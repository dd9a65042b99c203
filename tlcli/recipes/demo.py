"""The demonstration: fine-tune on drawn flowers and predict new drawings, in under a minute."""

from dataclasses import dataclass
from pathlib import Path

from tlcli.data.drawings.sample import draw_sample
from tlcli.inference.load import load
from tlcli.inference.prediction import Prediction
from tlcli.recipes.finetune import Run, finetune
from tlcli.reporter import Reporter

UNSEEN_SEED = 1
"""Seed of the drawings that are predicted. The training images have another seed."""


@dataclass(frozen=True)
class Demo:
    """The run of a demonstration, and predictions of drawings that it was not trained on."""

    run: Run
    predictions: list[Prediction]


def demo(directory: str | Path = "tlcli-demo", *, reporter: Reporter | None = None) -> Demo:
    """Draw flowers, fine-tune the default backbone on them, and predict new drawings.

    Drawings of an earlier demonstration are used again. Each run gets a new run folder.
    """
    directory, reporter = Path(directory), reporter or Reporter()
    flowers, unseen = directory / "flowers", directory / "unseen"
    for folder, per_class, seed in ((flowers, 40, 0), (unseen, 2, UNSEEN_SEED)):
        if not folder.exists():
            draw_sample(folder, per_class=per_class, seed=seed)
            reporter.note(f"drew flowers into {folder} (drawings made by tlcli, not photographs)")
    number = 1
    while (output := directory / f"run-{number}").exists():
        number += 1
    run = finetune(flowers, output=output, reporter=reporter)
    images = sorted(unseen.glob("*/*.jpg"))
    return Demo(run, load(run.folder, reporter=reporter).predict(images))
