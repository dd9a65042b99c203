"""Fixtures for weight files."""

import pytest
import torch
from torch import Tensor

from tests.backbones.weight_files import SMALL
from tlcli.backbones.build import build


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Return the state dict of an untrained SMALL."""
    torch.manual_seed(3)
    return dict(build(SMALL).model.state_dict())
