"""Multinomial logistic regression by L-BFGS: a linear head that is solved, not trained in steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from tlcli.runtime.optim_without_dynamo import optim
from tlcli.runtime.threads import map_in_order
from tlcli.runtime.workers import torch_threads
from tlcli.training.standardized_folds import CHUNK_VALUES, StandardizedFolds

L2_PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties that cross-validation chooses from, strong to weak (warm starts go that way)."""
MAX_SEARCH_STEPS = 15
"""L-BFGS steps for each penalty that is tried: enough to order them
(docs/decisions/the-head.md)."""
MAX_STEPS = 300
"""L-BFGS steps for the chosen penalty."""

Parameters = tuple[Tensor, Tensor]
"""A weight, float32 [classes, d], and a bias, float32 [classes]."""


@dataclass(frozen=True)
class Solution:
    """A linear head on raw features, with the standardization folded in.

    Attributes:
        weight: float32 [classes, d].
        bias: float32 [classes].
        l2_penalty: the penalty that cross-validation chose.
        gradient_norm: the norm of the objective's gradient, which is 0 at the optimum.
    """

    weight: Tensor
    bias: Tensor
    l2_penalty: float
    gradient_norm: float

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of the plain views of `features`, [n, views, d]: [n, classes]."""
        rows = max(1, CHUNK_VALUES // features.shape[2])
        parts = [part[:, 0].float() @ self.weight.T + self.bias for part in features.split(rows)]
        return torch.cat(parts)


def solve(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    bias: bool,
    seed: int,
    class_weights: Tensor | None = None,
) -> Solution:
    """Fit a linear head to `features`, [n, views, d] of any float type, and `labels`, int64 [n].

    The features are standardized. The objective is the mean cross entropy plus half the penalty
    times the squared weights. The penalty is chosen by cross-validation over images (all views of
    one fall into the same fold). Besides the features, which may be mapped from a file, at most
    `MAX_CACHED_BYTES` of standardized ones are in memory.

    Args:
        bias: False fits a head without one: the features are scaled, but not centered.
        class_weights: the weight of an image of each class, float32 [n_classes]; None: one.
    """
    folds = StandardizedFolds(features, labels, n_classes, bias, seed, class_weights)
    l2_penalty = _choose_penalty(folds)
    with torch_threads(folds.threads):
        (w, b), gradient_norm = _fit(folds, l2_penalty)
    weight = w / folds.scale
    return Solution(weight, b - weight @ folds.mean, l2_penalty, gradient_norm)


def held_out_logits(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    l2_penalty: float,
    *,
    bias: bool,
    seed: int,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Return the logits of plain views from heads that were solved without the image.

    The other arguments are those of `solve`. The folds are the ones that `l2_penalty` was chosen
    on: all images, or a fifth of a large problem.

    Returns:
        The logits, float32 [m, classes], and the images' indices, int64 [m]; None where there are
        too few images to hold some out.
    """
    folds = StandardizedFolds(features, labels, n_classes, bias, seed, class_weights)
    if folds.n_folds < 2:
        return None

    def predict(fold: int) -> Tensor:
        (w, b), _ = _fit(folds, l2_penalty, held_out=fold)
        return torch.cat([x @ w.T + b for x, _ in folds.plain_views(fold)])

    logits = torch.cat(list(_map_held_out(folds, predict)))
    images = torch.cat([folds.images(fold) for fold in range(folds.n_held_out)])
    order = images.argsort()
    return logits[order], images[order]


def _map_held_out(folds: StandardizedFolds, function: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """Call `function` on each held-out fold; those of a small problem run in a thread each."""
    folds.fill_cache()
    if folds.threads > 1:
        return map(function, range(folds.n_held_out))
    workers = torch.get_num_threads()
    one_thread = partial(torch.set_num_threads, 1)
    return map_in_order(function, range(folds.n_held_out), workers=workers, first=one_thread)


def _choose_penalty(folds: StandardizedFolds) -> float:
    """Return the penalty with the lowest loss on the plain views of held-out images."""
    if folds.n_folds < 2:
        return L2_PENALTIES[0]
    starts: dict[int, Parameters] = {}
    losses: list[float] = []

    def held_out_loss(l2_penalty: float, fold: int) -> Tensor:
        start = starts.get(fold)
        w, b = starts[fold] = _fit(folds, l2_penalty, fold, start, MAX_SEARCH_STEPS)[0]
        parts = [
            F.cross_entropy(x @ w.T + b, y, folds.class_weights, reduction="sum")
            for x, y in folds.plain_views(fold)
        ]
        return torch.stack(parts).sum()

    for l2_penalty in L2_PENALTIES:
        parts = _map_held_out(folds, partial(held_out_loss, l2_penalty))
        losses.append(sum(part.item() for part in parts))
        if losses[-1] > 1.02 * min(losses):
            break  # past the valley; weaker penalties only overfit more, and slowly
    return L2_PENALTIES[losses.index(min(losses))]


@torch.no_grad()
def _fit(
    folds: StandardizedFolds,
    l2_penalty: float,
    held_out: int | None = None,
    start: Parameters | None = None,
    max_steps: int = MAX_STEPS,
) -> tuple[Parameters, float]:
    """Return the optimum on all folds but one, and the gradient's norm there."""
    d, classes = folds.features.shape[2], folds.n_classes
    w, b = (t.clone() for t in start) if start else (torch.zeros(classes, d), torch.zeros(classes))
    w.grad, b.grad = w_grad, b_grad = torch.zeros_like(w), torch.zeros_like(b)
    weights = [folds.class_weights[y] for _, y in folds.chunks(held_out)]
    total = torch.cat(weights).sum() * folds.features.shape[1]
    optimizer = optim.LBFGS(
        [w, b] if folds.bias else [w],
        max_iter=max_steps,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        # By hand, chunk by chunk: autograd would keep the logits of them all.
        loss = torch.zeros(())
        w_grad.copy_(l2_penalty * w)
        b_grad.zero_()
        for x, y in folds.chunks(held_out):
            views = x.shape[1]
            x, y = x.flatten(0, 1), y.repeat_interleave(views)
            share = (folds.class_weights[y] / total)[:, None]
            p = torch.log_softmax(torch.addmm(b, x, w.T), dim=1)
            loss -= (p.gather(1, y[:, None]) * share).sum()
            p.exp_()
            p[torch.arange(len(y)), y] -= 1
            p *= share
            w_grad.addmm_(p.T, x)
            b_grad.add_(p.sum(0))
        return loss + l2_penalty / 2 * w.square().sum()

    optimizer.step(closure)
    closure()
    grads = [g.norm() for g in ((w_grad, b_grad) if folds.bias else (w_grad,))]
    return (w, b), torch.stack(grads).norm().item()
