"""Unequal classes: weights for the loss, or an order that draws them equally often."""

import torch
from torch import Tensor


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Weights under which every class of `labels`, int64 [n], counts the same; float32 [classes].

    Their mean over the images is 1, so that the loss and the learning rate keep their scale. A
    class without images has weight 0.
    """
    counts = torch.bincount(labels, minlength=n_classes).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts.clamp_min(1)), 0.0)


def sample_balanced(labels: Tensor, draw: torch.Generator) -> Tensor:
    """As many indices as `labels`, int64 [n], has, each class as often as the others (within one).

    An image comes again only after all others of its class have come, in a new order each time.
    """
    classes = labels.unique()
    # Who gets one more is drawn too, or the first classes would always have it.
    lucky = torch.randperm(len(classes), generator=draw) < len(labels) % len(classes)
    order = []
    for label, extra in zip(classes, lucky, strict=True):
        mine = (labels == label).nonzero().flatten()
        quota = len(labels) // len(classes) + int(extra)
        rounds = [
            mine[torch.randperm(len(mine), generator=draw)] for _ in range(-(-quota // len(mine)))
        ]
        order.append(torch.cat([*rounds, mine[:0]])[:quota])
    drawn = torch.cat(order)
    return drawn[torch.randperm(len(drawn), generator=draw)]
