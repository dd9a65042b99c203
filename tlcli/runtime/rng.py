"""TODO"""

import torch
from torch import Tensor

from tlcli.runtime.device import Compute


def get_rng_state(compute: Compute) -> dict[str, Tensor]:
    """What the next random number depends on, by device: uint8 [n]."""
    drawn = {"cpu": torch.get_rng_state()}
    if compute.device.type == "cuda":
        drawn["cuda"] = torch.cuda.get_rng_state(compute.device)
    return drawn


def set_rng_state(compute: Compute, drawn: dict[str, Tensor]) -> None:
    """Go on drawing where `get_rng_state` was taken."""
    torch.set_rng_state(drawn["cpu"])
    if "cuda" in drawn:
        torch.cuda.set_rng_state(drawn["cuda"], compute.device)
