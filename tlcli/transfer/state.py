"""Tensors where and as training needs them, and the state of what is drawn."""

import torch
from torch import Tensor

from tlcli.runtime.device import Compute


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """There, images as channels-last; a copy to CUDA runs beside what is computed there."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    form = torch.channels_last if x.dim() == 4 else torch.preserve_format
    return x.to(device, non_blocking=True, memory_format=form)


def random_state(compute: Compute) -> dict[str, Tensor]:
    """What the next random number depends on, by device: uint8 [n]."""
    drawn = {"cpu": torch.get_rng_state()}
    if compute.device.type == "cuda":
        drawn["cuda"] = torch.cuda.get_rng_state(compute.device)
    return drawn


def set_random_state(compute: Compute, drawn: dict[str, Tensor]) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(drawn["cpu"])
    if "cuda" in drawn:
        torch.cuda.set_rng_state(drawn["cuda"], compute.device)


def laid_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's tensors the memory layout of what they belong to.

    Files keep none, and another layout takes other instructions, with other last digits.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
