"""The modules that learn, and the BatchNorm statistics that stay."""

from collections.abc import Sequence

from torch import nn

BATCHNORM_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BATCHNORM_MOMENTUM = 0.1
"""Momentum of statistics that adapt to the batches. TensorFlow's weights come with 0.01, which is
too slow for a short training: validation would still use ImageNet's statistics."""


def set_train_mode(suffix: nn.Module, batchnorm: str) -> None:
    """Put the suffix into train mode, but BatchNorm as `TrainingConfig.batchnorm` says."""
    suffix.train()
    for module in suffix.modules():
        if isinstance(module, BATCHNORM_LAYERS):
            if batchnorm == "frozen":
                module.eval()
            else:
                module.momentum = BATCHNORM_MOMENTUM


def unfreeze_last(stages: Sequence[nn.Module], n: int) -> None:
    """Let the last `n` stages learn; put the others into eval mode, without gradients."""
    for index, stage in enumerate(stages):
        learns = index >= len(stages) - n
        stage.requires_grad_(learns)
        if not learns:
            stage.eval()
