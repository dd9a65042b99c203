"""The choice of the fastest forward pass that agrees with plain fp32 on reference images."""

import threading
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tlcli.features.cache import FeatureCache
from tlcli.features.fast_stages import build_fast_stages
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute, compile_error_text

MAX_RELATIVE_ERROR = {torch.float32: 1e-3, torch.float16: 0.08, torch.bfloat16: 0.12}
"""Largest error of the features that a forward pass of each dtype may have: the norm of their
difference from plain fp32 features over the norm of those. Heads trained on bf16 features were as
good up to 0.14 and worse from 0.24 on (docs/measured/precision.md)."""
PLAIN_STAGES = "plain"
"""The name of the last candidate, the stages as they are."""


class CheckedForward:
    """A forward pass through frozen stages, by the fastest candidate that agrees with plain fp32.

    The candidates are, from fast to safe: the requested precision, fp32, fp32 without
    torch.compile, and the plain stages. They are compared on a few images, once. The fast stages
    are built when the first batch comes: where all features are cached, none does.

    Attributes:
        plain: The stages as they are.
        stages: The modules that are run; the plain ones until the fast ones are built.
        autocast: Makes the context that they are run in.
        choice: The name of the chosen candidate; None before the choice.
        pending: Whether the stages to run still have to be chosen or built.
    """

    def __init__(
        self, plain: nn.Sequential, compute: Compute, reporter: Reporter, optimize: bool
    ) -> None:
        self.plain = plain
        self.compute = compute
        self.reporter = reporter
        self.stages: list[nn.Module] = list(plain)
        self.autocast = compute.autocast
        self.choice: str | None = None
        self.pending = optimize and len(plain) > 0
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Run the stages on normalized images, [n, 3, h, w]."""
        with self.autocast():
            for stage in self.stages:
                x = stage(x)
        return x

    def candidates(self) -> dict[str, Compute | None]:
        """Return how each candidate computes, by name; None: with the plain stages."""
        fp32 = self.compute.reference()
        computes = (self.compute, fp32, replace(fp32, compiled=False))
        return {**{compute.name: compute for compute in computes}, PLAIN_STAGES: None}

    def choose(
        self, load_images: Callable[[], Tensor], cache: FeatureCache | None, name: str
    ) -> None:
        """Choose a candidate now, unless that is done; nothing is chosen without images.

        Args:
            load_images: Return the normalized images to compare on.
            cache: Holds earlier choices under `name`, and is given this one.
        """
        if not self.pending or self.choice:
            return
        known = cache.verdicts().get(name) if cache is not None else None
        if known in self.candidates():
            self.choice = known
            return
        images = load_images()
        if len(images):
            with torch.inference_mode(), self._lock:
                self._compare(images)
            if cache is not None and self.choice:
                cache.add_verdict(name, self.choice)

    def build(self, load_images: Callable[[], Tensor]) -> None:
        """Build the stages to run, unless that is done; choose them first if need be.

        Several threads may call this at once.
        """
        with self._lock:
            if self.pending and self.choice:
                self._use(self.choice)
            elif self.pending:
                self._compare(load_images())

    def _compare(self, images: Tensor) -> None:
        """Use the first candidate that agrees with the plain stages in fp32 on these images."""
        expected = images
        for stage in self.plain:
            expected = stage(expected)
        for name, compute in self.candidates().items():
            self._use(name)
            if compute is None:
                return
            problem = self._problem(images, expected, MAX_RELATIVE_ERROR[compute.feature_dtype])
            if not problem:
                return
            self.reporter.warn(
                f"the forward pass in {name} {problem}; "
                "a slower one is used, and the results are just as good"
            )

    def _use(self, name: str) -> None:
        """Run the candidate of that name from now on."""
        compute = self.candidates()[name]
        self.stages = (
            list(self.plain) if compute is None else build_fast_stages(self.plain, compute)
        )
        self.autocast = (compute or self.compute.reference()).autocast
        self.choice, self.pending = name, False

    def _problem(self, images: Tensor, expected: Tensor, limit: float) -> str:
        """Return why the stages in use are not good enough, as the end of a sentence, or ""."""
        try:
            features = self(images)
        except RuntimeError as error:
            if not self.compute.compiled:
                raise
            return compile_error_text(error)
        off = ((expected - features.float()).norm() / expected.norm().clamp_min(1e-6)).item()
        if off <= limit or not expected.isfinite().all():  # Damaged weights are reported elsewhere.
            return ""
        return f"differs from plain fp32 by {off:.2%} (limit {limit:.1%})"
