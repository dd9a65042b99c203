"""The images that the runs of trained models held out, found again in the folders they split."""

from pathlib import Path

from tlcli.artifacts import bundle
from tlcli.artifacts import run_folder as run
from tlcli.data.dataset import scan
from tlcli.data.labelled import LabeledImage
from tlcli.errors import UserError
from tlcli.inference.classifier import Classifier
from tlcli.reporter import Reporter
from tlcli.text import printable


def held_out_images(
    classifier: Classifier, data: Path, reporter: Reporter
) -> list[LabeledImage] | None:
    """Return the images of `data` that no network of the classifier was trained on.

    None if no network's run split `data`, or `data` has changed since (which is reported): then
    all of it is evaluated.

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
    """Return the images of `data` that a bundle's run held out.

    None if the run did not split `data`, or `data` has changed since, which is reported.
    """
    path = Path(source)
    trained_on = run.read_training_data(path.parent) if path.is_file() else None
    if trained_on is None or trained_on.root.resolve() != data.resolve():
        return None
    split = trained_on.split
    if split is None:
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
