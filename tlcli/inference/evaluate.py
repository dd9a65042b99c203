"""How good a classifier is on labelled images, and how it compares with another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlcli.artifacts import bundle
from tlcli.artifacts import run_folder as run
from tlcli.data.dataset import scan
from tlcli.data.labelled import Labelled, labelled
from tlcli.errors import UserError
from tlcli.inference.classifier import Classifier
from tlcli.inference.load import load
from tlcli.metrics.classification import score
from tlcli.metrics.intervals import mcnemar_test, wilson_interval
from tlcli.reporter import Reporter
from tlcli.text import printable, shorten_list

WORST = 10
SMALLEST = 1e-12
"""Probabilities are taken for at least so much before their logarithm."""


@dataclass(frozen=True)
class Evaluation:
    """Answers to labelled images.

    Attributes:
        images: those that could be read, with the class of each; n of them.
        probabilities: float32 [n, classes].
        skipped: the others: path and why.
    """

    classifier: Classifier
    images: list[Labelled]
    probabilities: Tensor
    skipped: dict[str, str]

    @property
    def labels(self) -> Tensor:
        """The true class of each image, an index into the classifier's classes: int64 [n]."""
        place = {name: i for i, name in enumerate(self.classifier.classes)}
        return torch.tensor([place[label] for _, label in self.images], dtype=torch.int64)

    @property
    def right(self) -> dict[Path, bool]:
        """Whether the answer to each image is right."""
        hits = self.probabilities.argmax(1) == self.labels
        return {path: hit for (path, _), hit in zip(self.images, hits.tolist(), strict=True)}


def evaluate(
    model: str | Path | Sequence[str | Path] | None,
    data: str | Path,
    *,
    against: str | Path | None = None,
    worst: int = WORST,
    weights: str = "auto",
    device_name: str = "auto",
    tta: str = "none",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Judge a classifier on a folder of images, one sub-folder a class.

    Classes are matched by name. Of a folder with `test` or `val` beside `train`, that part is
    taken (`test` where there is one); of the folder that the run split itself, the images that
    it held out.

    Args:
        model, weights, device_name, tta: as for `tlcli.load`.
        against: another bundle, compared on the same images and views by McNemar's exact test.
        worst: how many mistakes to list, the surest first.

    Returns:
        What `tlcli.metrics.classification.score` gives, and `model`, `data`, `confused` (pairs of
        classes, most often first), `mistakes` (path, true, answer, probability), `skipped` (path,
        error), `unknown_classes` (folders that the model has no class for; left out),
        `absent_classes` (classes without images) and `against` (None, or the comparison).

    Raises:
        UserError: the model or the folder cannot be used, or they share no class.
    """
    reporter = reporter or Reporter()
    classifier = load(
        model,
        weights=weights,
        device_name=device_name,
        precision="fp32",
        tta=tta,
        reporter=reporter,
    )
    images = _images(classifier, Path(data), reporter)
    judged = judge(classifier, _matched(classifier, images, reporter), reporter, "evaluating")
    names = {name for _, name in images}
    result = {
        "model": classifier.source,
        "data": str(data),
        **score(judged.probabilities.clamp_min(SMALLEST).log(), judged.labels, classifier.classes,
                classifier.temperature),
        "confused": confused(judged),
        "mistakes": mistakes(judged, worst),
        "skipped": [{"path": path, "error": why} for path, why in judged.skipped.items()],
        "unknown_classes": sorted(names - set(classifier.classes)),
        "absent_classes": sorted(set(classifier.classes) - names),
        "against": None,
    }  # fmt: skip
    if against is not None:
        other = load(against, device_name=device_name, precision="fp32", tta=tta, reporter=reporter)
        theirs = judge(other, _matched(other, judged.images, reporter), reporter, "comparing")
        result["against"] = compare(judged, theirs)
    return result


def judge(
    classifier: Classifier, images: Sequence[Labelled], reporter: Reporter, task: str
) -> Evaluation:
    """The classifier's answers to images of classes that it knows."""
    kept: list[Labelled] = []
    rows: list[Tensor] = [torch.empty(0, len(classifier.classes))]
    skipped: dict[str, str] = {}
    done = 0
    for batch in classifier.batches(path for path, _ in images):
        here = images[done : done + len(batch.problems)]
        for (path, _), why in zip(here, batch.problems, strict=True):
            if why is not None:
                skipped[str(path)] = why
                reporter.warn(f"{path}: {why}")
        good = [why is None for why in batch.problems]
        kept += [image for image, yes in zip(here, good, strict=True) if yes]
        rows.append(batch.probabilities[torch.tensor(good)])
        done += len(here)
        reporter.progress(task, done, len(images))
    if not kept:
        raise UserError(f"none of the {len(images)} images could be read", "see the warnings above")
    return Evaluation(classifier, kept, torch.cat(rows), skipped)


def compare(this: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Two classifiers on the images that both could judge, by McNemar's exact test."""
    mine, theirs = this.right, other.right
    common = [path for path in mine if path in theirs]
    n = len(common)
    only_this = sum(mine[p] and not theirs[p] for p in common)
    only_other = sum(theirs[p] and not mine[p] for p in common)
    found: dict[str, Any] = {"model": other.classifier.source, "n": n}
    for name, right in (("this", mine), ("other", theirs)):
        hits = sum(right[p] for p in common)
        low, high = wilson_interval(hits, n)
        found |= {f"{name}_top1": hits / n, f"{name}_low": low, f"{name}_high": high}
    p = mcnemar_test(only_this, only_other)
    return found | {"only_this_right": only_this, "only_other_right": only_other, "p": p}


def confused(judged: Evaluation) -> list[dict[str, Any]]:
    """Pairs of a true class and another that was answered, the most frequent first."""
    classes = judged.classifier.classes
    pairs: dict[tuple[str, str], int] = {}
    answers = judged.probabilities.argmax(1).tolist()
    for (_, truth), answer in zip(judged.images, answers, strict=True):
        if classes[answer] != truth:
            pair = (truth, classes[answer])
            pairs[pair] = pairs.get(pair, 0) + 1
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [{"true": truth, "answer": answer, "n": n} for (truth, answer), n in ordered]


def mistakes(judged: Evaluation, most: int) -> list[dict[str, Any]]:
    """The wrong answers that were given with the highest probability."""
    classes = judged.classifier.classes
    best = judged.probabilities.max(1)
    wrong = (best.indices != judged.labels).nonzero()[:, 0].tolist()
    wrong.sort(key=lambda i: -best.values[i].item())
    return [
        {
            "path": str(judged.images[i][0]),
            "true": judged.images[i][1],
            "answer": classes[int(best.indices[i])],
            "probability": best.values[i].item(),
        }
        for i in wrong[:most]
    ]


def _matched(
    classifier: Classifier, images: Sequence[Labelled], reporter: Reporter
) -> list[Labelled]:
    """The images of classes that the classifier knows; what does not match is told."""
    known, found = set(classifier.classes), {name for _, name in images}
    left = [image for image in images if image[1] in known]
    strange = sorted(found - known)
    if not left:
        raise UserError(
            f"{printable(classifier.source)} knows none of the classes {shorten_list(strange)}",
            f"its classes are: {shorten_list(classifier.classes, 12)}; name the folders so",
        )
    if strange:
        reporter.warn(
            f"{printable(classifier.source)} has no class {shorten_list(strange)}: "
            f"{len(images) - len(left)} images left out"
        )
    return left


def _images(classifier: Classifier, data: Path, reporter: Reporter) -> list[Labelled]:
    held_out = _held_out(classifier, data, reporter)
    if held_out is not None:
        return held_out
    folder, images = labelled(data)
    if folder != data:
        reporter.note(f"evaluating {printable(folder)}")
    return images


def _held_out(classifier: Classifier, data: Path, reporter: Reporter) -> list[Labelled] | None:
    """What was held out of the training of every network that was trained on `data`.

    None where none was: then all of `data` is new to them.
    """
    every = [_held_out_by(member.source, data, reporter) for member in classifier.members]
    parts = [part for part in every if part is not None]
    if not parts:
        return None
    common = set.intersection(*map(set, parts))
    images = [image for image in parts[0] if image in common]
    if not images:
        raise UserError(
            f"{printable(data)}: there is no image that all of the models were not trained on",
            "judge them on a folder of other images",
        )
    reporter.note(f"of {printable(data)} the {len(images)} images that were held out of training")
    return images


def _held_out_by(source: str, data: Path, reporter: Reporter) -> list[Labelled] | None:
    """What the run of a bundle held out of `data`, where it is the folder that it itself split."""
    path = Path(source)
    record = run.read_run_json(path.parent) if path.is_file() else {}
    dataset, options = record.get("dataset", {}), record.get("options", {})
    if dataset.get("layout") in (None, "train+val"):
        return None
    if Path(dataset.get("root", "")).resolve() != data.resolve():
        return None
    split = scan(
        data, val_fraction=options["val_fraction"], seed=options["seed"], reporter=reporter
    )
    if split.digest != bundle.read_meta(path).dataset:
        reporter.warn(
            f"{printable(data)} is the folder that the model was trained on, and has changed "
            "since: "
            "most of its images were trained on, so the figures flatter"
        )
        return None
    return [(sample.path, split.classes[sample.label]) for sample in split.val]
