"""The main job on drawn flowers, in under a minute."""

from dataclasses import dataclass
from pathlib import Path

from tlcli.data.drawings.sample import draw_sample
from tlcli.inference.load import load
from tlcli.inference.prediction import Prediction
from tlcli.recipes.finetune import Run, finetune
from tlcli.reporter import Reporter

PREDICTED_SEED = 1
"""The images that are predicted are drawn by another seed: the network has not seen them."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration came to."""

    run: Run
    predictions: list[Prediction]


def demo(directory: str | Path = "tlcli-demo", *, reporter: Reporter | None = None) -> Demo:
    """Draw flowers, fine-tune the default backbone on them, predict new drawings.

    Drawings that are there from an earlier demonstration are used again; each run has a folder
    of its own.
    """
    directory, reporter = Path(directory), reporter or Reporter()
    flowers, unseen = directory / "flowers", directory / "unseen"
    for folder, per_class, seed in ((flowers, 40, 0), (unseen, 2, PREDICTED_SEED)):
        if not folder.exists():
            draw_sample(folder, per_class=per_class, seed=seed)
            reporter.note(f"drew flowers into {folder} (drawings made by tlcli, not photographs)")
    number = 1
    while (output := directory / f"run-{number}").exists():
        number += 1
    run = finetune(flowers, output=output, reporter=reporter)
    images = sorted(unseen.glob("*/*.jpg"))
    return Demo(run, load(run.folder, reporter=reporter).predict(images))
