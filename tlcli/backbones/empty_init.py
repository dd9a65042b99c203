"""Building a torchvision model whose weights are still to come: nothing is drawn for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_FROM_VALUES = {torch.arange, torch.tensor}
_DRAWN: set[Callable[..., Any]] = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
_REDRAWN = {torch.Tensor.normal_, torch.Tensor.uniform_}
"""By `trunc_normal_`, until all is within limits: what lies in memory might never be."""


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are where they would be drawn, which takes seconds, and on the meta
    device imports torch's compiler; keeps off that device what RegNet computes its widths with."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWN:
            return args[0] if args else kwargs["tensor"]
        if func in _REDRAWN:
            return args[0].zero_()
        if func in _FROM_VALUES:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextmanager
def build_on_meta() -> Iterator[None]:
    """Models made within hold their weights on the meta device, some index buffers on the CPU."""
    with torch.device("meta"), _NothingDrawn():
        yield


@contextmanager
def skip_init() -> Iterator[None]:
    """Models made within have memory for their weights, with anything in it."""
    with _NothingDrawn():
        yield
