"""A chain of frozen stages as one function from images to features."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones.network import Pool
from tlcli.data.dataset import Sample
from tlcli.data.preprocessing import Preprocessing
from tlcli.features.cache import FeatureCache
from tlcli.features.precision_check import CheckedForward
from tlcli.features.reference_images import N_REFERENCE_IMAGES, load_reference_images
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute

_KEY_VERSION = 4  # Raise it when an equal key would come to mean other features.


@dataclass(eq=False)
class FeatureExtractor:
    """A chain of frozen stages as one fast function from uint8 images to features.

    The stages run in eval mode and channels-last, in the precision of `compute`, with BatchNorm
    folded into the convolutions (on a copy), and compiled where `compute` says so. They are first
    compared with the plain stages in fp32; where they differ too much, a slower forward pass is
    used, and a warning says so. See `CheckedForward`.

    Attributes:
        stages: The plain stages.
        compute: The device and precision.
        optimize: Whether to fold, cast and compile; False where that takes longer than it saves.
        origin: Whose stages these are ("backbone", "weights"), for the cache; None: unknown.
        reference_samples: The images to compare on, so that the outcome depends neither on what is
            cached nor on which thread or process comes first. Without any: the first batch.
        forward: The forward pass that is used.
        dtype: The type of the features.
        stage_seconds: Time spent in each stage by `pooled_outputs`.
    """

    stages: nn.Sequential
    preprocessing: Preprocessing
    compute: Compute
    reporter: Reporter = field(default_factory=Reporter)
    optimize: bool = True
    origin: Mapping[str, str] | None = None
    reference_samples: Sequence[Sample] = ()

    def __post_init__(self) -> None:
        self.stages.eval().to(self.compute.device).to(memory_format=torch.channels_last)
        self.forward = CheckedForward(self.stages, self.compute, self.reporter, self.optimize)
        self.dtype = self.compute.feature_dtype if len(self.stages) else torch.float32
        self.stage_seconds = [0.0] * len(self.stages)

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the features of uint8 images, [n, 3, h, w]: [n, ...] of `dtype`, on the device.

        Several threads may call this at once.
        """
        with torch.inference_mode():
            features = self.forward(self._prepare(images))
        # Copied outside of inference mode, whose tensors autograd refuses.
        return features.to(self.dtype, copy=True)

    def pooled_outputs(self, images: Tensor, pools: Sequence[nn.Module]) -> list[Tensor]:
        """Compute the output of each stage through its pool, of uint8 images, [n, 3, h, w].

        Each stage reads the input that `__call__` would give it, so a pooled output is the same
        to the bit whichever of the two computed it. Adds to `stage_seconds`.
        """
        outputs = []
        with torch.inference_mode():
            x = self._prepare(images)
            for index, (stage, pool) in enumerate(zip(self.forward.stages, pools, strict=True)):
                started = time.perf_counter()
                with self.forward.autocast():
                    x = stage(x)
                    # Copied now: an in-place ReLU of the next stage would overwrite it.
                    outputs.append(pool(x).to(self.dtype, copy=True))
                self.stage_seconds[index] += time.perf_counter() - started
        return outputs

    def reference(self) -> "FeatureExtractor":
        """Return this extractor in fp32, which metrics are computed in; itself if it is."""
        if self.compute.dtype is None:
            return self
        return replace(self, compute=self.compute.reference(), optimize=True)

    def key(self, cut: str | None = None) -> dict[str, Any] | None:
        """Return what the features at `cut` (default: the last stage) depend on besides the image.

        Plain JSON types; None where the origin is unknown.
        """
        if self.origin is None or not len(self.stages):
            return None
        compute, choice = self.compute, self.forward.choice
        # The names of the fields are part of what tables are found by.
        return {
            **self.origin,
            "cut": cut or cut_name(self.stages),
            "preprocessing": self.preprocessing.to_dict(),
            "numbers": compute.name,
            **({} if choice in (None, compute.name) else {"fallen": choice}),
            "machine": _machine(compute.device),
            "threads": compute.threads,
            "batch": compute.batch_size,
            "torch": torch.__version__,
            "version": _KEY_VERSION,
        }

    def choose_precision(self, cache: FeatureCache | None) -> None:
        """Choose the forward pass now, on the reference images, not at the first batch.

        Call it before `key`, because features of different precision have cache tables of their
        own. A choice that was made before on the same images is read from `cache`.
        """
        if not self.reference_samples or self.compute.compiled:
            return
        about = [self.key(), sorted(sample.digest for sample in self.reference_samples)]
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        self.forward.choose(self._reference_batch, cache if about[0] else None, name)

    def _prepare(self, images: Tensor) -> Tensor:
        """Normalize uint8 images on the device, and make the forward pass ready for them."""
        x = self._normalize(images)

        def images_to_compare() -> Tensor:
            if self.compute.compiled:  # Compiled kernels are made for a whole batch.
                return x
            reference = self._reference_batch()
            return reference if len(reference) else x[:N_REFERENCE_IMAGES]

        self.forward.build(images_to_compare)
        return x

    def _normalize(self, images: Tensor) -> Tensor:
        images = images.to(self.compute.device, non_blocking=True)
        return self.preprocessing.normalize(images).contiguous(memory_format=torch.channels_last)

    def _reference_batch(self) -> Tensor:
        """Load the reference images that are still readable, normalized."""
        images = load_reference_images(self.reference_samples, self.preprocessing)
        return self._normalize(images[:N_REFERENCE_IMAGES])


def _machine(device: torch.device) -> str:
    """Return the kind of processor that computes."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def cut_name(stages: nn.Sequential) -> str:
    """Return the last stage's name; "NAME+pool" where our own pool follows the maps of NAME."""
    names = [str(stage.name) for stage in stages]
    pools = [m for m in stages[-1].modules() if isinstance(m, Pool)]
    if not pools:
        return names[-1]
    return names[-2] if pools[0].layout == "flat" else f"{names[-2]}+pool"
