"""Accuracy of a classifier on labeled images, and its comparison with another."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from tlcli.data.labelled import LabeledImage, find_labeled_images
from tlcli.errors import UserError
from tlcli.inference.classifier import Classifier
from tlcli.inference.held_out import held_out_images
from tlcli.inference.load import load
from tlcli.metrics.classification import compute_metrics
from tlcli.metrics.intervals import mcnemar_test, wilson_interval
from tlcli.reporter import Reporter
from tlcli.text import printable, shorten_list

WORST = 10
"""Mistakes that are listed by default."""
MIN_PROBABILITY = 1e-12
"""Smallest probability whose logarithm is taken; smaller ones are raised to it."""


class LoadOptions(TypedDict, total=False):
    """Options of `tlcli.load` that an evaluation takes too."""

    weights: str
    device_name: str
    tta: str


@dataclass(frozen=True)
class Evaluation:
    """A classifier's predictions for labeled images.

    Attributes:
        images: the n images that could be read, each with the name of its class.
        probabilities: float32 [n, classes].
        skipped: path and problem of the images that could not be read.
    """

    classifier: Classifier
    images: list[LabeledImage]
    probabilities: Tensor
    skipped: dict[str, str]

    @property
    def labels(self) -> Tensor:
        """True classes as indices into the classifier's classes, int64 [n]."""
        position = {name: i for i, name in enumerate(self.classifier.classes)}
        return torch.tensor([position[label] for _, label in self.images], dtype=torch.int64)

    @property
    def correct(self) -> dict[Path, bool]:
        """Whether the prediction for each image is correct."""
        hits = self.probabilities.argmax(1) == self.labels
        return {path: hit for (path, _), hit in zip(self.images, hits.tolist(), strict=True)}


def evaluate(
    model: str | Path | Sequence[str | Path] | None,
    data: str | Path,
    *,
    against: str | Path | None = None,
    worst: int = WORST,
    reporter: Reporter | None = None,
    **loading: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Evaluate a classifier in fp32 on a folder of images with one sub-folder per class.

    Classes are matched by name. If the folder has `test` or `val` beside `train`, that part is
    evaluated (`test` if there is one). If the model's own run split the folder, the images that
    it held out are evaluated.

    Args:
        model: as for `tlcli.load`, and so is `loading`: weights, device_name, tta by name.
        against: another bundle, compared on the same images and views by McNemar's exact test.
        worst: how many mistakes to list, the most confident first.

    Returns:
        The fields of `tlcli.metrics.metrics.Metrics`, and `model`, `data`, `confused` (pairs of
        classes, most frequent first), `mistakes` (path, true, answer, probability), `skipped`
        (path, error), `unknown_classes` (folders that the model has no class for; left out),
        `absent_classes` (classes without images) and `against` (None, or the comparison).

    Raises:
        UserError: the model or the folder cannot be used, or they share no class.
    """
    reporter = reporter or Reporter()
    classifier = load(model, precision="fp32", reporter=reporter, **loading)
    images = _images_to_evaluate(classifier, Path(data), reporter)
    known = _with_known_class(images, classifier, reporter)
    evaluation = predict_labeled(classifier, known, reporter, "evaluating")
    result = {"model": classifier.source, "data": str(data), **_figures(evaluation, images, worst)}
    if against is not None:
        loading.pop("weights", None)
        other = load(against, precision="fp32", reporter=reporter, **loading)
        known = _with_known_class(evaluation.images, other, reporter)
        result["against"] = compare_evaluations(
            evaluation, predict_labeled(other, known, reporter, "comparing")
        )
    return result


def _figures(evaluation: Evaluation, images: Sequence[LabeledImage], worst: int) -> dict[str, Any]:
    """Return the reported figures of one classifier; `images` are all of the folder."""
    classifier = evaluation.classifier
    log_probabilities = evaluation.probabilities.clamp_min(MIN_PROBABILITY).log()
    classes, found = set(classifier.classes), {name for _, name in images}
    metrics = compute_metrics(
        log_probabilities, evaluation.labels, classifier.classes, classifier.temperature
    )
    return {
        **metrics.to_dict(),
        "confused": confused_pairs(evaluation),
        "mistakes": worst_mistakes(evaluation, worst),
        "skipped": [{"path": path, "error": why} for path, why in evaluation.skipped.items()],
        "unknown_classes": sorted(found - classes),
        "absent_classes": sorted(classes - found),
        "against": None,
    }


def predict_labeled(
    classifier: Classifier, images: Sequence[LabeledImage], reporter: Reporter, task: str
) -> Evaluation:
    """Predict images whose classes the classifier knows.

    Raises:
        UserError: none of the images could be read.
    """
    readable: list[LabeledImage] = []
    rows: list[Tensor] = [torch.empty(0, len(classifier.classes))]
    skipped: dict[str, str] = {}
    done = 0
    for batch in classifier.batches(path for path, _ in images):
        some = images[done : done + len(batch.problems)]
        for (path, _), problem in zip(some, batch.problems, strict=True):
            if problem is not None:
                skipped[str(path)] = problem
                reporter.warn(f"{path}: {problem}")
        good = [problem is None for problem in batch.problems]
        readable += [image for image, is_good in zip(some, good, strict=True) if is_good]
        rows.append(batch.probabilities[torch.tensor(good)])
        done += len(some)
        reporter.progress(task, done, len(images))
    if not readable:
        raise UserError(f"none of the {len(images)} images could be read", "see the warnings above")
    return Evaluation(classifier, readable, torch.cat(rows), skipped)


def compare_evaluations(this: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Compare two classifiers on the images that both could read, by McNemar's exact test."""
    this_correct, other_correct = this.correct, other.correct
    common = [path for path in this_correct if path in other_correct]
    n = len(common)
    only_this = sum(this_correct[p] and not other_correct[p] for p in common)
    only_other = sum(other_correct[p] and not this_correct[p] for p in common)
    result: dict[str, Any] = {"model": other.classifier.source, "n": n}
    for name, correct in (("this", this_correct), ("other", other_correct)):
        hits = sum(correct[p] for p in common)
        low, high = wilson_interval(hits, n)
        result |= {f"{name}_top1": hits / n, f"{name}_low": low, f"{name}_high": high}
    p = mcnemar_test(only_this, only_other)
    return result | {"only_this_right": only_this, "only_other_right": only_other, "p": p}


def confused_pairs(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the pairs of a true class and a wrong prediction, most frequent first."""
    classes = evaluation.classifier.classes
    predicted = [classes[i] for i in evaluation.probabilities.argmax(1).tolist()]
    pairs = Counter(
        (true, guess)
        for (_, true), guess in zip(evaluation.images, predicted, strict=True)
        if guess != true
    )
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [{"true": true, "answer": guess, "n": n} for (true, guess), n in ordered]


def worst_mistakes(evaluation: Evaluation, n: int) -> list[dict[str, Any]]:
    """Return the `n` wrong predictions with the highest probabilities."""
    classes = evaluation.classifier.classes
    best = evaluation.probabilities.max(1)
    wrong = (best.indices != evaluation.labels).nonzero()[:, 0].tolist()
    wrong.sort(key=lambda i: -best.values[i].item())
    return [
        {
            "path": str(evaluation.images[i][0]),
            "true": evaluation.images[i][1],
            "answer": classes[int(best.indices[i])],
            "probability": best.values[i].item(),
        }
        for i in wrong[:n]
    ]


def _images_to_evaluate(
    classifier: Classifier, data: Path, reporter: Reporter
) -> list[LabeledImage]:
    held_out = held_out_images(classifier, data, reporter)
    if held_out is not None:
        return held_out
    folder, images = find_labeled_images(data)
    if folder != data:
        reporter.note(f"evaluating {printable(folder)}")
    return images


def _with_known_class(
    images: Sequence[LabeledImage], classifier: Classifier, reporter: Reporter
) -> list[LabeledImage]:
    """Return the images whose class the classifier knows; warn of the others.

    Raises:
        UserError: it knows none of the classes.
    """
    classes = set(classifier.classes)
    known = [image for image in images if image[1] in classes]
    unknown = sorted({name for _, name in images} - classes)
    source = printable(classifier.source)
    if not known:
        raise UserError(
            f"{source} knows none of the classes {shorten_list(unknown)}",
            f"name the folders as its classes: {shorten_list(classifier.classes, 12)}",
        )
    if unknown:
        reporter.warn(
            f"{source} has no class {shorten_list(unknown)}: "
            f"{len(images) - len(known)} images left out"
        )
    return known
