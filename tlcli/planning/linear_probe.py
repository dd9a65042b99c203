"""Linear probes in closed form: how well an activation tells the classes apart, cross-validated.

Ridge regression on one-hot targets, every class weighing the same. One eigendecomposition gives
the left-out predictions of all folds and penalties, as leave-one-out does for single images
(Cook and Weisberg 1982), so a sweep over a backbone's stages takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FOLDS = 5
PENALTIES = (1.0, 0.3, 0.1, 0.01)
"""Ridge penalties tried, strong to weak, in units of a code's mean squared length."""


@dataclass(frozen=True)
class Probe:
    """What a probe answered on images that it was not fitted on.

    Attributes:
        predicted: int64 [n], the left-out answers.
        right: float32 [n], 1 where the answer is right, else 0.
        weights: float32 [n], of mean 1 and the same sum for each class.
        penalty: that of `PENALTIES` which did best.
    """

    predicted: Tensor
    right: Tensor
    weights: Tensor
    penalty: float

    @property
    def accuracy(self) -> float:
        """Balanced accuracy: the mean over the classes of the share of right answers."""
        return (self.weights * self.right).mean().item()

    @property
    def error(self) -> float:
        """The standard error of `accuracy`; not nothing where all, or none, is right.

        At least that of two more right answers and two more wrong ones (Agresti and Coull 1998).
        """
        n = len(self.right)
        share = (self.right.sum().item() + 2) / (n + 4)
        least = (share * (1 - share) / (n + 4)) ** 0.5
        return max(_standard_error(self.weights * (self.right - self.accuracy)), least)

    def ahead_of(self, other: "Probe") -> tuple[float, float]:
        """By how much this accuracy is higher than that on the same images, and the paired
        standard error of the difference."""
        difference = self.weights * (self.right - other.right)
        return difference.mean().item(), _standard_error(difference)


def _standard_error(x: Tensor) -> float:
    return (x.std(correction=1) / len(x) ** 0.5).item() if len(x) > 1 else 0.0


def deal_folds(labels: Tensor, seed: int, folds: int = FOLDS) -> Tensor:
    """The fold of each image, int64 [n]: class by class, so that each has its share of each."""
    n = len(labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty(n, dtype=torch.int64)
    fold[order] = torch.arange(n) % folds
    return fold


def balanced(labels: Tensor) -> Tensor:
    """A weight for each image, float32 [n], of mean 1 and the same sum for each class."""
    counts = torch.bincount(labels)
    return len(labels) / (counts.count_nonzero() * counts[labels]).float()


def probe(codes: Tensor, labels: Tensor, fold: Tensor) -> Probe:
    """Cross-validate a linear probe on `codes`, float32 [n, d], with the penalty that does best.

    Args:
        labels: int64 [n], two classes or more, each of them there: one that is not would be
            a constant target, which nothing contradicts.
        fold: int64 [n], from `deal_folds`.
    """
    weights = balanced(labels)
    x = _standardized(codes, weights)
    root = weights.sqrt()[:, None]
    y = root * _targets(labels)
    u, values = _factors(root * x)
    best: tuple[float, Tensor, float] | None = None
    for penalty in PENALTIES:
        # The inverse of (K + penalty) is (1 - u shrink u') / penalty; folds are left out by blocks.
        shrink = values / (values + penalty)
        dual = y - u @ (shrink[:, None] * (u.T @ y))
        left_out = torch.empty_like(y)
        for k in fold.unique().tolist():
            inside = fold == k
            block = torch.eye(int(inside.sum())) - (u[inside] * shrink) @ u[inside].T
            left_out[inside] = y[inside] - torch.linalg.solve(block, dual[inside])
        predicted = left_out.argmax(1)
        score = (weights * (predicted == labels)).mean().item()
        if best is None or score > best[0]:
            best = score, predicted, penalty
    assert best is not None
    _, predicted, penalty = best
    return Probe(predicted, (predicted == labels).float(), weights, penalty)


def learning_curve(
    codes: Tensor, labels: Tensor, fold: Tensor, shares: Sequence[float], penalty: float
) -> list[tuple[int, Probe]]:
    """Probes fitted on a share of each fold's training images, answered for all the others, and
    how many images they were fitted on (the mean of the folds); a share that takes no more images
    than the one before is left out.

    Smaller shares are parts of larger ones, class by class. `penalty` is one for all: a share's
    own choice would need images of its own.
    """
    weights = balanced(labels)
    root = weights.sqrt()[:, None]
    x = root * _standardized(codes, weights)
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
    """Where each image stands within its class, float32 [n] in [0, 1)."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    rank = torch.empty(len(labels))
    rank[order] = (torch.arange(len(labels)) - first[labels[order]]) / counts[labels[order]]
    return rank


def _standardized(codes: Tensor, weights: Tensor) -> Tensor:
    """Codes of weighted mean 0 and deviation 1: a row's squared length is about d."""
    mean = (weights[:, None] * codes).mean(0)
    scale = (weights[:, None] * (codes - mean).square()).mean(0).sqrt()
    # A code that hardly moves carries nothing and would be blown up by its small scale.
    scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.inf)
    return (codes - mean) / scale


def _targets(labels: Tensor) -> Tensor:
    """One-hot, float32 [n, classes], less the mean over the classes."""
    y = torch.nn.functional.one_hot(labels).float()
    return y - 1 / y.shape[1]


def _factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors, [n, k], and squared singular values of x / sqrt(d), by way of the
    smaller of its two Gram matrices."""
    n, d = x.shape
    if d < n:
        values, v = torch.linalg.eigh(x.T @ x / d)
        u = (x @ v) / (values.clamp_min(1e-12) * d).sqrt()
    else:
        values, u = torch.linalg.eigh(x @ x.T / d)
    good = values > 1e-6 * values.max().clamp_min(1e-12)
    return u[:, good], values[good]
