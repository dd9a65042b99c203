"""Honest confidence: how sure the answers may be, learnt from images the network has not fitted."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.backbones.network import Network
from tlcli.features.sources import CachedFeatures, FeatureSource, FeatureSources, RecomputedFeatures
from tlcli.metrics.metrics import Calibration
from tlcli.metrics.ood import OodDetector, fit_ood_detector, sample_indices
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.training.logistic_regression import FOLDS, left_out_logits
from tlcli.training.validation import forward_all, predict_logits

SHARE, FEWEST, MOST = 0.1, 30, 1000
"""Of the training images of a plan that trains by steps, so many are kept aside: a tenth, up to
1,000, and none where that would be fewer than 30."""


@dataclass(frozen=True)
class Confidence:
    """What a bundle knows of its own answers.

    Attributes:
        temperature: what the logits were divided by; 1 where none was surely better.
        method: where it is from: "5-fold" or "held-out".
        n: how many images it is from.
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
    """Keep some training images aside, whatever the order and by content, where there are enough.

    Returns:
        The sources without them, and them, each as it is (not augmented); or None.
    """
    samples = sources.dataset.train
    many = min(MOST, int(len(samples) * SHARE))
    if many < FEWEST:
        return sources, None
    limit = sorted(sample.digest for sample in samples)[many - 1]
    left = {sample.label for sample in samples if sample.digest > limit}
    # A class that would have nothing left to be trained on keeps what it has.
    aside = torch.tensor([s.digest <= limit and s.label in left for s in samples])
    train = sources.train
    spare = plain(train, aside.nonzero()[:, 0])
    if isinstance(train, CachedFeatures):
        rest: FeatureSource = train.subset((~aside).nonzero()[:, 0])
    else:
        kept = [sample for sample, out in zip(samples, aside.tolist(), strict=True) if not out]
        rest = replace(train, samples=kept)
    return replace(sources, train=rest), spare


def plain(source: FeatureSource, chosen: Tensor) -> FeatureSource:
    """Those images of a source, without augmentation."""
    if isinstance(source, CachedFeatures):
        return source.plain_subset(chosen)
    return RecomputedFeatures([source.samples[i] for i in chosen.tolist()], source.extractor)


def calibrate(
    network: Network,
    train: FeatureSource,
    spare: FeatureSource | None,
    strength: float | None,
    compute: Compute,
    *,
    seed: int,
    reporter: Reporter,
) -> Confidence:
    """Divide the final layer by the temperature that fits unseen images, and learn what is usual.

    A solved head is solved again without each fifth of the training images in turn, and judged
    on that fifth. Anything else is judged on `spare`. The validation images have no part in it.

    Args:
        strength: the solved head's L2 penalty; None where it was trained by steps.
    """
    suffix = network.suffix
    body = nn.Sequential(*suffix[:-1])
    codes, _ = forward_all(body, plain(train, sample_indices(len(train))), compute)
    logits = None
    if strength is not None and isinstance(train, CachedFeatures):
        layer = network.final_layer
        flat = train.selected().flatten(2)
        again = partial(left_out_logits, bias=layer.bias is not None, seed=seed)

        def left_out() -> dict[str, Tensor]:
            found = again(flat, train.labels, len(layer.weight), strength)
            return {} if found is None else {"logits": found[0], "images": found[1]}

        unseen = broadcast_from_first(left_out)
        if unseen:
            logits, labels = unseen["logits"], train.labels[unseen["images"]]
            ood_detector, method = fit_ood_detector(codes), f"{FOLDS}-fold"
    elif spare is not None:
        logits, labels = predict_logits(suffix, spare, compute)
        ood_detector = fit_ood_detector(codes, forward_all(body, spare, compute)[0])
        method = "held-out"
    if logits is None:
        reporter.note("too few training images to learn how sure to be: plain softmax")
        return Confidence()
    temperature = fit_temperature(logits, labels)
    if not is_needed(temperature, logits, labels):
        temperature = 1.0
    with torch.no_grad():
        for parameter in network.final_layer.parameters():
            parameter.div_(temperature)
    found = f"temperature {temperature:.2f}" if temperature != 1 else "no other temperature needed"
    reporter.note(f"confidence: {found}, by {len(labels)} left-out training images")
    return Confidence(temperature, method, len(labels), ood_detector)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least cross entropy (Guo et al. 2017), by bisection.

    The targets are smoothed by one image for right and one for wrong (Platt 1999), so that a few
    images without a mistake do not ask for certainty.

    Args:
        logits: float [n, classes].
        labels: int64 [n].
    """
    z = logits.double()
    n, k = z.shape
    target = torch.full_like(z, 1 / (n + 2) / max(1, k - 1))
    target[torch.arange(n), labels] = (n + 1) / (n + 2)
    aim = (target * z).sum(1).mean()

    def slope(log_inverse: float) -> Tensor:
        """Of the cross entropy, by the inverse temperature, in which it is convex."""
        return (F.softmax(z * 2.0**log_inverse, dim=1) * z).sum(1).mean() - aim

    low, high = -10.0, 10.0
    for _halving in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2.0 ** -((low + high) / 2)


def is_needed(temperature: float, logits: Tensor, labels: Tensor) -> bool:
    """Whether it lowers the cross entropy by more than chance: twice the gain's standard error."""
    before, after = (
        F.cross_entropy(logits.double() / t, labels, reduction="none") for t in (1.0, temperature)
    )
    gain = before - after
    return len(gain) > 1 and (gain.mean() > 2 * gain.std() / len(gain) ** 0.5).item()
