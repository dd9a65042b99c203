"""How good a network is that was trained: the score that a run and its bundle hold."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tlcli.backbones.network import Network
from tlcli.data.loader import find_unreadable
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import extract_features
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.sources import CachedFeatures, FeatureSource, FeatureSources, RecomputedFeatures
from tlcli.metrics.classification import score
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import all_gather_dict
from tlcli.runtime.distributed.sharding import shard
from tlcli.training.validation import predict_logits


def unscored(classes: tuple[str, ...]) -> dict[str, Any]:
    """The score of no images."""
    return score(torch.empty(0, len(classes)), torch.empty(0, dtype=torch.int64), classes)


def score_network(
    network: Network,
    sources: FeatureSources,
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
        FeatureExtractor,
        network.prefix,
        preprocessing,
        fp32,
        reporter,
        origin=network.backbone.origin,
        probe=choose_reference_samples(dataset.train),
    )
    mixed, val = sources.val_mixed, sources.val
    if mixed is not None and not isinstance(val, CachedFeatures):
        val = RecomputedFeatures(dataset.val, forward())
    logits, labels = predict_logits(suffix, val, fp32)
    metrics = score(logits, labels, dataset.classes, temperature)
    if mixed is not None:
        metrics["agreement"] = agreement(logits, predict_logits(suffix, mixed, compute)[0], compute)
    if dataset.test:
        test: FeatureSource
        if isinstance(val, CachedFeatures):
            codes, labels, bad = extract_features(
                dataset.test, forward(), task="test", cache=cache, reporter=reporter
            )
            test = CachedFeatures(codes, labels)
        else:
            bad = all_gather_dict(find_unreadable(shard([s.path for s in dataset.test]), reporter))
            test = RecomputedFeatures([s for s in dataset.test if s.path not in bad], forward())
        for path, why in bad.items():
            reporter.warn(f"test image left out: {path}: {why}")
        metrics["test"] = score(*predict_logits(suffix, test, fp32), dataset.classes, temperature)
    return metrics


def agreement(reference: Tensor, mixed: Tensor, compute: Compute) -> dict[str, Any]:
    """How many of n answers are the same in the run's numbers as in fp32.

    Args:
        reference, mixed: logits, float32 [n, classes].
    """
    same = int((reference.argmax(1) == mixed.argmax(1)).sum())
    return {"numbers": compute.name, "n": len(reference), "same": same}
