"""The linear head, solved: multinomial logistic regression by L-BFGS."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tlcli.transfer.device import threads

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties that cross-validation chooses from, strong to weak (warm starts go that way)."""
SMALL = 50_000_000
"""Multiplications a step up to which one thread beats several that wait for each other."""
FOLDS = 5
ROUGH_STEPS = 30
"""L-BFGS steps for each penalty that is tried: enough to tell them apart."""


@dataclass(frozen=True)
class Solution:
    """A linear head on the raw codes, the standardisation folded in.

    Attributes:
        weight: float32 [classes, d]; bias: float32 [classes].
        strength: the L2 penalty that cross-validation chose.
        gradient_norm: of the objective at the solution; how far from the optimum it is.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    gradient_norm: float


def solve(
    codes: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    bias: bool,
    seed: int,
    class_weights: Tensor | None = None,
) -> Solution:
    """Fit a linear head to `codes`, float32 [n, views, d], and `labels`, int64 [n].

    The codes are standardised; the objective is the mean cross entropy plus half the strength
    times the squared weights. The strength is chosen by cross-validation over images (all views
    of one fall into the same fold).
    `bias` False fits heads without one: the codes are scaled but not centred.
    `class_weights`, float32 [n_classes], is what an image of each class counts for.
    """
    x, mean, scale = _standardised(codes, bias)
    with threads(1 if x.numel() * n_classes < SMALL else torch.get_num_threads()):
        strength = _cross_validate(x, labels, n_classes, bias, seed, class_weights)
        w, b, gradient_norm = _fit(
            x, labels, n_classes, strength, bias, None, class_weights=class_weights
        )
    weight = w / scale
    return Solution(weight, b - weight @ mean, strength, gradient_norm)


def left_out_logits(
    codes: Tensor, labels: Tensor, n_classes: int, strength: float, *, bias: bool, seed: int
) -> Tensor | None:
    """Of each image's plain view the logits of a head that was solved without that image.

    The arguments are those of `solve`, and the strength that it chose; the folds are the ones
    that it was chosen on. None where there are too few images to leave some out.

    Returns:
        float32 [n, classes].
    """
    folds, fold_of = _deal(labels, n_classes, seed)
    if folds < 2:
        return None
    x, _, _ = _standardised(codes, bias)
    logits = torch.empty(len(labels), n_classes)
    with threads(1 if x.numel() * n_classes < SMALL else torch.get_num_threads()):
        for fold in range(folds):
            out = fold_of == fold
            w, b, _ = _fit(x[~out], labels[~out], n_classes, strength, bias, None)
            logits[out] = x[out, 0] @ w.T + b
    return logits


def _standardised(codes: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The codes [n, views, d] with variance 1 (and mean 0, where there is a bias); mean, scale."""
    flat = codes.flatten(0, 1)
    mean = flat.mean(0) if bias else torch.zeros(flat.shape[1])
    scale = flat.std(0, correction=0) if bias else flat.square().mean(0).sqrt()
    # A code that hardly moves carries nothing and would be blown up by its small scale.
    scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.inf)
    return ((codes - mean) / scale).float(), mean, scale


def _deal(labels: Tensor, n_classes: int, seed: int) -> tuple[int, Tensor]:
    """How many folds, and each image's, int64 [n]; each fold has its share of every class."""
    n = len(labels)
    folds = min(FOLDS, int(torch.bincount(labels, minlength=n_classes).max()), n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    fold_of = torch.empty(n, dtype=torch.int64)
    fold_of[order] = torch.arange(n) % max(1, folds)
    return folds, fold_of


def _cross_validate(
    x: Tensor,
    labels: Tensor,
    n_classes: int,
    bias: bool,
    seed: int,
    class_weights: Tensor | None = None,
) -> float:
    """The penalty with the lowest loss on left-out images (plain views)."""
    folds, fold_of = _deal(labels, n_classes, seed)
    if folds < 2:
        return STRENGTHS[0]
    starts: list[tuple[Tensor, Tensor] | None] = [None] * folds
    losses: list[float] = []
    for strength in STRENGTHS:
        total = 0.0
        for fold in range(folds):
            out = fold_of == fold
            w, b, _ = _fit(
                x[~out],
                labels[~out],
                n_classes,
                strength,
                bias,
                starts[fold],
                ROUGH_STEPS,
                class_weights,
            )
            starts[fold] = (w, b)
            logits = x[out, 0] @ w.T + b
            total += F.cross_entropy(
                logits, labels[out], weight=class_weights, reduction="sum"
            ).item()
        losses.append(total)
        if total > 1.02 * min(losses):
            break  # past the valley; weaker penalties only overfit more, and slowly
    return STRENGTHS[losses.index(min(losses))]


def _fit(
    x: Tensor,
    labels: Tensor,
    n_classes: int,
    strength: float,
    bias: bool,
    start: tuple[Tensor, Tensor] | None,
    steps: int = 300,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, float]:
    """The optimum on standardised codes [n, views, d]: weight, bias and the gradient's norm."""
    n, views, d = x.shape
    x, y = x.reshape(n * views, d), labels.repeat_interleave(views)
    w = start[0].clone() if start else torch.zeros(n_classes, d)
    b = start[1].clone() if start else torch.zeros(n_classes)
    w.requires_grad_()
    b.requires_grad_(bias)
    optimizer = torch.optim.LBFGS(
        [w, b] if bias else [w],
        max_iter=steps,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(x @ w.T + b, y, weight=class_weights) + strength / 2 * w.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    grads = [p.grad.norm() for p in (w, b) if p.grad is not None]
    return w.detach(), b.detach(), torch.stack(grads).norm().item()
