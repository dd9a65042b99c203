"""Predictions of a network on a source of features, and the figures that select the best epoch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.backbones.network import final_layer
from tlcli.features.sources import FeatureSource
from tlcli.metrics.classification import MACRO_METRICS, macro_metric
from tlcli.runtime.device import Compute, to_device
from tlcli.runtime.distributed.sharding import gather_rows, shard_indices
from tlcli.runtime.memory import BatchLimit


@torch.no_grad()
def forward_all(
    module: nn.Module, source: FeatureSource, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Run `module` in eval mode on all features of a source.

    Returns:
        Its outputs, float32 [n, ...], and the labels, int64 [n], both on the CPU.
    """
    module.eval()
    outputs, labels, limit = [], [], BatchLimit()
    n, size = len(source), compute.batch_size
    for x, y in source.batches(shard_indices(n, size), size):
        outputs.append(_forward(module, x, compute, limit))
        labels.append(y)
    return gather_rows(torch.cat(outputs), n, size), gather_rows(torch.cat(labels), n, size)


def _forward(module: nn.Module, x: Tensor, compute: Compute, limit: BatchLimit) -> Tensor:
    """Run `module` on a batch, in parts where memory runs out; float32 on the CPU."""
    try:
        with compute.autocast():
            parts = x.split(limit.max_images or max(1, len(x)))
            return torch.cat([module(to_device(p, compute.device)).float().cpu() for p in parts])
    except RuntimeError as error:
        limit.reduce_after(error, len(x))
    return _forward(module, x, compute, limit)


def predict_logits(
    suffix: nn.Module, source: FeatureSource, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Predict all features of a source in eval mode.

    Returns:
        The logits, float32 [n, classes], and the labels, int64 [n], both on the CPU.
    """
    if not len(source):
        n_classes = final_layer(suffix).weight.shape[0]
        return torch.empty(0, n_classes), torch.empty(0, dtype=torch.int64)
    return forward_all(suffix, source, compute)


def validate(
    suffix: nn.Module, val: FeatureSource | None, metric: str, compute: Compute
) -> dict[str, float | None]:
    """Compute the mean cross entropy, top-1 and `metric`; None without validation images."""
    figures: dict[str, float | None] = {"val_loss": None, "val_top1": None, f"val_{metric}": None}
    if val is None or not len(val):
        return figures
    logits, labels = predict_logits(suffix, val, compute)
    predicted = logits.argmax(1)
    figures["val_loss"] = F.cross_entropy(logits, labels).item()
    figures["val_top1"] = (predicted == labels).float().mean().item()
    if metric in MACRO_METRICS:
        figures[f"val_{metric}"] = macro_metric(metric, predicted, labels)
    return figures


def validation_key(figures: Mapping[str, float | None], metric: str) -> tuple[float, float]:
    """Return the sort key of an epoch: more is better; the loss decides between equals."""
    value, loss = figures[f"val_{metric}"] or 0.0, figures["val_loss"] or 0.0
    return (-loss if metric == "loss" else value), -loss
