"""Out-of-distribution detection: how unlike the training images an image is, from its features."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from tlcli.runtime.threads import map_in_order

MAX_DIRECTIONS = 32
"""Directions whose variance is kept one by one; more did not help
(docs/decisions/calibration-and-ood.md)."""
PERCENTILE = 95
"""The percentile of distances that becomes the threshold, as in the field's usual FPR95."""
MIN_IMAGES = 20
"""With fewer images than these, no detector is fitted."""
MAX_IMAGES = 2000
"""Images that a detector is fitted on at most: enough for the percentile, and quick."""
N_FOLDS = 5
"""Folds that are left out in turn to find the threshold."""


@dataclass(frozen=True)
class OodDetector:
    """A Gaussian around the features of the training images, and the distance that is unusual.

    The distance is Mahalanobis' (Lee et al. 2018), of features scaled to length 1 (Mueller and
    Hein 2025), from the mean of all classes (Kamoi and Kobayashi 2020), under the covariance of
    probabilistic PCA (Tipping and Bishop 1999): the widest directions have a variance each, all
    others share one.

    Attributes:
        mean: float32 [d].
        directions: the widest ones, float32 [k, d], orthonormal.
        variances: along `directions`, float32 [k].
        rest: the variance along every other direction.
        threshold: the distance that 95% of the training images stay below when they are left out
            of the fit.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: float
    threshold: float

    def distance(self, features: Tensor) -> Tensor:
        """Compute the Mahalanobis distance of each image.

        Args:
            features: float [n, d], or maps [n, d, h, w].

        Returns:
            float32 [n].
        """
        x = unit_vectors(features) - self.mean
        along = x @ self.directions.T
        across = (x.square().sum(1) - along.square().sum(1)).clamp_min(0)
        return ((along.square() / self.variances).sum(1) + across / self.rest).sqrt()

    def score(self, features: Tensor) -> Tensor:
        """Compute distance / threshold, float32 [n]; above 1 is out of distribution."""
        return self.distance(features) / self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: vectors in half precision, base64 (80 KB for 1,280 features)."""
        return {
            "method": "mahalanobis, unit-length codes, probabilistic PCA",
            "percentile": PERCENTILE,
            "threshold": self.threshold,
            "rest": self.rest,
            "variances": self.variances.tolist(),
            "width": len(self.mean),
            "mean": _encode(self.mean),
            "directions": _encode(self.directions),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a field is missing or does not fit the others.
        """
        try:
            k, d = len(content["variances"]), int(content["width"])
            detector = cls(
                _decode(content["mean"], (d,)),
                _decode(content["directions"], (k, d)),
                torch.tensor(content["variances"], dtype=torch.float32),
                float(content["rest"]),
                float(content["threshold"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"novelty is damaged: {error}") from error
        positive = [detector.rest, detector.threshold, *detector.variances.tolist()]
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise ValueError("novelty is damaged: a variance or the threshold is not positive")
        return detector


def fit_ood_detector(features: Tensor, held_out: Tensor | None = None) -> OodDetector | None:
    """Fit a detector to the features of training images.

    Args:
        features: float32 [n, d], or maps [n, d, h, w].
        held_out: features of images that the network was not trained on, where it was trained on
            those of `features`: the threshold comes from them. None takes it from `features`,
            each fifth left out of the fit in turn.

    Returns:
        None where there are too few images, or all are alike.
    """
    if len(features) < MIN_IMAGES or (held_out is not None and len(held_out) < MIN_IMAGES):
        return None
    x = unit_vectors(features)
    if held_out is not None:
        detector = _fit_gaussian(x)
        return detector and _with_threshold(detector, detector.distance(held_out))
    # Every fifth image, so that sorted classes are in all folds.
    fold = torch.arange(len(x)) % N_FOLDS
    parts = [x, *(x[fold != left_out] for left_out in range(N_FOLDS))]
    # Each on one thread: on a busy machine several that share one take a hundred times as long.
    detector, *others = map_in_order(_fit_gaussian, parts, first=partial(torch.set_num_threads, 1))
    if detector is None or None in others:
        return None
    distances = [
        other.distance(x[fold == left_out]) for left_out, other in enumerate(others) if other
    ]
    return _with_threshold(detector, torch.cat(distances))


def sample_indices(n: int) -> Tensor:
    """Return the indices of at most `MAX_IMAGES` of `n` images, evenly spread."""
    return torch.linspace(0, n - 1, min(n, MAX_IMAGES)).round().long()


def unit_vectors(features: Tensor) -> Tensor:
    """Scale features to rows of length 1; maps [n, d, h, w] are averaged over h and w first."""
    rows = features.float() if features.dim() == 2 else features.float().flatten(2).mean(2)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _fit_gaussian(x: Tensor) -> OodDetector | None:
    """Fit mean and variances to unit vectors, float32 [n, d]; the threshold stays NaN."""
    n, d = x.shape
    x = x.double()
    mean = x.mean(0)
    x -= mean
    # A direction needs some images to be told from chance.
    k = max(1, min(MAX_DIRECTIONS, n // 8, d - 1))
    # By way of the smaller of the two Gram matrices: a full decomposition of the features takes
    # ten times as long. In fp32, since only the directions that vary most are of use.
    gram = x @ x.T if n < d else x.T @ x
    values, vectors = (found.double() for found in torch.linalg.eigh(gram.float()))
    variances = values.flip(0)[:k].clamp_min(0) / n
    largest = vectors.flip(1)[:, :k].T
    directions = (
        largest @ x / (variances * n).sqrt().clamp_min(1e-12)[:, None] if n < d else largest
    )
    rest = (x.square().sum() / n - variances.sum()).item() / max(1, d - k)
    if rest <= 0 or not math.isfinite(rest) or variances[k - 1] <= 0:
        return None
    # Rounded as the bundle holds them, so that the threshold fits what is read back.
    return OodDetector(
        _round_to_half(mean), _round_to_half(directions[:k]), variances[:k].float(), rest, math.nan
    )


def _with_threshold(detector: OodDetector, distances: Tensor) -> OodDetector | None:
    """Set the threshold to the percentile of `distances`, if that is a positive number."""
    threshold = distances.double().quantile(PERCENTILE / 100).item()
    if not math.isfinite(threshold) or threshold <= 0:
        return None
    return replace(detector, threshold=threshold)


def _round_to_half(values: Tensor) -> Tensor:
    return values.half().float()


def _encode(values: Tensor) -> str:
    return base64.b64encode(values.half().contiguous().numpy().tobytes()).decode("ascii")


def _decode(text: str, shape: tuple[int, ...]) -> Tensor:
    raw = bytearray(base64.b64decode(text, validate=True))
    return torch.frombuffer(raw, dtype=torch.float16).reshape(shape).float()
