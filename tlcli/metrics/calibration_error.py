"""TODO"""

from typing import Any

import torch
from torch import Tensor

BINS = 15
"""Of the expected calibration error, equally wide (Guo et al. 2017)."""


RESAMPLES = 1000


def calibration_error(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, Any]:
    """Whether answers given with probability p are right in p of all cases.

    Args:
        logits: float [n, classes], divided by `temperature` already.

    Returns:
        `temperature`; `ece`, the expected calibration error of the probabilities as they are, and
        `raw_ece`, that before the division, each with the 2.5th and 97.5th percentile of 1,000
        bootstrap samples as `_low` and `_high`; and `difference`, ece minus raw_ece, likewise
        (the samples are the same for both). Errors are at least 0, so chance alone makes them
        larger than 0, and in a bootstrap sample larger still.
    """
    found: dict[str, Any] = {"temperature": temperature}
    names = ("ece", "raw_ece", "difference")
    if not len(labels):
        return found | {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
    gaps = [_gaps((logits * factor).double(), labels) for factor in (1.0, temperature)]
    n = len(labels)
    draw = torch.Generator().manual_seed(0)
    # A row of weights a sample: how often each image was drawn; the first row is the data itself.
    samples = [torch.ones(n, dtype=torch.float64)]
    samples += [
        torch.bincount(torch.randint(n, (n,), generator=draw), minlength=n).double()
        for _ in range(RESAMPLES)
    ]
    errors = torch.tensor(
        [[(weights @ gap).abs().sum().item() / n for gap in gaps] for weights in samples],
        dtype=torch.float64,
    )
    values = torch.cat([errors, errors[:, :1] - errors[:, 1:]], dim=1)
    for name, column in zip(names, values.T, strict=True):
        low, high = column[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        ends = {name: column[0].item(), f"{name}_low": low, f"{name}_high": high}
        found |= {key: round(value, 6) for key, value in ends.items()}
    return found


def _gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each image probability minus right (1 or 0), in the column of its bin: [n, BINS]."""
    probability, answer = logits.softmax(1).nan_to_num(0).max(1)
    gap = probability - (answer == labels).double()
    place = (probability * BINS).long().clamp_max(BINS - 1)
    return torch.zeros(len(labels), BINS, dtype=torch.float64).scatter_(
        1, place[:, None], gap[:, None]
    )
