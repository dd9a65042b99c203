"""Accuracy, per-class metrics and the confusion matrix from logits and labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tlcli.metrics.calibration_error import calibration_error
from tlcli.metrics.intervals import wilson_interval
from tlcli.metrics.metrics import ClassMetrics, Metrics

MACRO_METRICS = ("balanced_accuracy", "macro_f1")
"""Metrics that are averaged over classes rather than over images."""


def compute_metrics(
    logits: Tensor, labels: Tensor, classes: Sequence[str], temperature: float = 1.0
) -> Metrics:
    """Compute all metrics of labeled images.

    Args:
        logits: float [n, classes].
        labels: int64 [n].
        classes: names in the order of the logits.
        temperature: the number that the logits have been divided by.
    """
    n, n_classes = len(labels), len(classes)
    predictions = logits.argmax(1)
    confusion, per_class = _per_class(predictions, labels, n_classes)
    recalls = [of.recall for of in per_class if of.recall is not None]
    correct = int((predictions == labels).sum())
    top5, top5_low, top5_high = None, None, None
    if n_classes > 5:
        in_top5 = (logits.topk(5, dim=1).indices == labels[:, None]).any(1)
        top5, top5_low, top5_high = _proportion(int(in_top5.sum()), n)
    top1, top1_low, top1_high = _proportion(correct, n)
    return Metrics(
        n=n,
        top1=top1,
        top1_low=top1_low,
        top1_high=top1_high,
        top5=top5,
        top5_low=top5_low,
        top5_high=top5_high,
        loss=torch.nn.functional.cross_entropy(logits, labels).item() if n else None,
        balanced_accuracy=sum(recalls) / len(recalls) if recalls else None,
        per_class=dict(zip(classes, per_class, strict=True)),
        confusion=confusion.tolist(),
        calibration=calibration_error(logits, labels, temperature),
    )


def metrics_of_no_images(classes: Sequence[str]) -> Metrics:
    """Return the metrics where nothing was measured."""
    return compute_metrics(torch.empty(0, len(classes)), torch.empty(0, dtype=torch.int64), classes)


def macro_metric(metric: str, predictions: Tensor, labels: Tensor) -> float:
    """Compute one of `MACRO_METRICS`, over the classes that have images.

    Args:
        metric: "balanced_accuracy" (mean recall) or "macro_f1" (mean F1).
        predictions: predicted classes, int64 [n], n > 0.
        labels: true classes, int64 [n].
    """
    n_classes = int(max(predictions.max(), labels.max())) + 1
    per_class = _per_class(predictions, labels, n_classes)[1]
    name = "recall" if metric == "balanced_accuracy" else "f1"
    values = [getattr(of, name) or 0.0 for of in per_class if of.n]
    return sum(values) / len(values)


def _per_class(
    predictions: Tensor, labels: Tensor, n_classes: int
) -> tuple[Tensor, list[ClassMetrics]]:
    """Compute the confusion matrix, int64 [classes, classes], and the metrics of each class."""
    # scikit-learn has these too, but importing it takes longer than a run from the cache may.
    pairs = torch.bincount(labels * n_classes + predictions, minlength=n_classes**2)
    confusion = pairs.view(n_classes, n_classes)
    counts = zip(
        confusion.diag().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist(), strict=True
    )
    per_class = [
        ClassMetrics(
            n=of_class,
            precision=_ratio(correct, predicted),
            recall=_ratio(correct, of_class),
            f1=_ratio(2 * correct, of_class + predicted),
        )
        for correct, of_class, predicted in counts
    ]
    return confusion, per_class


def _proportion(part: int, n: int) -> tuple[float | None, float, float]:
    """Return a proportion and the ends of its interval."""
    return (_ratio(part, n), *wilson_interval(part, n))


def _ratio(part: int, total: int) -> float | None:
    """Divide; None where there is nothing to divide by."""
    return part / total if total else None
