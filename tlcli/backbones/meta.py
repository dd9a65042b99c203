"""Building a torchvision model as an outline: on the meta device, without memory for weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FROM_VALUES = {torch.arange, torch.tensor}


class _ValuesOnCpu(TorchFunctionMode):
    """Keeps off the meta device what RegNet computes its widths with."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FROM_VALUES:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextmanager
def outline() -> Iterator[None]:
    """Models made within hold their weights on the meta device, some index buffers on the CPU."""
    with torch.device("meta"), _ValuesOnCpu():
        yield
