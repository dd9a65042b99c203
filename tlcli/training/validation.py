"""What a network answers, and how good that is."""

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


def n_outputs(suffix: nn.Module) -> int:
    """How many classes the last layer of `suffix` tells apart."""
    return final_layer(suffix).weight.shape[0]


@torch.no_grad()
def forward_all(
    module: nn.Module, source: FeatureSource, compute: Compute
) -> tuple[Tensor, Tensor]:
    """What `module` makes of a source's activations, float32 [n, ...], and labels, int64 [n].

    In eval mode; both on the CPU.
    """
    module.eval()
    made, labels, room = [], [], BatchLimit()
    n, size = len(source), compute.batch_size
    for x, y in source.batches(shard_indices(n, size), size):
        made.append(_rows(module, x, compute, room))
        labels.append(y)
    return gather_rows(torch.cat(made), n, size), gather_rows(torch.cat(labels), n, size)


def _rows(module: nn.Module, x: Tensor, compute: Compute, room: BatchLimit) -> Tensor:
    """`module` of `x`, float32 on the CPU; in parts where memory runs out."""
    try:
        with compute.autocast():
            parts = x.split(room.max_images or max(1, len(x)))
            return torch.cat([module(to_device(p, compute.device)).float().cpu() for p in parts])
    except RuntimeError as error:
        room.reduce_after(error, len(x))
    return _rows(module, x, compute, room)


def predict_logits(
    suffix: nn.Module, source: FeatureSource, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Logits, float32 [n, classes], and labels, int64 [n], both on the CPU; eval mode."""
    if not len(source):
        return torch.empty(0, n_outputs(suffix)), torch.empty(0, dtype=torch.int64)
    return forward_all(suffix, source, compute)


def validate(
    suffix: nn.Module, val: FeatureSource | None, metric: str, compute: Compute
) -> dict[str, float | None]:
    """Mean cross entropy, top-1 and the metric that the best epoch is told by."""
    figures: dict[str, float | None] = {"val_loss": None, "val_top1": None, f"val_{metric}": None}
    if val is None or not len(val):
        return figures
    logits, labels = predict_logits(suffix, val, compute)
    said = logits.argmax(1)
    figures["val_loss"] = F.cross_entropy(logits, labels).item()
    figures["val_top1"] = (said == labels).float().mean().item()
    if metric in MACRO_METRICS:
        figures[f"val_{metric}"] = macro_metric(metric, said, labels)
    return figures


def key_of(figures: Mapping[str, float | None], metric: str) -> tuple[float, float]:
    """More is better; the loss decides between equals."""
    value, loss = figures[f"val_{metric}"] or 0.0, figures["val_loss"] or 0.0
    return (-loss if metric == "loss" else value), -loss
