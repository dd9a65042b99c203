"""The frozen prefix as one fast function, and its activations, computed once a view."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tlcli.data.augment import Augmentation
from tlcli.data.dataset import Sample
from tlcli.data.load import load_batches
from tlcli.data.preprocessing import Preprocessing
from tlcli.events import Reporter, duration
from tlcli.transfer.agree import fair
from tlcli.transfer.cache import FeatureCache, row_id
from tlcli.transfer.device import Compute
from tlcli.transfer.network import Pool
from tlcli.transfer.shares import sharded

FORECAST_AFTER = 4
"""Batches from whose time the rest is forecast."""
PARITY = 1e-3
"""Largest difference, relative to the largest value, that the folded forward may show."""
PLAIN = "plain"
"""The view of an image that is not augmented."""
_KEY_VERSION = 1  # to be raised when the same key would come to mean other numbers


class FrozenForward:
    """A chain of frozen stages as one fast function from uint8 images to float32 activations.

    Eval mode, BatchNorm folded into the convolutions (on a copy), channels-last. The first batch
    is compared with the plain stages; where they differ by more than `PARITY`, the plain ones
    take over and it is said.

    `origin` says whose stages these are ("backbone", "weights"), for the cache; None: unknown.
    """

    def __init__(
        self,
        stages: nn.Sequential,
        preprocessing: Preprocessing,
        compute: Compute,
        reporter: Reporter | None = None,
        fold: bool = True,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self.plain = stages.eval().to(compute.device).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.compute = compute
        self.reporter = reporter or Reporter()
        self.origin = origin
        self.links: list[nn.Module] = list(self.plain)
        self.unchecked = False
        self.seconds = [0.0] * len(self.links)
        if fold and any(isinstance(m, nn.BatchNorm2d) for m in stages.modules()):
            self.links = [_folded(stage) for stage in self.plain]
            self.unchecked = True

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] to float32 [n, ...] on the device."""
        x = self._normalised(images)
        with self.compute.autocast():
            for link in self.links:
                x = link(x)
        return x.float()

    @torch.no_grad()
    def every(self, images: Tensor, pools: Sequence[nn.Module]) -> list[Tensor]:
        """uint8 [n, 3, h, w] to the output of each stage through its pool, on the device.

        What the next stage reads is what `__call__` would give it, so that a pooled activation
        is the same number whichever of the two computed it. Adds to `seconds`, by stage.
        """
        x, outputs = self._normalised(images), []
        for index, (link, pool) in enumerate(zip(self.links, pools, strict=True)):
            started = time.perf_counter()
            with self.compute.autocast():
                x = link(x)
                # Pooling keeps what an in-place ReLU in the next stage would overwrite.
                outputs.append(pool(x).float().clone())
            self.seconds[index] += time.perf_counter() - started
        return outputs

    def key(self, cut: str | None = None) -> dict[str, Any] | None:
        """What the activations behind the stage named `cut` (the last one) depend on.

        Beside the image and its view; plain JSON types. None where the origin is unknown.
        """
        if self.origin is None or not len(self.plain):
            return None
        return {
            **self.origin,
            "cut": cut or cut_name(self.plain),
            "preprocessing": self.preprocessing.to_dict(),
            "numbers": self.compute.name,
            "machine": torch.backends.cpu.get_cpu_capability()
            if self.compute.device.type == "cpu"
            else torch.cuda.get_device_name()
            if self.compute.device.type == "cuda"
            else self.compute.device.type,
            "threads": torch.get_num_threads(),
            "batch": self.compute.batch_size,
            "torch": torch.__version__,
            "version": _KEY_VERSION,
        }

    def _normalised(self, images: Tensor) -> Tensor:
        images = images.to(self.compute.device, non_blocking=True)
        x = self.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)
        if self.unchecked:
            self._check(x)
        return x

    def _check(self, x: Tensor) -> None:
        self.unchecked = False
        plain = folded = x[:2]
        for stage, link in zip(self.plain, self.links, strict=True):
            plain, folded = stage(plain), link(folded)
        error = ((plain - folded).abs().max() / plain.abs().max().clamp_min(1e-6)).item()
        if not error <= PARITY:
            self.links = list(self.plain)
            self.reporter.warn(
                f"the folded forward differs from the plain one by {error:.1e} "
                f"(limit {PARITY:.0e}); going on with the plain, slower one"
            )


def _folded(stage: nn.Module) -> nn.Module:
    if not any(isinstance(m, nn.BatchNorm2d) for m in stage.modules()):
        return stage
    folded: nn.Module = fuse(stage).to(memory_format=torch.channels_last)
    return folded


def cut_name(stages: nn.Sequential) -> str:
    """The last stage's name; "NAME+pool" where the maps of stage NAME are pooled by ours."""
    names = [str(stage.name) for stage in stages]
    pools = [m for m in stages[-1].modules() if isinstance(m, Pool)]
    if not pools:
        return names[-1]
    return names[-2] if pools[0].layout == "flat" else f"{names[-2]}+pool"


@sharded
def remember(
    samples: Sequence[Sample],
    forward: FrozenForward,
    *,
    task: str,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> tuple[Tensor, Tensor, dict[Path, str]]:
    """Compute the activations of `views` views an image: the plain one, then augmented ones.

    What `cache` holds is not computed again, and what is computed goes there.

    Returns:
        The activations of the readable images, float32 [n, views, ...], their labels,
        int64 [n], and why the other images were not readable.
    """
    codes: Tensor | None = None
    labels = torch.tensor([s.label for s in samples], dtype=torch.int64)
    unreadable: dict[Path, str] = {}
    batch, n = forward.compute.batch_size, len(samples)
    key = forward.key()
    shelf = cache.shelf(key) if cache is not None and key is not None else None
    names = [[view_id(s, augmentation, seed, view) for s in samples] for view in range(views)]
    known = [[i for i in range(n) if shelf and row[i] in shelf] for row in names]
    total = n * views - sum(map(len, known))
    if total < n * views:
        reporter.note(f"{task}: {n * views - total} of {n * views} views are in the cache")
    done, started = 0, time.perf_counter()
    reporter.progress(task, 0, total)
    for view, row in enumerate(names):
        if shelf and known[view]:
            found = shelf.fetch([row[i] for i in known[view]])
            codes = torch.empty(n, views, *found.shape[1:]) if codes is None else codes
            codes[known[view], view] = found
        there = set(known[view])
        todo = [i for i in range(n) if i not in there]
        loaded = load_batches(
            [samples[i].path for i in todo],
            forward.preprocessing,
            batch=batch,
            augmentation=augmentation if view else None,
            keys=[f"{seed}:{samples[i].digest}:{view}" for i in todo],
        )
        for indices, (images, problems) in zip(_chunks(todo, batch), loaded, strict=True):
            out = forward(images)[: len(problems)].cpu()
            codes = torch.empty(n, views, *out.shape[1:]) if codes is None else codes
            codes[indices, view] = out
            good = [k for k, problem in enumerate(problems) if problem is None]
            if shelf and not shelf.cache.broken:
                shelf.add([row[indices[k]] for k in good], out[good])
            unreadable |= {p.path: p.why for p in problems if p is not None}
            done += len(problems)
            reporter.progress(task, done, total)
            if done == FORECAST_AFTER * batch:
                seconds = (time.perf_counter() - started) * (total / done - 1)
                if seconds >= 60:
                    reporter.note(f"{task}: about {duration(seconds)} for {total} views")
    if shelf:
        shelf.flush()
    if codes is None:
        codes = torch.empty(0, views, 0)
    readable = torch.tensor([s.path not in unreadable for s in samples], dtype=torch.bool)
    if not readable.all():
        codes, labels = codes[readable], labels[readable]
    return codes, labels, unreadable


def view_id(sample: Sample, augmentation: Augmentation | None, seed: int, view: int) -> bytes:
    """Under what a view of an image is cached; view 0 is the plain one."""
    return row_id(sample.digest, f"{augmentation}:{seed}:{view}" if view else PLAIN)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def bytes_per_view(forward: FrozenForward) -> int:
    """What remembering one view costs, in bytes."""
    side = forward.preprocessing.crop
    black = torch.zeros(1, 3, side, side, device=forward.compute.device)
    # The plain stages: the folded ones are checked on their first batch, which must be a real one.
    with torch.no_grad():
        return forward.plain(black).numel() * 4


def memory_limit() -> int:
    """Bytes that remembered activations may take: a third of the machine's memory."""
    return fair(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3)
