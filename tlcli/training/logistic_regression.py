"""The linear head, solved: multinomial logistic regression by L-BFGS."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from tlcli.runtime.optim_without_dynamo import optim
from tlcli.runtime.threads import map_in_order
from tlcli.runtime.workers import torch_threads

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties that cross-validation chooses from, strong to weak (warm starts go that way)."""
SMALL = 50_000_000
"""Multiplications a step up to which one thread beats several that wait for each other."""
LARGE = 2_000_000_000
"""Multiplications a step from which the penalty is chosen on one fold, and not on all in turn."""
CHUNK = 4_000_000
"""Numbers that are worked on at once."""
HELD = 1_000_000_000
"""Bytes of standardised codes that are kept; more are standardised anew for every step."""
FOLDS = 5
ROUGH_STEPS = 15
"""L-BFGS steps for each penalty that is tried: enough to tell them apart
(docs/decisions/the-head.md)."""
STEPS = 300

Start = tuple[Tensor, Tensor]
"""A weight, float32 [classes, d], and a bias, float32 [classes]."""


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

    def logits(self, codes: Tensor) -> Tensor:
        """Of the plain views of `codes`, [n, views, d], float32 [n, classes]."""
        rows = max(1, CHUNK // codes.shape[2])
        parts = [part[:, 0].float() @ self.weight.T + self.bias for part in codes.split(rows)]
        return torch.cat(parts)


def solve(
    codes: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    bias: bool,
    seed: int,
    class_weights: Tensor | None = None,
) -> Solution:
    """Fit a linear head to `codes`, [n, views, d] of any float type, and `labels`, int64 [n].

    The codes are standardised; the objective is the mean cross entropy plus half the strength
    times the squared weights. The strength is chosen by cross-validation over images (all views
    of one fall into the same fold). Besides the codes, which may be mapped from a file, at most
    `HELD` bytes of them are in memory.

    Args:
        bias: False fits heads without one: the codes are scaled but not centred.
        class_weights: what an image of each class counts for, float32 [n_classes]; None: one.
    """
    problem = Problem(codes, labels, n_classes, bias, seed, class_weights)
    strength = _cross_validate(problem)
    with torch_threads(problem.threads):
        (w, b), gradient_norm = _fit(problem, strength)
    weight = w / problem.scale
    return Solution(weight, b - weight @ problem.mean, strength, gradient_norm)


def left_out_logits(
    codes: Tensor,
    labels: Tensor,
    n_classes: int,
    strength: float,
    *,
    bias: bool,
    seed: int,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Of images' plain views the logits of a head that was solved without that image.

    The arguments are those of `solve`, and the strength that it chose; the folds are the ones
    that it was chosen on: all images, or of a large problem a fifth. None where there are too few
    images to leave some out.

    Returns:
        float32 [m, classes], and which images they are of, int64 [m].
    """
    problem = Problem(codes, labels, n_classes, bias, seed, class_weights)
    if problem.folds < 2:
        return None

    def left_out(fold: int) -> Tensor:
        (w, b), _ = _fit(problem, strength, without=fold)
        return torch.cat([x @ w.T + b for x, _ in problem.plain(fold)])

    logits = torch.cat(list(_each_fold(problem, left_out)))
    images = torch.cat([problem.members(fold) for fold in range(problem.tried)])
    order = images.argsort()
    return logits[order], images[order]


class Problem:
    """Standardised codes and their labels, fold by fold and a chunk at a time.

    Attributes:
        mean, scale: float32 [d], of the codes.
        folds: each has its share of every class; 1: too few images.
        tried: how many of them are left out in turn.
    """

    def __init__(
        self,
        codes: Tensor,
        labels: Tensor,
        n_classes: int,
        bias: bool,
        seed: int,
        class_weights: Tensor | None,
    ) -> None:
        self.codes, self.labels, self.n_classes, self.bias = codes, labels, n_classes, bias
        self.weights = torch.ones(n_classes) if class_weights is None else class_weights.float()
        self.folds, self.fold_of = _deal(labels, n_classes, seed)
        work = codes.numel() * n_classes
        self.tried = self.folds if work < LARGE else min(1, self.folds)
        self.threads = 1 if work < SMALL else torch.get_num_threads()
        self._rows = max(1, CHUNK // (codes.shape[1] * max(codes.shape[2], n_classes)))
        self.mean, self.scale = self._moments()
        self._held = codes.numel() * 4 <= HELD
        self._kept: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def members(self, fold: int) -> Tensor:
        """Which images are in a fold, int64 [m]."""
        return (self.fold_of == fold).nonzero()[:, 0]

    def chunks(self, without: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All views, but for one fold: standardised codes float32 [m, views, d], labels [m]."""
        for fold in range(self.folds):
            if fold != without:
                yield from self._of(fold)

    def plain(self, fold: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The plain views of one fold: float32 [m, d], labels [m]."""
        for x, y in self._of(fold):
            yield x[:, 0], y

    def keep(self) -> None:
        """Standardise everything now where it may be held, before threads ask for it at once."""
        for fold in range(self.folds if self._held else 0):
            if fold not in self._kept:
                self._kept[fold] = list(self._standardized(fold))

    def _of(self, fold: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.keep()
        return iter(self._kept[fold]) if self._held else self._standardized(fold)

    def _standardized(self, fold: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images in self.members(fold).split(self._rows):
            yield self.codes[images].float().sub_(self.mean).div_(self.scale), self.labels[images]

    def _moments(self) -> tuple[Tensor, Tensor]:
        """The mean (zero without a bias) and the deviation from it, of all views."""
        d = self.codes.shape[2]
        count = self.codes.shape[0] * self.codes.shape[1]
        parts = self.codes.split(self._rows)
        mean, square = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        if self.bias:
            for part in parts:
                mean += part.flatten(0, 1).double().sum(0)
            mean /= count
        for part in parts:
            square += (part.flatten(0, 1).double() - mean).square_().sum(0)
        scale = (square / count).sqrt()
        # A code that hardly moves carries nothing and would be blown up by its small scale.
        scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.inf)
        return mean.float(), scale.float()


def _deal(labels: Tensor, n_classes: int, seed: int) -> tuple[int, Tensor]:
    """How many folds, and each image's, int64 [n]; each fold has its share of every class."""
    n = len(labels)
    folds = max(1, min(FOLDS, int(torch.bincount(labels, minlength=n_classes).max()), n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    fold_of = torch.empty(n, dtype=torch.int64)
    fold_of[order] = torch.arange(n) % folds
    return folds, fold_of


def _each_fold(problem: Problem, function: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """`function` of each fold that is tried; of a small problem side by side, a thread each."""
    problem.keep()
    if problem.threads > 1:
        return map(function, range(problem.tried))
    workers = torch.get_num_threads()
    share = partial(torch.set_num_threads, 1)
    return map_in_order(function, range(problem.tried), workers=workers, first=share)


def _cross_validate(problem: Problem) -> float:
    """The penalty with the lowest loss on left-out images (plain views)."""
    if problem.folds < 2:
        return STRENGTHS[0]
    starts: dict[int, Start] = {}
    losses: list[float] = []

    def loss(strength: float, fold: int) -> Tensor:
        w, b = starts[fold] = _fit(problem, strength, fold, starts.get(fold), ROUGH_STEPS)[0]
        parts = [
            F.cross_entropy(x @ w.T + b, y, problem.weights, reduction="sum")
            for x, y in problem.plain(fold)
        ]
        return torch.stack(parts).sum()

    for strength in STRENGTHS:
        losses.append(sum(part.item() for part in _each_fold(problem, partial(loss, strength))))
        if losses[-1] > 1.02 * min(losses):
            break  # past the valley; weaker penalties only overfit more, and slowly
    return STRENGTHS[losses.index(min(losses))]


@torch.no_grad()
def _fit(
    problem: Problem,
    strength: float,
    without: int | None = None,
    start: Start | None = None,
    steps: int = STEPS,
) -> tuple[Start, float]:
    """The optimum on standardised codes, one fold left out, and the gradient's norm there."""
    d, classes = problem.codes.shape[2], problem.n_classes
    w, b = (t.clone() for t in start) if start else (torch.zeros(classes, d), torch.zeros(classes))
    w.grad, b.grad = to_w, to_b = torch.zeros_like(w), torch.zeros_like(b)
    weights = [problem.weights[y] for _, y in problem.chunks(without)]
    total = torch.cat(weights).sum() * problem.codes.shape[1]
    optimizer = optim.LBFGS(
        [w, b] if problem.bias else [w],
        max_iter=steps,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        # By hand, chunk by chunk: autograd would keep the logits of them all.
        loss = torch.zeros(())
        to_w.copy_(strength * w)
        to_b.zero_()
        for x, y in problem.chunks(without):
            views = x.shape[1]
            x, y = x.flatten(0, 1), y.repeat_interleave(views)
            share = (problem.weights[y] / total)[:, None]
            p = torch.log_softmax(torch.addmm(b, x, w.T), dim=1)
            loss -= (p.gather(1, y[:, None]) * share).sum()
            p.exp_()
            p[torch.arange(len(y)), y] -= 1
            p *= share
            to_w.addmm_(p.T, x)
            to_b.add_(p.sum(0))
        return loss + strength / 2 * w.square().sum()

    optimizer.step(closure)
    closure()
    grads = [g.norm() for g in ((to_w, to_b) if problem.bias else (to_w,))]
    return (w, b), torch.stack(grads).norm().item()
