"""A chain of frozen stages as one fast function from images to activations."""

import copy
import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones.network import Pool
from tlcli.data.dataset import Sample
from tlcli.data.preprocessing import Preprocessing
from tlcli.features.cache import FeatureCache
from tlcli.features.reference_images import N_REFERENCE_IMAGES, load_reference_images
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute, cannot_compile

PARITY = {torch.float32: 1e-3, torch.float16: 0.08, torch.bfloat16: 0.12}
"""How far from plain fp32 the fast forward may be in these numbers: the length of the difference of
some images' activations over the length of the plain ones. Up to 0.14, heads that are trained on
bf16 were found to be as good, from 0.24 on worse (docs/measured/precision.md)."""
PLAIN_STAGES = "plain"
_KEY_VERSION = 4  # to be raised when the same key would come to mean other numbers


class FeatureExtractor:
    """A chain of frozen stages as one fast function from uint8 images to activations.

    Eval mode, BatchNorm folded into the convolutions (on a copy), channels-last, in the numbers of
    `compute`; compiled where it says so. The first batch is compared with the plain stages in
    fp32; where they differ by more than `PARITY`, the fast forward in fp32 takes over, and where
    that differs, the plain stages; and it is said.

    `fold` False leaves the stages as they are, where making them fast takes longer than it saves.
    `probe` are the images that are compared instead of the first batch, so that the outcome
    depends neither on what is cached nor on which thread or process was first;
    see `choose_precision`.
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
        probe: Sequence[Sample] = (),
    ) -> None:
        self.plain = stages.eval().to(compute.device).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.compute = compute
        self.reporter = reporter or Reporter()
        self.origin = origin
        self.probe = probe
        self.seconds = [0.0] * len(self.plain)
        self.dtype = compute.stored if len(self.plain) else torch.float32
        self.fold = fold
        self.autocast = compute.autocast
        self.unchecked = fold and len(self.plain) > 0
        self.verdict: str | None = None
        # Made when the first image comes: where all activations are cached, none does.
        self.links: list[nn.Module] = list(self.plain)
        self._checking = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] to [n, ...] of type `dtype`, on the device; may be called by several
        threads at once."""
        with torch.inference_mode():
            x = self._normalized(images)
            with self.autocast():
                for link in self.links:
                    x = link(x)
        # A copy, made outside: autograd takes no tensor of inference mode.
        return x.to(self.dtype, copy=True)

    def every(self, images: Tensor, pools: Sequence[nn.Module]) -> list[Tensor]:
        """uint8 [n, 3, h, w] to the output of each stage through its pool, on the device.

        What the next stage reads is what `__call__` would give it, so that a pooled activation
        is the same number whichever of the two computed it. Adds to `seconds`, by stage.
        """
        outputs = []
        with torch.inference_mode():
            x = self._normalized(images)
            for index, (link, pool) in enumerate(zip(self.links, pools, strict=True)):
                started = time.perf_counter()
                with self.autocast():
                    x = link(x)
                    # Pooling keeps what an in-place ReLU in the next stage would overwrite.
                    outputs.append(pool(x).to(self.dtype, copy=True))
                self.seconds[index] += time.perf_counter() - started
        return outputs

    def reference(self) -> "FeatureExtractor":
        """The same in fp32, which metrics are of; itself where it is that already."""
        if self.compute.dtype is None:
            return self
        fp32 = self.compute.reference()
        return FeatureExtractor(
            self.plain,
            self.preprocessing,
            fp32,
            self.reporter,
            origin=self.origin,
            probe=self.probe,
        )

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
            **({} if self.verdict in (None, self.compute.name) else {"fallen": self.verdict}),
            "machine": torch.backends.cpu.get_cpu_capability()
            if self.compute.device.type == "cpu"
            else torch.cuda.get_device_name()
            if self.compute.device.type == "cuda"
            else self.compute.device.type,
            "threads": self.compute.threads,
            "batch": self.compute.batch_size,
            "torch": torch.__version__,
            "version": _KEY_VERSION,
        }

    def choose_precision(self, cache: FeatureCache | None) -> None:
        """Decide now, on the images of `probe`, in which numbers it is computed.

        Before `key` is asked for, since rows of different numbers lie on different shelves. What
        was decided before on the same images is known to `cache`.
        """
        if not self.unchecked or self.verdict or not self.probe or self.compute.compiled:
            return
        about = [self.key(), sorted(sample.digest for sample in self.probe)]
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        known = cache.verdicts().get(name) if cache is not None and about[0] else None
        if known in self._candidates():
            self.verdict = known
            return
        images = load_reference_images(self.probe, self.preprocessing)
        if len(images):
            with torch.inference_mode(), self._checking:
                self._check(self._ready(images))
            if cache is not None and about[0] and self.verdict:
                cache.note_verdict(name, self.verdict)

    def _normalized(self, images: Tensor) -> Tensor:
        x = self._ready(images)
        with self._checking:
            if self.unchecked and self.verdict:
                self._take(self.verdict)
            elif self.unchecked:
                # Compiled kernels are made for a whole batch.
                compared = () if self.compute.compiled else self.probe
                probe = load_reference_images(compared, self.preprocessing)
                self._check(self._ready(probe) if len(probe) else x)
        return x

    def _ready(self, images: Tensor) -> Tensor:
        images = images.to(self.compute.device, non_blocking=True)
        return self.preprocessing.normalize(images).contiguous(memory_format=torch.channels_last)

    def _check(self, x: Tensor) -> None:
        """Take the first that is near enough to the plain stages in fp32: as asked, fp32, plain."""
        # Compiled kernels are made for a whole batch.
        plain = x = x if self.compute.compiled else x[:N_REFERENCE_IMAGES]
        for stage in self.plain:
            plain = stage(plain)
        for name, compute in self._candidates().items():
            self._take(name)
            why = "" if compute is None else self._problem(x, plain, PARITY[compute.stored])
            if not why:
                break
            self.reporter.warn(
                f"the quickest forward pass for these images, {name}, {why}; "
                "a slower one is taken, and the results are as good"
            )

    def _candidates(self) -> dict[str, Compute | None]:
        """From quick to safe, by name; None: the stages as they are."""
        fp32 = self.compute.reference()
        every = (self.compute, fp32, replace(fp32, compiled=False))
        return {**{compute.name: compute for compute in every}, PLAIN_STAGES: None}

    def _take(self, name: str) -> None:
        compute = self._candidates()[name]
        self.links = [_fast(s, compute) if compute else s for s in self.plain]
        self.autocast = (compute or self.compute.reference()).autocast
        self.verdict, self.unchecked = name, False

    def _problem(self, x: Tensor, plain: Tensor, limit: float) -> str:
        try:
            with self.autocast():
                for link in self.links:
                    x = link(x)
        except RuntimeError as error:
            if not self.compute.compiled:
                raise
            return cannot_compile(error)
        difference = ((plain - x.float()).norm() / plain.norm().clamp_min(1e-6)).item()
        if difference <= limit or not plain.isfinite().all():  # damaged weights: others tell
            return ""
        return f"is off by {difference:.2%} (limit {limit:.1%})"


def _fast(stage: nn.Module, compute: Compute) -> nn.Module:
    """The stage for inference; itself where nothing is to be gained."""
    made = stage
    if any(isinstance(m, nn.BatchNorm2d) for m in stage.modules()):
        from torch.fx.experimental.optimization import fuse

        made = fuse(stage).to(memory_format=torch.channels_last)
    layers = (nn.Conv2d, nn.Linear)
    if compute.dtype is not None and any(isinstance(m, layers) for m in stage.modules()):
        # Autocast would cast these for every batch anew.
        made = copy.deepcopy(stage) if made is stage else made
        for module in made.modules():
            if isinstance(module, layers):
                module.to(compute.dtype)
    if compute.compiled:
        # The code of a stage's `forward` is that of all stages, and each is compiled for itself.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        options: dict[str, Any] = {"freezing": True}
        made = torch.compile(made, dynamic=False, options=options)  # type: ignore[assignment]
    return made


def cut_name(stages: nn.Sequential) -> str:
    """The last stage's name; "NAME+pool" where the maps of stage NAME are pooled by ours."""
    names = [str(stage.name) for stage in stages]
    pools = [m for m in stages[-1].modules() if isinstance(m, Pool)]
    if not pools:
        return names[-1]
    return names[-2] if pools[0].layout == "flat" else f"{names[-2]}+pool"
