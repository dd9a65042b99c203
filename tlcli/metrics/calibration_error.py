"""The expected calibration error, with bootstrap intervals."""

import torch
from torch import Tensor

from tlcli.metrics.metrics import CalibrationError

N_BINS = 15
"""Bins of equal width that probabilities are grouped into (Guo et al. 2017)."""
N_RESAMPLES = 1000
"""Bootstrap samples that the intervals are computed from."""


def calibration_error(logits: Tensor, labels: Tensor, temperature: float) -> CalibrationError:
    """Compute how far predicted probabilities are from the share of correct predictions.

    An error is at least 0, so chance alone makes it larger than 0, and in a bootstrap sample
    larger still.

    Args:
        logits: float [n, classes], divided by `temperature` already.
        labels: int64 [n].
        temperature: 1 where the logits were not calibrated.
    """
    if not len(labels):
        return CalibrationError(temperature)
    gaps = [_gaps((logits * factor).double(), labels) for factor in (1.0, temperature)]
    n = len(labels)
    generator = torch.Generator().manual_seed(0)
    # One row of weights per sample: how often each image was drawn. The first is the data itself.
    samples = [torch.ones(n, dtype=torch.float64)]
    samples += [
        torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n).double()
        for _ in range(N_RESAMPLES)
    ]
    errors = torch.tensor(
        [[(weights @ gap).abs().sum().item() / n for gap in gaps] for weights in samples],
        dtype=torch.float64,
    )
    # The columns are ece, raw_ece and their difference.
    values = torch.cat([errors, errors[:, :1] - errors[:, 1:]], dim=1)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    triples = [[column[0].item(), *column[1:].quantile(ends).tolist()] for column in values.T]
    return CalibrationError(temperature, *(round(v, 6) for triple in triples for v in triple))


def _gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute each image's probability minus 1 (correct) or 0 (wrong), in its bin's column.

    Returns:
        float64 [n, N_BINS], zero outside the image's bin.
    """
    probability, prediction = logits.softmax(1).nan_to_num(0).max(1)
    gap = probability - (prediction == labels).double()
    bins = (probability * N_BINS).long().clamp_max(N_BINS - 1)
    return torch.zeros(len(labels), N_BINS, dtype=torch.float64).scatter_(
        1, bins[:, None], gap[:, None]
    )
