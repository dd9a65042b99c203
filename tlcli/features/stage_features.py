"""The measuring pass: every stage's pooled output for some images, by way of the cache."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones.backbone import Backbone
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable
from tlcli.data.loader import Batch, load_batches
from tlcli.reporter import Reporter
from tlcli.features.cache import FeatureCache, row_id
from tlcli.training.depthwise import quick_depthwise
from tlcli.runtime.device import Compute
from tlcli.planning.evidence import Timing
from tlcli.features.extract import FORECAST_AFTER, PLAIN, view_id, view_key
from tlcli.features.extractor import FrozenForward, beside, cut_name
from tlcli.training.cpu_parallel import Lanes, Sums
from tlcli.backbones.network import Pool

HEAD = "head"
LEAST = 200
"""Images that are looked at however slow the backbone is."""
PATIENCE = 180.0
"""Seconds that the pass may take before the sample is made smaller."""
WIDEST = 8192
"""Numbers an image beyond which a stage's output is not probed."""
STEP_BATCH = 4
"""Images of the training step that is timed, for each that is computed beside others."""


@dataclass(frozen=True)
class Tap:
    """A stage whose output is kept: where it stands, its names in the sweep and in the cache, and
    whether its maps are pooled for that."""

    index: int
    name: str
    cut: str
    pooled: bool


def only_plain(_: float) -> int:
    """One view an image, however long it takes."""
    return 1


class Look:
    """Looks at images through the stages with pretrained weights, and keeps what it saw.

    Attributes:
        last: the tap whose output the head reads, by its name; None where there is none.
        seen: how many images the last look came to.
    """

    def __init__(
        self,
        backbone: Backbone,
        compute: Compute,
        cache: FeatureCache,
        reporter: Reporter,
        probe: Sequence[Sample] = (),
    ) -> None:
        self.stages = backbone.stages[: backbone.pretrained]
        self.backbone = backbone
        self.reporter = reporter
        self.forward = FrozenForward(
            nn.Sequential(*self.stages),
            backbone.preprocessing,
            compute,
            reporter,
            origin=backbone.origin,
            probe=probe,
        )
        self.forward.settle(cache)
        self.pools: list[nn.Module] = []
        self.taps = self._taps()
        codes = [tap.name for tap in self.taps if tap.name != HEAD]
        self.last = codes[-1] if codes else None
        self.shelves = [cache.shelf(self._key(tap)) for tap in self.taps]
        self.seen = self.computed = 0
        self.seconds = 0.0

    def _key(self, tap: Tap) -> dict[str, Any]:
        key = self.forward.key(tap.cut)
        if key is None:
            raise ValueError(f"{self.backbone.name} has no pretrained weights to look through")
        return key

    @torch.no_grad()
    def _taps(self) -> list[Tap]:
        """The stages with parameters, the last one before the head, and the head; fills `pools`."""
        side = self.backbone.preprocessing.crop
        x = torch.zeros(1, 3, side, side, device=self.forward.compute.device)
        whole = len(self.stages) == len(self.backbone.stages)
        codes = len(self.stages) - 1 - whole
        taps: list[Tap] = []
        width = 0
        for index, stage in enumerate(self.stages):
            x = stage(x)
            flat = x.dim() == 2
            self.pools.append(Pool("flat" if flat else self.backbone.layout))
            before, width = width, self.pools[-1](x).shape[1]
            fresh = any(True for _ in stage.parameters())
            if width > WIDEST or not (fresh or (index == codes and flat)):
                continue
            if not fresh and width == before and taps and self.backbone.layout != "tokens":
                taps.pop()  # the backbone's own mean over the map: the same codes once more
            cut = cut_name(nn.Sequential(*self.stages[: index + 1]))
            taps.append(Tap(index, stage.name, cut if flat else f"{cut}+pool", not flat))
        return taps

    def at(
        self,
        samples: Sequence[Sample],
        *,
        views: Callable[[float], int] = only_plain,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> tuple[dict[str, Tensor], dict[Path, str]]:
        """The pooled outputs of the readable images by stage, float32 [n, channels], and why the
        others were not readable. `seen` says how many of `samples` it came to.

        An image that has to be decoded for this is computed in as many views as `remember` would
        want of it afterwards: `views` tells how many where one takes so many seconds (0: that is
        not known yet). What comes back is of the plain ones.
        """
        rows = [row_id(s.digest, PLAIN) for s in samples]
        missing = [i for i, row in enumerate(rows) if not self._have(row)]
        asked: list[tuple[int, bytes]] = []  # how many images are done with it; the view's row
        view_s = 0.0

        def keys() -> Iterator[list[str]]:
            for number, sample in enumerate((samples[i] for i in missing), 1):
                wanted = range(views(view_s))
                names = [view_id(sample, augmentation, seed, view) for view in wanted]
                asked.extend((number - (name != names[-1]), name) for name in names)
                yield [view_key(sample, seed, view) for view in wanted]

        unreadable: dict[Path, str] = {}
        batch = self.forward.compute.batch_size
        done, total, end = 0, len(missing), len(samples)
        started = time.perf_counter()
        loaded = load_batches(
            [samples[i].path for i in missing],
            self.forward.preprocessing,
            batch=batch,
            augmentation=augmentation,
            keys=keys(),
        )
        with closing(self._through(loaded)) as passes:
            for outputs, problems in passes:
                good = [k for k, problem in enumerate(problems) if problem is None]
                self._keep([asked[done + k][1] for k in good], outputs, good)
                unreadable |= {p.path: p.why for p in problems if p is not None}
                done += len(problems)
                looked = asked[done - 1][0]
                self.seconds = time.perf_counter() - started
                if done == FORECAST_AFTER * batch:
                    view_s = self.seconds / done
                    fits = max(round(PATIENCE / view_s / batch) * batch, LEAST, looked)
                    if fits < total:
                        total, end = fits, missing[fits]
                        self.reporter.note(
                            f"{self.backbone.name} is slow here, so {end} images are measured "
                            f"instead of {len(samples)}"
                        )
                self.reporter.progress("measuring", min(looked, total), total)
                if looked >= total < len(missing):
                    break
        self.computed = done
        for shelf in self.shelves:
            shelf.flush()
        self.seen = end
        there = [i for i in range(end) if self._have(rows[i])]
        return {
            tap.name: shelf.fetch([rows[i] for i in there]).float()
            for tap, shelf in zip(self.taps, self.shelves, strict=True)
            if there
        }, unreadable

    def changed(
        self, samples: Sequence[Sample], change: Callable[[Tensor], Tensor], view: str
    ) -> dict[str, Tensor]:
        """The outputs for `samples`, which are readable, each picture changed in some way.

        `change` takes and gives uint8 [n, 3, h, w]; `view` is its name in the cache.
        """
        rows = [row_id(s.digest, view) for s in samples]
        missing = [i for i, row in enumerate(rows) if not self._have(row)]
        done = 0
        loaded = load_batches(
            [samples[i].path for i in missing],
            self.forward.preprocessing,
            batch=self.forward.compute.batch_size,
        )
        for outputs, problems in self._through(loaded, change):
            indices = missing[done : done + len(problems)]
            self._keep([rows[i] for i in indices], outputs, list(range(len(problems))))
            done += len(problems)
        return {
            tap.name: shelf.fetch(rows).float()
            for tap, shelf in zip(self.taps, self.shelves, strict=True)
        }

    def _have(self, row: bytes) -> bool:
        return all(row in shelf for shelf in self.shelves)

    def _through(
        self, loaded: Iterable[Batch], change: Callable[[Tensor], Tensor] = lambda images: images
    ) -> Generator[tuple[list[Tensor], list[Unreadable | None]], None, None]:
        """Each stage's outputs for every batch, and which of its images are missing."""

        def one(batch: Batch) -> tuple[list[Tensor], list[Unreadable | None]]:
            return self.forward.every(change(batch[0]), self.pools), batch[1]

        return beside(one, loaded, self.forward.compute)

    def _keep(self, rows: Sequence[bytes], outputs: list[Tensor], good: list[int]) -> None:
        for tap, shelf in zip(self.taps, self.shelves, strict=True):
            shelf.add(rows, outputs[tap.index][good].cpu())

    @torch.no_grad()
    def timing(self, samples: Sequence[Sample]) -> Timing:
        """What an image and a training step cost here; some of `samples` are computed for it.

        Where all of them were cached, what it came to when they were computed.
        """
        batch = self.forward.compute.batch_size
        enough = batch * self.forward.compute.workers
        known = self.shelves[-1].remarks if not self.computed and self.shelves else {}
        with suppress(KeyError, TypeError):  # of another version, or none
            return Timing(**known["costs"])
        if self.computed < 2 * enough:
            # All of it was cached, or too little to tell: a batch a worker, after some to warm up.
            paths = [s.path for s in samples[:enough]]
            for _ in range(2):
                started = time.perf_counter()
                loaded = load_batches(paths, self.forward.preprocessing, batch=batch)
                for _ in self._through(loaded):
                    pass
                self.seconds, self.computed = time.perf_counter() - started, len(paths)
        spent = self.forward.seconds
        total = sum(spent) or 1.0
        share = {s.name: sum(spent[: i + 1]) / total for i, s in enumerate(self.stages)}
        step, step_image = self._step()
        timing = Timing(self.seconds / max(1, self.computed), share, step, step_image)
        if self.shelves:
            self.shelves[-1].remark("costs", asdict(timing))
        return timing

    @torch.enable_grad()
    def _step(self) -> tuple[float, float]:
        """Seconds of a training step of everything: the fixed part, and that of each image.

        In eval mode, so that no running statistics move; the weights do not change.
        """
        compute, side = self.forward.compute, self.backbone.preprocessing.crop
        stages = nn.Sequential(*self.stages).eval()
        parameters = list(stages.parameters())
        frozen = [p for p in parameters if not p.requires_grad]
        stages.requires_grad_(True)
        lanes = Lanes(stages, compute)

        def gradients(x: Tensor, _: Tensor) -> Sums:
            with compute.autocast(), quick_depthwise(compute):
                loss = stages(x).float().mean()
            return torch.autograd.grad(loss, parameters, allow_unused=True), loss.detach()

        few, many = lanes.most, STEP_BATCH * lanes.most
        seconds = []
        for n in (many, few, many):  # the first warms up
            x = torch.zeros(n, 3, side, side, device=compute.device)
            x = x.contiguous(memory_format=torch.channels_last)
            started = time.perf_counter()
            lanes.sums(gradients, x, torch.zeros(n), lanes.most)
            if compute.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        for parameter in frozen:
            parameter.requires_grad_(False)
        _, small, large = seconds
        image = max(large - small, 0.0) / (many - few) or large / many
        return max(small - few * image, 0.0), image
