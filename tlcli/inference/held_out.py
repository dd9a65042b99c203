"""The images that the runs of trained models held out, found again in the folders they split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.artifacts import bundle
from tlcli.artifacts import run_folder as run
from tlcli.data.dataset import scan
from tlcli.data.labelled import LabeledImage
from tlcli.errors import UserError
from tlcli.inference.classifier import Classifier
from tlcli.reporter import Reporter
from tlcli.text import printable


@dataclass(frozen=True)
class Split:
    """How a run split a folder of images into training and validation images."""

    root: Path
    val_fraction: float
    seed: int


def held_out_images(
    classifier: Classifier, data: Path, reporter: Reporter
) -> list[LabeledImage] | None:
    """Return the images of `data` that no network of the classifier was trained on.

    None where no network was trained on a part of `data`: then all of it is new to them.

    Raises:
        UserError: each image was used to train one of the networks.
    """
    each = [_held_out_by(member.source, data, reporter) for member in classifier.members]
    parts = [part for part in each if part is not None]
    if not parts:
        return None
    common = set.intersection(*map(set, parts))
    images = [image for image in parts[0] if image in common]
    if not images:
        raise UserError(
            f"{printable(data)}: each image was used to train at least one of the models",
            "evaluate them on a folder of other images",
        )
    reporter.note(
        f"evaluating on the {len(images)} images of {printable(data)} that were held out of "
        "training"
    )
    return images


def _held_out_by(source: str, data: Path, reporter: Reporter) -> list[LabeledImage] | None:
    """Return the images of `data` that a bundle's run held out; None unless it split `data`."""
    path = Path(source)
    split = _read_split(run.read_run_json(path.parent)) if path.is_file() else None
    if split is None or split.root.resolve() != data.resolve():
        return None
    dataset = scan(data, val_fraction=split.val_fraction, seed=split.seed, reporter=reporter)
    if dataset.digest != bundle.read_meta(path).dataset:
        reporter.warn(
            f"{printable(data)} is the folder that the model was trained on, but it has changed "
            "since. Most of its images were used in training, so these figures are slightly "
            "optimistic"
        )
        return None
    return [(sample.path, dataset.classes[sample.label]) for sample in dataset.val]


def _read_split(run_json: Mapping[str, Any]) -> Split | None:
    """Read a run's split from its run.json; None where the folder came with its own val part."""
    dataset, options = run_json.get("dataset", {}), run_json.get("options", {})
    if dataset.get("layout") in (None, "train+val"):
        return None
    return Split(Path(dataset.get("root", "")), options["val_fraction"], options["seed"])
