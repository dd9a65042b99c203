"""The metrics of a trained network that its run folder and its bundle hold."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from tlcli.backbones.network import Network
from tlcli.data.dataset import Dataset
from tlcli.data.loader import find_unreadable
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import extract_features
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.sources import CachedFeatures, FeatureSource, FeatureSources, RecomputedFeatures
from tlcli.metrics.classification import compute_metrics
from tlcli.metrics.metrics import Agreement, Metrics
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import all_gather_dict
from tlcli.runtime.distributed.sharding import shard
from tlcli.training.validation import predict_logits


def score_network(
    network: Network,
    sources: FeatureSources,
    compute: Compute,
    reporter: Reporter,
    temperature: float,
    cache: FeatureCache | None = None,
) -> Metrics:
    """Compute the metrics on the validation images, and on the test images if there are any.

    All metrics are computed in fp32, whatever precision the training used.

    Args:
        temperature: the temperature that the final layer has been divided by.
    """
    dataset, suffix, fp32 = sources.dataset, network.suffix, compute.reference()
    make_extractor = partial(
        FeatureExtractor,
        network.prefix,
        network.backbone.preprocessing,
        fp32,
        reporter,
        origin=network.backbone.origin,
        reference_samples=choose_reference_samples(dataset.train),
    )
    in_mixed_precision, val = sources.val_mixed, sources.val
    if in_mixed_precision is not None and not isinstance(val, CachedFeatures):
        val = RecomputedFeatures(dataset.val, make_extractor())
    logits, labels = predict_logits(suffix, val, fp32)
    metrics = compute_metrics(logits, labels, dataset.classes, temperature)
    if in_mixed_precision is not None:
        mixed_logits, _ = predict_logits(suffix, in_mixed_precision, compute)
        metrics = replace(metrics, agreement=count_agreement(logits, mixed_logits, compute))
    if dataset.test:
        cached = isinstance(val, CachedFeatures)
        test, unreadable = _test_features(dataset, make_extractor(), cached, cache)
        for path, why in unreadable.items():
            reporter.warn(f"test image left out: {path}: {why}")
        logits, labels = predict_logits(suffix, test, fp32)
        test_metrics = compute_metrics(logits, labels, dataset.classes, temperature)
        metrics = replace(metrics, test=test_metrics)
    return metrics


def _test_features(
    dataset: Dataset, extractor: FeatureExtractor, cached: bool, cache: FeatureCache | None
) -> tuple[FeatureSource, dict[Path, str]]:
    """Return the features of the readable test images, and the unreadable ones with the reason."""
    if cached:
        features, labels, unreadable = extract_features(
            dataset.test, extractor, task="test", cache=cache, reporter=extractor.reporter
        )
        return CachedFeatures(features, labels), unreadable
    paths = [sample.path for sample in dataset.test]
    unreadable = all_gather_dict(find_unreadable(shard(paths), extractor.reporter))
    readable = [sample for sample in dataset.test if sample.path not in unreadable]
    return RecomputedFeatures(readable, extractor), unreadable


def count_agreement(reference: Tensor, mixed: Tensor, compute: Compute) -> Agreement:
    """Count the images whose predicted class in the run's precision is the same as in fp32.

    Args:
        reference: logits in fp32, float32 [n, classes].
        mixed: logits in the run's precision, float32 [n, classes].
    """
    same = int((reference.argmax(1) == mixed.argmax(1)).sum())
    return Agreement(compute.name, len(reference), same)
