"""How good a network is that was trained: the score that a run and its bundle hold."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from tlcli.backbones.network import Network
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

    In fp32, whatever the precision of the training was.

    Args:
        temperature: the number that the logits have been divided by.
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
        reference_samples=choose_reference_samples(dataset.train),
    )
    mixed, val = sources.val_mixed, sources.val
    if mixed is not None and not isinstance(val, CachedFeatures):
        val = RecomputedFeatures(dataset.val, forward())
    logits, labels = predict_logits(suffix, val, fp32)
    metrics = compute_metrics(logits, labels, dataset.classes, temperature)
    if mixed is not None:
        in_mixed, _ = predict_logits(suffix, mixed, compute)
        metrics = replace(metrics, agreement=count_agreement(logits, in_mixed, compute))
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
        logits, labels = predict_logits(suffix, test, fp32)
        on_test = compute_metrics(logits, labels, dataset.classes, temperature)
        metrics = replace(metrics, test=on_test)
    return metrics


def count_agreement(reference: Tensor, mixed: Tensor, compute: Compute) -> Agreement:
    """Count the images whose predicted class in the run's precision is the same as in fp32.

    Args:
        reference: logits in fp32, float32 [n, classes].
        mixed: logits in the run's precision, float32 [n, classes].
    """
    same = int((reference.argmax(1) == mixed.argmax(1)).sum())
    return Agreement(compute.name, len(reference), same)
