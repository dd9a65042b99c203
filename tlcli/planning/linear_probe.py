"""Linear probes in closed form: how well features separate the classes, cross-validated.

Ridge regression on one-hot targets in which every class has the same weight. One
eigendecomposition gives the held-out predictions of all folds and penalties, as leave-one-out does
for single images (Cook and Weisberg 1982), so a sweep over a backbone's stages takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.metrics.linear_models import feature_scale

PENALTIES = (1.0, 0.3, 0.1, 0.01)
"""Ridge penalties that are tried, strong to weak, as multiples of the features' mean squared
length."""


@dataclass(frozen=True)
class Probe:
    """The held-out predictions of a linear probe.

    Attributes:
        predicted: int64 [n], each from a fit on the other folds.
        correct: float32 [n], 1 for a correct prediction, else 0.
        weights: float32 [n], of mean 1 and with the same sum for each class.
        penalty: the one of `PENALTIES` with the highest accuracy.
    """

    predicted: Tensor
    correct: Tensor
    weights: Tensor
    penalty: float

    @property
    def accuracy(self) -> float:
        """The balanced accuracy: the mean of the classes' shares of correct predictions."""
        return (self.weights * self.correct).mean().item()

    @property
    def error(self) -> float:
        """The standard error of `accuracy`; above zero even if all predictions are correct.

        It is at least the error with two more correct and two more wrong predictions (Agresti and
        Coull 1998).
        """
        n = len(self.correct)
        share = (self.correct.sum().item() + 2) / (n + 4)
        lowest = (share * (1 - share) / (n + 4)) ** 0.5
        return max(_standard_error(self.weights * (self.correct - self.accuracy)), lowest)

    def gain_over(self, other: "Probe") -> tuple[float, float]:
        """Return the gain in accuracy over a probe of the same images, and its standard error."""
        difference = self.weights * (self.correct - other.correct)
        return difference.mean().item(), _standard_error(difference)


def _standard_error(x: Tensor) -> float:
    """Return the standard error of the mean of `x`, 0 for a single value."""
    return (x.std(correction=1) / len(x) ** 0.5).item() if len(x) > 1 else 0.0


def balanced_weights(labels: Tensor) -> Tensor:
    """Return a weight per image, float32 [n], of mean 1 and with the same sum for each class."""
    counts = torch.bincount(labels)
    return len(labels) / (counts.count_nonzero() * counts[labels]).float()


def cross_validate(features: Tensor, labels: Tensor, fold: Tensor) -> Probe:
    """Cross-validate a linear probe with the penalty that does best.

    Args:
        features: float32 [n, d].
        labels: int64 [n], of two classes or more, numbered without gaps: a class without images
            would be a constant target, which nothing contradicts.
        fold: int64 [n], from `linear_models.deal_folds`.
    """
    weights = balanced_weights(labels)
    x = _standardize(features, weights)
    root = weights.sqrt()[:, None]
    y = root * _targets(labels)
    u, values = _factors(root * x)
    best: tuple[float, Tensor, float] | None = None
    for penalty in PENALTIES:
        # The inverse of (K + penalty) is (1 - u shrink u') / penalty; folds are left out by blocks.
        shrink = values / (values + penalty)
        dual = y - u @ (shrink[:, None] * (u.T @ y))
        held_out = torch.empty_like(y)
        for k in fold.unique().tolist():
            inside = fold == k
            block = torch.eye(int(inside.sum())) - (u[inside] * shrink) @ u[inside].T
            held_out[inside] = y[inside] - torch.linalg.solve(block, dual[inside])
        predicted = held_out.argmax(1)
        score = (weights * (predicted == labels)).mean().item()
        if best is None or score > best[0]:
            best = score, predicted, penalty
    assert best is not None
    _, predicted, penalty = best
    return Probe(predicted, (predicted == labels).float(), weights, penalty)


def learning_curve(
    features: Tensor, labels: Tensor, fold: Tensor, shares: Sequence[float], penalty: float
) -> list[tuple[int, Probe]]:
    """Cross-validate probes that are fitted on a share of each fold's training images.

    Smaller shares are parts of larger ones, class by class. A share that takes no more images than
    the one before is left out.

    Args:
        penalty: the same for all shares: choosing one for each would need further images.

    Returns:
        For each share the mean number of images that its probes were fitted on, and the probe.
    """
    weights = balanced_weights(labels)
    root = weights.sqrt()[:, None]
    x = root * _standardize(features, weights)
    y = root * _targets(labels)
    rank = _rank_in_class(labels)
    folds = fold.unique().tolist()
    curve: list[tuple[int, Probe]] = []
    for share in shares:
        predicted = torch.empty_like(labels)
        fits = [(fold != k) & (rank < share) for k in folds]
        images = round(sum(int(fit.sum()) for fit in fits) / len(folds))
        if curve and curve[-1][0] == images:
            continue
        for k, fit in zip(folds, fits, strict=True):
            out = fold == k
            gram = x[fit] @ x[fit].T / x.shape[1] + penalty * torch.eye(int(fit.sum()))
            dual = torch.cholesky_solve(y[fit], torch.linalg.cholesky(gram))
            predicted[out] = (x[out] @ (x[fit].T @ dual)).argmax(1)
        curve.append((images, Probe(predicted, (predicted == labels).float(), weights, penalty)))
    return curve


def _rank_in_class(labels: Tensor) -> Tensor:
    """Return each image's rank within its class, float32 [n] in [0, 1)."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    rank = torch.empty(len(labels))
    rank[order] = (torch.arange(len(labels)) - first[labels[order]]) / counts[labels[order]]
    return rank


def _standardize(features: Tensor, weights: Tensor) -> Tensor:
    """Scale features to weighted mean 0 and deviation 1: a row's squared length is about d."""
    mean = (weights[:, None] * features).mean(0)
    deviation = (weights[:, None] * (features - mean).square()).mean(0).sqrt()
    return (features - mean) / feature_scale(deviation)


def _targets(labels: Tensor) -> Tensor:
    """Return one-hot targets, float32 [n, classes], less the mean over the classes."""
    y = torch.nn.functional.one_hot(labels).float()
    return y - 1 / y.shape[1]


def _factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return left singular vectors, [n, k], and squared singular values of x / sqrt(d).

    They come from the smaller of the two Gram matrices.
    """
    n, d = x.shape
    if d < n:
        values, v = torch.linalg.eigh(x.T @ x / d)
        u = (x @ v) / (values.clamp_min(1e-12) * d).sqrt()
    else:
        values, u = torch.linalg.eigh(x @ x.T / d)
    good = values > 1e-6 * values.max().clamp_min(1e-12)
    return u[:, good], values[good]
