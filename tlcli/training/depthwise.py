"""Depthwise convolutions in bf16 on a CPU, whose gradients are faster in fp32."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tlcli.runtime.device import Compute


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bf16 that computes its gradients in fp32.

    oneDNN has no fast bf16 kernel for them: for a 5x5 kernel they take 4 to 7 times as long as in
    fp32, and without this three quarters of a step of EfficientNet.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any
    ) -> Any:
        x = x.to(torch.bfloat16)
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        x_grad, weight_grad, _ = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight, None, *ctx.geometry, False, [0, 0], x.shape[1], needed
        )
        x_grad = None if x_grad is None else x_grad.to(x.dtype)
        return x_grad, weight_grad, None, None, None


class _DepthwiseMode(TorchFunctionMode):
    """A mode in which depthwise convolutions are `_Depthwise`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.conv2d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            depthwise = groups == x.shape[1] == weight.shape[0] > 1
            if depthwise and bias is None and isinstance(padding, tuple):
                return _Depthwise.apply(x, weight, stride, padding, dilation)
        return func(*args, **(kwargs or {}))


def fast_depthwise(compute: Compute) -> AbstractContextManager[Any]:
    """Return a context for depthwise convolutions with fast gradients; elsewhere it does nothing.

    It acts in bf16 on a CPU.
    """
    slow = compute.device.type == "cpu" and compute.dtype is torch.bfloat16
    return _DepthwiseMode() if slow else nullcontext()
