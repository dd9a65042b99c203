"""The measuring pass: every stage's pooled output for some images, by way of the cache."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones.backbone import Backbone
from tlcli.backbones.network import Pool
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable
from tlcli.data.loader import ImageBatch, load_batches
from tlcli.features.cache import FeatureCache, row_id
from tlcli.features.extract import FORECAST_AFTER, PLAIN_VIEW, view_id, view_key
from tlcli.features.extractor import FeatureExtractor, cut_name
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.workers import map_in_workers

HEAD = "head"
MIN_SAMPLE = 200
"""Images that are looked at however slow the backbone is."""
MAX_SECONDS = 180.0
"""Seconds that the pass may take before the sample is made smaller."""
MAX_WIDTH = 8192
"""Numbers an image beyond which a stage's output is not probed."""


@dataclass(frozen=True)
class StageOutput:
    """A stage whose output is kept: where it stands, its names in the sweep and in the cache, and
    whether its maps are pooled for that."""

    index: int
    name: str
    cut: str
    pooled: bool


def plain_view_only(_: float) -> int:
    """One view an image, however long it takes."""
    return 1


class StageFeatures:
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
        self.forward = FeatureExtractor(
            nn.Sequential(*self.stages),
            backbone.preprocessing,
            compute,
            reporter,
            origin=backbone.origin,
            probe=probe,
        )
        self.forward.choose_precision(cache)
        self.pools: list[nn.Module] = []
        self.taps = self._taps()
        codes = [tap.name for tap in self.taps if tap.name != HEAD]
        self.last = codes[-1] if codes else None
        self.tables = [cache.table(self._key(tap)) for tap in self.taps]
        self.seen = self.computed = 0
        self.seconds = 0.0

    def _key(self, tap: StageOutput) -> dict[str, Any]:
        key = self.forward.key(tap.cut)
        if key is None:
            raise ValueError(f"{self.backbone.name} has no pretrained weights to look through")
        return key

    @torch.no_grad()
    def _taps(self) -> list[StageOutput]:
        """The stages with parameters, the last one before the head, and the head; fills `pools`."""
        side = self.backbone.preprocessing.crop
        x = torch.zeros(1, 3, side, side, device=self.forward.compute.device)
        whole = len(self.stages) == len(self.backbone.stages)
        codes = len(self.stages) - 1 - whole
        taps: list[StageOutput] = []
        width = 0
        for index, stage in enumerate(self.stages):
            x = stage(x)
            flat = x.dim() == 2
            self.pools.append(Pool("flat" if flat else self.backbone.layout))
            before, width = width, self.pools[-1](x).shape[1]
            fresh = any(True for _ in stage.parameters())
            if width > MAX_WIDTH or not (fresh or (index == codes and flat)):
                continue
            if not fresh and width == before and taps and self.backbone.layout != "tokens":
                taps.pop()  # the backbone's own mean over the map: the same codes once more
            cut = cut_name(nn.Sequential(*self.stages[: index + 1]))
            taps.append(StageOutput(index, stage.name, cut if flat else f"{cut}+pool", not flat))
        return taps

    def at(
        self,
        samples: Sequence[Sample],
        *,
        views: Callable[[float], int] = plain_view_only,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> tuple[dict[str, Tensor], dict[Path, str]]:
        """The pooled outputs of the readable images by stage, float32 [n, channels], and why the
        others were not readable. `seen` says how many of `samples` it came to.

        An image that has to be decoded for this is computed in as many views as `remember` would
        want of it afterwards: `views` tells how many where one takes so many seconds (0: that is
        not known yet). What comes back is of the plain ones.
        """
        rows = [row_id(s.digest, PLAIN_VIEW) for s in samples]
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
        with closing(self.batches(loaded)) as passes:
            for outputs, problems in passes:
                good = [k for k, problem in enumerate(problems) if problem is None]
                self._keep([asked[done + k][1] for k in good], outputs, good)
                unreadable |= {p.path: p.why for p in problems if p is not None}
                done += len(problems)
                looked = asked[done - 1][0]
                self.seconds = time.perf_counter() - started
                if done == FORECAST_AFTER * batch:
                    view_s = self.seconds / done
                    fits = max(round(MAX_SECONDS / view_s / batch) * batch, MIN_SAMPLE, looked)
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
        for table in self.tables:
            table.flush()
        self.seen = end
        there = [i for i in range(end) if self._have(rows[i])]
        return {
            tap.name: table.fetch([rows[i] for i in there]).float()
            for tap, table in zip(self.taps, self.tables, strict=True)
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
        for outputs, problems in self.batches(loaded, change):
            indices = missing[done : done + len(problems)]
            self._keep([rows[i] for i in indices], outputs, list(range(len(problems))))
            done += len(problems)
        return {
            tap.name: table.fetch(rows).float()
            for tap, table in zip(self.taps, self.tables, strict=True)
        }

    def _have(self, row: bytes) -> bool:
        return all(row in table for table in self.tables)

    def batches(
        self,
        loaded: Iterable[ImageBatch],
        change: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> Generator[tuple[list[Tensor], list[Unreadable | None]], None, None]:
        """Each stage's outputs for every batch, and which of its images are missing."""

        def one(batch: ImageBatch) -> tuple[list[Tensor], list[Unreadable | None]]:
            return self.forward.every(change(batch[0]), self.pools), batch[1]

        return map_in_workers(one, loaded, self.forward.compute)

    def _keep(self, rows: Sequence[bytes], outputs: list[Tensor], good: list[int]) -> None:
        for tap, table in zip(self.taps, self.tables, strict=True):
            table.add(rows, outputs[tap.index][good].cpu())
