"""How good a network is that was trained: the score that a run and its bundle hold."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tlcli.backbones.network import Network
from tlcli.data.loader import find_unreadable
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import remember
from tlcli.features.extractor import FrozenForward
from tlcli.features.reference_images import probe_of
from tlcli.features.sources import Recomputed, Remembered, Source, Sources
from tlcli.metrics.classification import score
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import union
from tlcli.runtime.distributed.sharding import mine
from tlcli.training.validation import answers


def unmeasured(classes: tuple[str, ...]) -> dict[str, Any]:
    """The score of no images."""
    return score(torch.empty(0, len(classes)), torch.empty(0, dtype=torch.int64), classes)


def measure(
    network: Network,
    sources: Sources,
    compute: Compute,
    reporter: Reporter,
    temperature: float,
    cache: FeatureCache | None = None,
) -> dict[str, Any]:
    """The score on the validation images, and under "test" on the test images if there are any.

    In fp32 whatever the training's precision was. `temperature` is what the logits were divided
    by already.
    """
    dataset, suffix, preprocessing = sources.dataset, network.suffix, network.backbone.preprocessing
    fp32 = compute.reference()
    forward = partial(
        FrozenForward,
        network.prefix,
        preprocessing,
        fp32,
        reporter,
        origin=network.backbone.origin,
        probe=probe_of(dataset.train),
    )
    mixed, val = sources.val_mixed, sources.val
    if mixed is not None and not isinstance(val, Remembered):
        val = Recomputed(dataset.val, forward())
    logits, labels = answers(suffix, val, fp32)
    metrics = score(logits, labels, dataset.classes, temperature)
    if mixed is not None:
        metrics["agreement"] = agreement(logits, answers(suffix, mixed, compute)[0], compute)
    if dataset.test:
        test: Source
        if isinstance(val, Remembered):
            codes, labels, bad = remember(
                dataset.test, forward(), task="test", cache=cache, reporter=reporter
            )
            test = Remembered(codes, labels)
        else:
            bad = union(find_unreadable(mine([s.path for s in dataset.test]), reporter))
            test = Recomputed([s for s in dataset.test if s.path not in bad], forward())
        for path, why in bad.items():
            reporter.warn(f"test image left out: {path}: {why}")
        metrics["test"] = score(*answers(suffix, test, fp32), dataset.classes, temperature)
    return metrics


def agreement(reference: Tensor, mixed: Tensor, compute: Compute) -> dict[str, Any]:
    """How many of n answers are the same in the run's numbers as in fp32.

    Args:
        reference, mixed: logits, float32 [n, classes].
    """
    same = int((reference.argmax(1) == mixed.argmax(1)).sum())
    return {"numbers": compute.name, "n": len(reference), "same": same}
