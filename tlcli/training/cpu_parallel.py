"""Parts of a batch trained beside each other on a CPU, a core each, instead of all cores on each
operation, where they would wait for each other hundreds of times a step."""

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
from tlcli.training.freezing import BATCHNORM

MIN_IMAGES_PER_CORE = 8
"""Images a lane, at least."""

Sums = tuple[Sequence[Tensor | None], Tensor]
"""The gradients by parameter, and sums over the images."""


class ParallelGradients:
    """Computes the gradients of a suffix for the parts of a batch in threads.

    What is drawn in a lane (dropout's masks, stochastic depth) comes from a generator of its own,
    so that it depends on torch's seed alone and not on which thread was first.
    """

    def __init__(self, suffix: nn.Module, compute: Compute) -> None:
        self.suffix = suffix
        alone = compute.device.type == "cpu" and not compute.compiled and world_size() == 1
        self.most = compute.workers if alone else 1
        self._pool: ThreadPoolExecutor | None = None

    def of(self, x: Tensor) -> int:
        """How many lanes a batch's activations [n, ...] are dealt to; 1: it is left whole.

        BatchNorm that learns needs the whole batch, and a head of layers on codes [n, d] is too
        little for a lane.
        """
        if self.most == 1 or x.dim() == 2:
            return 1
        if any(isinstance(m, BATCHNORM) and m.training for m in self.suffix.modules()):
            return 1
        return max(1, min(self.most, len(x) // MIN_IMAGES_PER_CORE))

    def sums(self, compute: Callable[[Tensor, Tensor], Sums], x: Tensor, y: Tensor, n: int) -> Sums:
        """`compute` of n parts of a batch, each in its lane, added up in the parts' order."""
        if n == 1:
            return compute(x, y)
        if self._pool is None:
            share = max(1, torch.get_num_threads() // self.most)
            first = partial(torch.set_num_threads, share)
            self._pool = ThreadPoolExecutor(self.most, "tlcli-lane", first)
        seeds = torch.randint(2**62, (n,)).tolist()

        def one(seed: int, part: Tensor, truth: Tensor) -> Sums:
            with _Drawn(torch.Generator().manual_seed(seed)):
                return compute(part, truth)

        parts = zip(seeds, x.tensor_split(n), y.tensor_split(n), strict=True)
        jobs = [self._pool.submit(one, *part) for part in parts]
        wait(jobs)  # all of them: where memory runs out in one, the others still hold theirs
        [(total, sums), *others] = [job.result() for job in jobs]
        total = list(total)
        for gradients, more in others:
            sums = sums + more
            for place, gradient in enumerate(gradients):
                if gradient is not None:
                    mine = total[place]
                    # not in place: two parameters' gradients may be one tensor
                    total[place] = gradient if mine is None else mine + gradient
        return total, sums


class _Drawn(TorchFunctionMode):
    """Dropout and stochastic depth draw from `generator`; torch's own is all threads' together."""

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
        if not training or not p:
            return x
        mask = torch.empty_like(x).bernoulli_(1 - p, generator=self.generator)
        return x * mask.div_(1 - p) if p < 1 else x * mask
