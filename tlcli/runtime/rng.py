"""The state of torch's random number generators, to save and restore it with a run."""

import torch
from torch import Tensor

from tlcli.runtime.device import Compute


def get_rng_state(compute: Compute) -> dict[str, Tensor]:
    """Return the state of the CPU's generator and of the device's, uint8 [n], by device type."""
    states = {"cpu": torch.get_rng_state()}
    if compute.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(compute.device)
    return states


def set_rng_state(compute: Compute, states: dict[str, Tensor]) -> None:
    """Restore the states that `get_rng_state` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], compute.device)
