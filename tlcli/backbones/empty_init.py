"""Building models without initializing their weights, which are loaded afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_CREATES_FROM_VALUES = {torch.arange, torch.tensor}
_INITIALIZERS: set[Callable[..., Any]] = {
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
}
_RANDOM_METHODS = {torch.Tensor.normal_, torch.Tensor.uniform_}
"""What `trunc_normal_` repeats until all values are within its limits: uninitialized memory might
never be, so these write zeros."""


class _SkipInit(TorchFunctionMode):
    """Replaces random initialization by nothing while it is active.

    Drawing takes seconds, and on the meta device it imports torch's compiler. Tensors made from
    values stay on the CPU, because RegNet computes its widths with them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _INITIALIZERS:
            return args[0] if args else kwargs["tensor"]
        if func in _RANDOM_METHODS:
            return args[0].zero_()
        if func in _CREATES_FROM_VALUES:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextmanager
def build_on_meta() -> Iterator[None]:
    """Build models with their weights on the meta device, and some index buffers on the CPU."""
    with torch.device("meta"), _SkipInit():
        yield


@contextmanager
def skip_init() -> Iterator[None]:
    """Build models with memory for their weights that is not initialized."""
    with _SkipInit():
        yield
