"""The measuring pass: the pooled output of every stage for some images, read from the cache or
computed in one pass."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones.backbone import Backbone
from tlcli.backbones.network import Pool
from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable
from tlcli.data.loader import ImageBatch, load_batches
from tlcli.features.cache import FeatureCache
from tlcli.features.cache_table import row_id
from tlcli.features.extract import FORECAST_AFTER_BATCHES
from tlcli.features.extractor import FeatureExtractor, cut_name
from tlcli.features.views import PLAIN_VIEW, PLAIN_VIEW_ONLY, PlannedViews, Views
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.workers import compute_in_parallel

HEAD = "head"
MIN_SAMPLE = 200
"""Images that are measured however slow the backbone is."""
MAX_SECONDS = 180.0
"""Seconds that the pass may take before the sample is made smaller."""
MAX_WIDTH = 8192
"""Largest number of channels of an output that is kept; wider ones are not probed."""


@dataclass(frozen=True)
class StageOutput:
    """A stage whose pooled output is kept.

    Attributes:
        index: The stage's position in the chain.
        name: The stage's name.
        cut: The cut's name in the cache.
        pooled: Whether the stage gives maps, which are pooled here.
    """

    index: int
    name: str
    cut: str
    pooled: bool


class StageFeatures:
    """The pooled outputs of a backbone's pretrained stages, computed in one pass and cached.

    Attributes:
        stages: The stages with pretrained weights.
        outputs: The stages whose output is kept.
        tables: The cache table of each of `outputs`.
        last_stage: The name of the last output before the head; None where there is none.
        n_measured: How many of its samples the last `extract` measured.
        n_computed: How many views it computed for that.
        seconds: How long that took.
    """

    def __init__(
        self,
        backbone: Backbone,
        compute: Compute,
        cache: FeatureCache,
        reporter: Reporter,
        reference_samples: Sequence[Sample] = (),
    ) -> None:
        self.stages = backbone.stages[: backbone.pretrained]
        self.backbone = backbone
        self.reporter = reporter
        self.extractor = FeatureExtractor(
            nn.Sequential(*self.stages),
            backbone.preprocessing,
            compute,
            reporter,
            origin=backbone.origin,
            reference_samples=reference_samples,
        )
        self.extractor.choose_precision(cache)
        self.pools: list[nn.Module] = []
        self.outputs = self._find_outputs()
        names = [output.name for output in self.outputs if output.name != HEAD]
        self.last_stage = names[-1] if names else None
        self.tables = [cache.table(self._key(output)) for output in self.outputs]
        self.n_measured = self.n_computed = 0
        self.seconds = 0.0

    def _key(self, output: StageOutput) -> dict[str, Any]:
        key = self.extractor.key(output.cut)
        if key is None:
            raise ValueError(f"{self.backbone.name} has no pretrained weights to measure with")
        return key

    @torch.no_grad()
    def _find_outputs(self) -> list[StageOutput]:
        """Find the stages with parameters, the last one before the head, and the head.

        Fills `pools`, with a pool for every stage.
        """
        side = self.backbone.preprocessing.crop
        x = torch.zeros(1, 3, side, side, device=self.extractor.compute.device)
        has_head = len(self.stages) == len(self.backbone.stages)
        before_head = len(self.stages) - 1 - has_head
        outputs: list[StageOutput] = []
        width = 0
        for index, stage in enumerate(self.stages):
            x = stage(x)
            flat = x.dim() == 2
            self.pools.append(Pool("flat" if flat else self.backbone.layout))
            previous_width, width = width, self.pools[-1](x).shape[1]
            has_parameters = any(True for _ in stage.parameters())
            if width > MAX_WIDTH or not (has_parameters or (index == before_head and flat)):
                continue
            same_width = width == previous_width
            if not has_parameters and same_width and outputs and self.backbone.layout != "tokens":
                outputs.pop()  # This stage is the mean over its map: the same features again.
            cut = cut_name(nn.Sequential(*self.stages[: index + 1]))
            cut = cut if flat else f"{cut}+pool"
            outputs.append(StageOutput(index, stage.name, cut, not flat))
        return outputs

    def extract(
        self,
        samples: Sequence[Sample],
        views: Views = PLAIN_VIEW_ONLY,
        n_views: Callable[[float], int] | None = None,
    ) -> tuple[dict[str, Tensor], dict[Path, str]]:
        """Compute the pooled outputs of the plain view of each image.

        An image that has to be decoded for this is computed in every view that training will read
        later, so that it is decoded once. On a slow backbone the pass ends early: `n_measured`
        says how many of `samples` it measured.

        Args:
            views: The views to compute.
            n_views: Return how many of them, given the seconds that one takes (0: not known
                yet); None: all of them.

        Returns:
            The outputs of the readable images by stage, float32 [n, channels], and the reason for
            each unreadable image, by path.
        """
        row_ids = [row_id(s.digest, PLAIN_VIEW) for s in samples]
        missing = [i for i, row in enumerate(row_ids) if not self._is_cached(row)]
        planned = PlannedViews([samples[i] for i in missing], views, n_views)
        n_missing, unreadable = self._compute_missing(planned, missing, len(samples))
        for table in self.tables:
            table.flush()
        self.n_measured = missing[n_missing] if n_missing < len(missing) else len(samples)
        readable = [row for row in row_ids[: self.n_measured] if self._is_cached(row)]
        return self._fetch(readable), unreadable

    def _compute_missing(
        self, planned: PlannedViews, missing: Sequence[int], n_samples: int
    ) -> tuple[int, dict[Path, str]]:
        """Compute the planned views of the images at `missing`, until that takes too long.

        Returns:
            How many of the missing images are measured, and why images are unreadable, by path.
        """
        batch = self.extractor.compute.batch_size
        unreadable: dict[Path, str] = {}
        done, total = 0, len(missing)
        started = time.perf_counter()
        loaded = load_batches(
            [sample.path for sample in planned.samples],
            self.extractor.preprocessing,
            batch_size=batch,
            augmentation=planned.views.augmentation,
            keys=planned.keys(),
        )
        with closing(self.compute_batches(loaded)) as batches:
            for outputs, problems in batches:
                readable = [k for k, problem in enumerate(problems) if problem is None]
                self._store([planned.row_ids[done + k] for k in readable], outputs, readable)
                unreadable |= {p.path: p.reason for p in problems if p is not None}
                done += len(problems)
                n_images = planned.images_done[done - 1]
                self.seconds = time.perf_counter() - started
                if done == FORECAST_AFTER_BATCHES * batch:
                    planned.view_seconds = self.seconds / done
                    batches_in_time = round(MAX_SECONDS / planned.view_seconds / batch)
                    fits = max(batches_in_time * batch, MIN_SAMPLE, n_images)
                    if fits < total:
                        total = fits
                        self.reporter.note(
                            f"{self.backbone.name} is slow on this machine, so {missing[fits]:,} "
                            f"images are measured instead of {n_samples:,}"
                        )
                self.reporter.progress("measuring", min(n_images, total), total)
                if n_images >= total < len(missing):
                    break
        self.n_computed = done
        return total, unreadable

    def extract_transformed(
        self, samples: Sequence[Sample], transform: Callable[[Tensor], Tensor], view: str
    ) -> dict[str, Tensor]:
        """Compute the pooled outputs of readable images whose pixels are transformed.

        Args:
            transform: Takes and returns uint8 images, [n, 3, h, w].
            view: The transform's name in the cache.
        """
        row_ids = [row_id(s.digest, view) for s in samples]
        missing = [i for i, row in enumerate(row_ids) if not self._is_cached(row)]
        done = 0
        loaded = load_batches(
            [samples[i].path for i in missing],
            self.extractor.preprocessing,
            batch_size=self.extractor.compute.batch_size,
        )
        for outputs, problems in self.compute_batches(loaded, transform):
            indices = missing[done : done + len(problems)]
            self._store([row_ids[i] for i in indices], outputs, list(range(len(problems))))
            done += len(problems)
        return self._fetch(row_ids)

    def compute_batches(
        self,
        loaded: Iterable[ImageBatch],
        transform: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> Generator[tuple[list[Tensor], list[Unreadable | None]], None, None]:
        """Yield the pooled outputs of all stages for each batch, and which images are missing."""

        def compute(batch: ImageBatch) -> tuple[list[Tensor], list[Unreadable | None]]:
            images, problems = batch
            return self.extractor.pooled_outputs(transform(images), self.pools), problems

        return compute_in_parallel(compute, loaded, self.extractor.compute)

    def _is_cached(self, row: bytes) -> bool:
        return all(row in table for table in self.tables)

    def _fetch(self, row_ids: Sequence[bytes]) -> dict[str, Tensor]:
        """Read the outputs of these rows from the tables, float32 [n, channels] by stage."""
        return {
            output.name: table.fetch(row_ids).float()
            for output, table in zip(self.outputs, self.tables, strict=True)
            if row_ids
        }

    def _store(self, row_ids: Sequence[bytes], outputs: list[Tensor], readable: list[int]) -> None:
        """Add a batch's outputs at `readable` to the tables, as the rows of `row_ids`."""
        for output, table in zip(self.outputs, self.tables, strict=True):
            table.add(row_ids, outputs[output.index][readable].cpu())
