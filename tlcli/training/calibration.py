"""Calibration: a temperature for the logits, from images that the network was not fitted to."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.backbones.network import Network
from tlcli.features.sources import CachedFeatures, FeatureSource, FeatureSources, RecomputedFeatures
from tlcli.metrics.linear_models import FOLDS
from tlcli.metrics.metrics import Calibration
from tlcli.metrics.ood import OodDetector, fit_ood_detector, sample_indices
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.training.logistic_regression import held_out_logits
from tlcli.training.validation import forward_all, predict_logits

HELD_OUT_SHARE = 0.1
"""Share of the training images that is held out of a training in steps."""
MIN_HELD_OUT = 30
"""Images below which none are held out."""
MAX_HELD_OUT = 1000
"""Images that are held out at most."""


@dataclass(frozen=True)
class CalibrationResult:
    """The outcome of a calibration, as the bundle keeps it.

    Attributes:
        temperature: the divisor of the logits; 1 where no other is clearly better.
        method: "5-fold" or "held-out"; "" where there were too few images.
        n: the number of images that it was learned from.
        ood_detector: measures how unlike the training images an image is; None if it could not be
            fitted.
    """

    temperature: float = 1.0
    method: str = ""
    n: int = 0
    ood_detector: OodDetector | None = None

    @property
    def calibration(self) -> Calibration | None:
        """The bundle's `calibration`; None where the probabilities are the plain softmax."""
        return Calibration(self.temperature, self.method, self.n) if self.method else None


def hold_out(sources: FeatureSources) -> tuple[FeatureSources, FeatureSource | None]:
    """Hold out some training images, where there are enough.

    They are chosen by content, whatever their order.

    Returns:
        The sources without them, and their plain views; None where there are too few.
    """
    samples = sources.dataset.train
    n = min(MAX_HELD_OUT, int(len(samples) * HELD_OUT_SHARE))
    if n < MIN_HELD_OUT:
        return sources, None
    limit = sorted(sample.digest for sample in samples)[n - 1]
    trained_labels = {sample.label for sample in samples if sample.digest > limit}
    # A class that would have nothing left to be trained on keeps its images.
    held_out = torch.tensor([s.digest <= limit and s.label in trained_labels for s in samples])
    train = sources.train
    if isinstance(train, CachedFeatures):
        rest: FeatureSource = train.subset((~held_out).nonzero()[:, 0])
    else:
        kept = [sample for sample, out in zip(samples, held_out.tolist(), strict=True) if not out]
        rest = replace(train, samples=kept)
    return replace(sources, train=rest), plain_views(train, held_out.nonzero()[:, 0])


def plain_views(source: FeatureSource, indices: Tensor) -> FeatureSource:
    """Return the images at `indices` of a source, without augmentation."""
    if isinstance(source, CachedFeatures):
        return source.plain_subset(indices)
    return RecomputedFeatures([source.samples[i] for i in indices.tolist()], source.extractor)


def calibrate(
    network: Network,
    train: FeatureSource,
    held_out: FeatureSource | None,
    l2_penalty: float | None,
    compute: Compute,
    *,
    seed: int,
    reporter: Reporter,
) -> CalibrationResult:
    """Divide the final layer by the temperature that fits unseen images, and fit an OOD detector.

    A solved head is solved again without each fifth of the training images in turn, and judged
    by that fifth. Anything else is judged by `held_out`. The validation images have no part in it.

    Args:
        held_out: images that the network was not trained on; None: there are none.
        l2_penalty: the solved head's penalty; None where it was trained in steps.
    """
    suffix = network.suffix
    body = nn.Sequential(*suffix[:-1])
    features, _ = forward_all(body, plain_views(train, sample_indices(len(train))), compute)
    logits = None
    if l2_penalty is not None and isinstance(train, CachedFeatures):
        unseen = _solve_without_each_fold(network, train, l2_penalty, seed)
        if unseen:
            logits, labels = unseen["logits"], train.labels[unseen["images"]]
            ood_detector, method = fit_ood_detector(features), f"{FOLDS}-fold"
    elif held_out is not None:
        logits, labels = predict_logits(suffix, held_out, compute)
        ood_detector = fit_ood_detector(features, forward_all(body, held_out, compute)[0])
        method = "held-out"
    if logits is None:
        reporter.note("not calibrated (too few training images): probabilities are plain softmax")
        return CalibrationResult()
    temperature = fit_temperature(logits, labels)
    if not is_significant(temperature, logits, labels):
        temperature = 1.0
    with torch.no_grad():
        for parameter in network.final_layer.parameters():
            parameter.div_(temperature)
    images = f"{len(labels):,} held-out training images"
    reporter.note(
        f"already calibrated (checked on {images})"
        if temperature == 1
        else f"calibrated with temperature {temperature:.2f} (fitted on {images})"
    )
    return CalibrationResult(temperature, method, len(labels), ood_detector)


def _solve_without_each_fold(
    network: Network, train: CachedFeatures, l2_penalty: float, seed: int
) -> dict[str, Tensor]:
    """Predict training images with heads that were solved without them.

    Returns:
        The "logits" and the indices of the "images", the same on all ranks; empty where there are
        too few images.
    """
    layer = network.final_layer
    solve_again = partial(
        held_out_logits,
        train.selected().flatten(2),
        train.labels,
        len(layer.weight),
        l2_penalty,
        bias=layer.bias is not None,
        seed=seed,
    )

    def make() -> dict[str, Tensor]:
        found = solve_again()
        return {} if found is None else {"logits": found[0], "images": found[1]}

    return broadcast_from_first(make)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the lowest cross entropy (Guo et al. 2017), by bisection.

    The targets are smoothed by one correct and one wrong image (Platt 1999), so that a few images
    without a mistake do not ask for certainty.

    Args:
        logits: float [n, classes].
        labels: int64 [n].
    """
    z = logits.double()
    n, k = z.shape
    target = torch.full_like(z, 1 / (n + 2) / max(1, k - 1))
    target[torch.arange(n), labels] = (n + 1) / (n + 2)
    target_mean = (target * z).sum(1).mean()

    def slope(log_inverse: float) -> Tensor:
        """Differentiate the cross entropy by the inverse temperature, in which it is convex."""
        return (F.softmax(z * 2.0**log_inverse, dim=1) * z).sum(1).mean() - target_mean

    low, high = -10.0, 10.0
    for _halving in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2.0 ** -((low + high) / 2)


def is_significant(temperature: float, logits: Tensor, labels: Tensor) -> bool:
    """Return whether a temperature lowers the cross entropy by over two standard errors."""
    before, after = (
        F.cross_entropy(logits.double() / t, labels, reduction="none") for t in (1.0, temperature)
    )
    gain = before - after
    return len(gain) > 1 and (gain.mean() > 2 * gain.std() / len(gain) ** 0.5).item()
