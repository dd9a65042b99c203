"""What a classifier's answers are worth."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tlcli.metrics.calibration_error import calibration_error
from tlcli.metrics.intervals import wilson_interval


def score(
    logits: Tensor, labels: Tensor, classes: tuple[str, ...], temperature: float = 1.0
) -> dict[str, Any]:
    """Accuracy with its interval, where the mistakes are, and whether confidence is earned.

    Args:
        logits: float [n, classes].
        labels: int64 [n].
        classes: their names.
        temperature: what the logits were divided by already.

    Returns:
        `n`, `top1`, `top1_low`, `top1_high` (95% Wilson), `top5` with its interval (None for five
        classes or fewer), `loss` (mean cross entropy, nats), `balanced_accuracy` (mean recall
        over the classes that have images), `per_class` (name to n, precision, recall, f1),
        `confusion` (rows: true class, columns: answer) and `calibration_error` (see
        there).
    """
    n, k = len(labels), len(classes)
    answers = logits.argmax(1)
    confusion, figures = _figures(answers, labels, k)
    per_class = dict(zip(classes, figures, strict=True))
    recalls = [of["recall"] for of in figures if of["recall"] is not None]
    right = int((answers == labels).sum())
    top5 = (logits.topk(5, dim=1).indices == labels[:, None]).any(1) if len(classes) > 5 else None
    return {
        "n": n,
        **_share("top1", right, n),
        **_share("top5", None if top5 is None else int(top5.sum()), n),
        "loss": torch.nn.functional.cross_entropy(logits, labels).item() if n else None,
        "balanced_accuracy": sum(recalls) / len(recalls) if recalls else None,
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "calibration": calibration_error(logits, labels, temperature),
    }


BY_CLASS = ("balanced_accuracy", "macro_f1")


def by_class(metric: str, said: Tensor, labels: Tensor) -> float:
    """One of `BY_CLASS` over the classes that have images: the mean recall, or the mean F1.

    Args:
        said, labels: answers and true classes, int64 [n], n > 0.
    """
    figures = _figures(said, labels, int(max(said.max(), labels.max())) + 1)[1]
    name = "recall" if metric == "balanced_accuracy" else "f1"
    of_each = [of[name] or 0.0 for of in figures if of["n"]]
    return sum(of_each) / len(of_each)


def _figures(
    answers: Tensor, labels: Tensor, k: int
) -> tuple[Tensor, list[dict[str, float | None]]]:
    """The confusion matrix (rows: true class), and of each class n, precision, recall and F1."""
    # scikit-learn has these too, but importing it takes longer than a run from the cache may.
    confusion = torch.bincount(labels * k + answers, minlength=k * k).view(k, k)
    hits, truth, said = (x.tolist() for x in (confusion.diag(), confusion.sum(1), confusion.sum(0)))
    figures = [
        {
            "n": t,
            "precision": _ratio(hit, s),
            "recall": _ratio(hit, t),
            "f1": _ratio(2 * hit, t + s),
        }
        for hit, t, s in zip(hits, truth, said, strict=True)
    ]
    return confusion, figures


def _share(name: str, right: int | None, n: int) -> dict[str, float | None]:
    """A proportion with its interval."""
    if right is None or not n:
        low, high = (None, None) if right is None else wilson_interval(0, 0)
        return {name: None, f"{name}_low": low, f"{name}_high": high}
    low, high = wilson_interval(right, n)
    return {name: right / n, f"{name}_low": low, f"{name}_high": high}


def _ratio(part: int, whole: int) -> float | None:
    """None where there is nothing to divide by."""
    return part / whole if whole else None


def accuracy_text(metrics: Mapping[str, Any]) -> str:
    """For example "91.3% (95% interval 88.1 to 93.7, n = 400)", of what `score` gave."""
    if not metrics["n"]:
        return "unknown (it was not measured)"
    low, high = metrics["top1_low"] * 100, metrics["top1_high"] * 100
    return f"{metrics['top1']:.1%} (95% interval {low:.1f} to {high:.1f}, n = {metrics['n']})"
