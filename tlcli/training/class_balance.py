"""Compensation for unequal classes: weights for the loss, or an order that draws them equally."""

import torch
from torch import Tensor


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Return weights that make every class of `labels`, int64 [n], count the same.

    Their mean over the images is 1, so that the loss and the learning rate keep their scale. A
    class without images has weight 0.

    Returns:
        float32 [n_classes].
    """
    counts = torch.bincount(labels, minlength=n_classes).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts.clamp_min(1)), 0.0)


def sample_balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many indices as `labels`, int64 [n], has, each class equally often (within one).

    An image comes again only after all others of its class have come, in a new order each time.
    """
    classes = labels.unique()
    # The classes that get one more are drawn too, or the first classes would always have it.
    gets_extra = torch.randperm(len(classes), generator=generator) < len(labels) % len(classes)
    order = []
    for label, extra in zip(classes, gets_extra, strict=True):
        images = (labels == label).nonzero().flatten()
        quota = len(labels) // len(classes) + int(extra)
        rounds = [
            images[torch.randperm(len(images), generator=generator)]
            for _ in range(-(-quota // len(images)))
        ]
        order.append(torch.cat([*rounds, images[:0]])[:quota])
    drawn = torch.cat(order)
    return drawn[torch.randperm(len(drawn), generator=generator)]
