"""The folds and the feature scale that linear probes and solved heads share."""

import torch
from torch import Tensor

FOLDS = 5
"""Folds for cross-validation, unless a class has fewer images."""


def deal_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Deal images into stratified folds, in which every class has its share.

    Args:
        labels: int64 [n].

    Returns:
        The fold of each image, int64 [n].
    """
    n = len(labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty(n, dtype=torch.int64)
    fold[order] = torch.arange(n) % folds
    return fold


def feature_scale(deviation: Tensor) -> Tensor:
    """Return the divisors that standardize features of these standard deviations, [d].

    A feature that hardly varies carries nothing, and its small deviation would inflate it: its
    divisor is infinite.
    """
    return torch.where(deviation > 1e-6 * deviation.max(), deviation, torch.inf)
