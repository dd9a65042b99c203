"""The frozen prefix as one fast function, and its activations, computed once a view."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tlcli.data.augment import Augmentation
from tlcli.data.dataset import Sample
from tlcli.data.load import load_batches
from tlcli.data.preprocessing import Preprocessing
from tlcli.events import Reporter, duration
from tlcli.transfer.device import Compute

FORECAST_AFTER = 4
"""Batches from whose time the rest is forecast."""
PARITY = 1e-3
"""Largest difference, relative to the largest value, that the folded forward may show."""


class FrozenForward:
    """A chain of frozen stages as one fast function from uint8 images to float32 activations.

    Eval mode, BatchNorm folded into the convolutions (on a copy), channels-last. The first batch
    is compared with the plain stages; where they differ by more than `PARITY`, the plain ones
    take over and it is said.
    """

    def __init__(
        self,
        stages: nn.Sequential,
        preprocessing: Preprocessing,
        compute: Compute,
        reporter: Reporter | None = None,
        fold: bool = True,
    ) -> None:
        self.plain = stages.eval().to(compute.device).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.compute = compute
        self.reporter = reporter or Reporter()
        self.forward: nn.Module = self.plain
        self.unchecked = False
        if fold and any(isinstance(m, nn.BatchNorm2d) for m in stages.modules()):
            self.forward = fuse(self.plain).to(memory_format=torch.channels_last)
            self.unchecked = True

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] to float32 [n, ...] on the device."""
        images = images.to(self.compute.device, non_blocking=True)
        x = self.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)
        if self.unchecked:
            self._check(x)
        with self.compute.autocast():
            return self.forward(x).float()

    def _check(self, x: Tensor) -> None:
        self.unchecked = False
        plain, folded = self.plain(x[:2]), self.forward(x[:2])
        error = ((plain - folded).abs().max() / plain.abs().max().clamp_min(1e-6)).item()
        if not error <= PARITY:
            self.forward = self.plain
            self.reporter.warn(
                f"the folded forward differs from the plain one by {error:.1e} "
                f"(limit {PARITY:.0e}); going on with the plain, slower one"
            )


def remember(
    samples: Sequence[Sample],
    forward: FrozenForward,
    *,
    task: str,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    reporter: Reporter,
) -> tuple[Tensor, Tensor, dict[Path, str]]:
    """Compute the activations of `views` views an image: the plain one, then augmented ones.

    Returns:
        The activations of the readable images, float32 [n, views, ...], their labels,
        int64 [n], and why the other images were not readable.
    """
    codes: Tensor | None = None
    labels = torch.tensor([s.label for s in samples], dtype=torch.int64)
    unreadable: dict[Path, str] = {}
    batch, n = forward.compute.batch_size, len(samples)
    started = time.perf_counter()
    reporter.progress(task, 0, n * views)
    for view in range(views):
        done = 0
        loaded = load_batches(
            [s.path for s in samples],
            forward.preprocessing,
            batch=batch,
            augmentation=augmentation if view else None,
            keys=[f"{seed}:{s.digest}:{view}" for s in samples],
        )
        for images, problems in loaded:
            out = forward(images)[: len(problems)].cpu()
            if codes is None:
                codes = torch.empty(n, views, *out.shape[1:])
            codes[done : done + len(problems), view] = out
            done += len(problems)
            unreadable |= {p.path: p.why for p in problems if p is not None}
            reporter.progress(task, view * n + done, n * views)
            if view == 0 and done == FORECAST_AFTER * batch:
                seconds = (time.perf_counter() - started) * (n * views / done - 1)
                if seconds >= 60:
                    reporter.note(f"{task}: about {duration(seconds)} for {n * views} views")
    if codes is None:
        codes = torch.empty(0, views, 0)
    good = torch.tensor([s.path not in unreadable for s in samples], dtype=torch.bool)
    if not good.all():
        codes, labels = codes[good], labels[good]
    return codes, labels, unreadable


def bytes_per_view(forward: FrozenForward) -> int:
    """What remembering one view costs, in bytes."""
    side = forward.preprocessing.crop
    black = torch.zeros(1, 3, side, side, device=forward.compute.device)
    # The plain stages: the folded ones are checked on their first batch, which must be a real one.
    with torch.no_grad():
        return forward.plain(black).numel() * 4


def memory_limit() -> int:
    """Bytes that remembered activations may take: a third of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3
