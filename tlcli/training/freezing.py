"""Which modules learn, and which keep their statistics."""

from collections.abc import Sequence

from torch import nn

BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MOMENTUM = 0.1
"""How fast statistics that adapt follow the batches. TensorFlow's weights come with 0.01, of which
a short training sees too little: what it validates with would still be ImageNet's."""


def set_mode(suffix: nn.Module, batchnorm: str) -> None:
    """Train mode, but for BatchNorm as the schedule says; see `TrainingConfig.batchnorm`."""
    suffix.train()
    for module in suffix.modules():
        if isinstance(module, BATCHNORM):
            if batchnorm == "frozen":
                module.eval()
            else:
                module.momentum = MOMENTUM


def unfreeze(stages: Sequence[nn.Module], last: int) -> None:
    """Let the last ones of `stages` learn; the others go into eval mode, without gradients."""
    for place, stage in enumerate(stages):
        learns = place >= len(stages) - last
        stage.requires_grad_(learns)
        if not learns:
            stage.eval()
