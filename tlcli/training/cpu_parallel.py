"""Gradients of the parts of a batch in parallel on a CPU, one thread per part.

All cores on each operation would wait for each other hundreds of times per step.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.process_group import world_size
from tlcli.training.freezing import BATCHNORM_LAYERS

MIN_IMAGES_PER_PART = 8
"""Images of a batch's part, at least."""

Sums = tuple[Sequence[Tensor | None], Tensor]
"""The gradients by parameter, and sums over the images."""


class ParallelGradients:
    """The computation of a suffix's gradients for the parts of a batch, in threads.

    Random draws of a part (dropout's masks, stochastic depth) come from a generator of its own,
    so that they depend on torch's seed alone and not on which thread was first.

    Attributes:
        max_parts: the parts that may run at the same time.
    """

    def __init__(self, suffix: nn.Module, compute: Compute) -> None:
        self.suffix = suffix
        alone = compute.device.type == "cpu" and not compute.compiled and world_size() == 1
        self.max_parts = compute.workers if alone else 1
        self._pool: ThreadPoolExecutor | None = None

    def count_parts(self, x: Tensor) -> int:
        """Return how many parts a batch of activations, [n, ...], is split into.

        BatchNorm that adapts needs the whole batch, and a head on features, [n, d], is too little
        work for a thread.
        """
        if self.max_parts == 1 or x.dim() == 2:
            return 1
        if any(isinstance(m, BATCHNORM_LAYERS) and m.training for m in self.suffix.modules()):
            return 1
        return max(1, min(self.max_parts, len(x) // MIN_IMAGES_PER_PART))

    def add_up(
        self, compute: Callable[[Tensor, Tensor], Sums], x: Tensor, y: Tensor, n_parts: int
    ) -> Sums:
        """Call `compute` on each part of a batch in parallel; add up the results in their order."""
        if n_parts == 1:
            return compute(x, y)
        if self._pool is None:
            threads = max(1, torch.get_num_threads() // self.max_parts)
            initialize = partial(torch.set_num_threads, threads)
            self._pool = ThreadPoolExecutor(self.max_parts, "tlcli-gradients", initialize)
        seeds = torch.randint(2**62, (n_parts,)).tolist()

        def compute_part(seed: int, x: Tensor, y: Tensor) -> Sums:
            with _SeededDropout(torch.Generator().manual_seed(seed)):
                return compute(x, y)

        parts = zip(seeds, x.tensor_split(n_parts), y.tensor_split(n_parts), strict=True)
        jobs = [self._pool.submit(compute_part, *part) for part in parts]
        wait(jobs)  # all of them: where memory runs out in one, the others still hold theirs
        [(total, sums), *others] = [job.result() for job in jobs]
        total = list(total)
        for gradients, more in others:
            sums = sums + more
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    so_far = total[index]
                    # not in place: two parameters' gradients may be one tensor
                    total[index] = gradient if so_far is None else so_far + gradient
        return total, sums


class _SeededDropout(TorchFunctionMode):
    """A mode in which dropout and stochastic depth draw from a generator of their own.

    All threads share torch's default generator.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.bernoulli_:
            return func(*args, **kwargs, generator=self.generator)
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, **_: Any) -> Tensor:
        """Apply dropout with a mask from the generator."""
        if not training or not p:
            return x
        mask = torch.empty_like(x).bernoulli_(1 - p, generator=self.generator)
        return x * mask.div_(1 - p) if p < 1 else x * mask
