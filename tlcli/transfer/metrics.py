"""What a classifier's answers are worth."""

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a proportion (Wilson 1927): low and high, in [0, 1]; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def score(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy with its interval, and where the mistakes are.

    Args:
        logits: float [n, classes].
        labels: int64 [n].
        classes: their names.

    Returns:
        `n`, `top1`, `top1_low`, `top1_high` (95% Wilson), `top5` (None for five classes or
        fewer), `loss` (mean cross entropy, nats), `balanced_accuracy` (mean recall over the
        classes that have images), `per_class` (name to n, precision, recall, f1) and `confusion`
        (rows: true class, columns: answer).
    """
    n, k = len(labels), len(classes)
    answers = logits.argmax(1)
    confusion = torch.bincount(labels * k + answers, minlength=k * k).reshape(k, k)
    hits = confusion.diagonal()
    support, answered = confusion.sum(1), confusion.sum(0)
    low, high = wilson(int(hits.sum()), n)
    top5 = None
    if k > 5 and n:
        top5 = (logits.topk(5, dim=1).indices == labels[:, None]).any(1).float().mean().item()
    per_class = {
        name: {
            "n": int(support[i]),
            "precision": _ratio(hits[i], answered[i]),
            "recall": _ratio(hits[i], support[i]),
            "f1": _ratio(2 * hits[i], support[i] + answered[i]),
        }
        for i, name in enumerate(classes)
    }
    seen = support > 0
    return {
        "n": n,
        "top1": _ratio(hits.sum(), torch.tensor(n)),
        "top1_low": low,
        "top1_high": high,
        "top5": top5,
        "loss": torch.nn.functional.cross_entropy(logits, labels).item() if n else None,
        "balanced_accuracy": (hits[seen] / support[seen]).mean().item() if n else None,
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _ratio(a: Tensor, b: Tensor) -> float | None:
    """a / b, or None where there is nothing to divide by."""
    return a.item() / b.item() if b > 0 else None


def accuracy_text(metrics: Mapping[str, Any]) -> str:
    """For example "91.3% (95% interval 88.1 to 93.7, n = 400)", of what `score` gave."""
    if not metrics["n"]:
        return "unknown (there are no images to measure it on)"
    low, high = metrics["top1_low"] * 100, metrics["top1_high"] * 100
    return f"{metrics['top1']:.1%} (95% interval {low:.1f} to {high:.1f}, n = {metrics['n']})"
