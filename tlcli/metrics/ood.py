"""How unlike the training images an image is, from its codes alone."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tlcli.runtime.threads import map_in_order

DIRECTIONS = 32
"""Directions whose variance is kept one by one; more tell nothing more
(docs/decisions/calibration-and-ood.md)."""
PERCENTILE = 95
"""The operating point that the field compares such measures at (FPR95)."""
MIN_IMAGES = 20
"""Fewer images than these say nothing of what is usual."""
MAX_IMAGES = 2000
"""Of more images, so many are looked at: enough for the percentile, and quick at any width."""
FOLDS = 5


@dataclass(frozen=True)
class OodDetector:
    """A Gaussian around the training images' codes, and the distance from it that is unusual.

    The distance is Mahalanobis' (Lee et al. 2018), of codes scaled to length 1 (Mueller and Hein
    2025), from the mean of all classes (Kamoi and Kobayashi 2020), under the covariance of
    probabilistic PCA (Tipping and Bishop 1999): the variance along the `DIRECTIONS` widest
    directions as it is, one and the same in all others.

    Attributes:
        mean: float32 [d].
        directions: float32 [k, d], orthonormal.
        variances: float32 [k], and `rest` that of every other direction.
        threshold: the distance that 95 of 100 training images stay below, when they are left out
            of the Gaussian (of that fold).
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: float
    threshold: float

    def distance(self, codes: Tensor) -> Tensor:
        """float32 [n, ...] to float32 [n]."""
        x = unit(codes) - self.mean
        along = x @ self.directions.T
        across = (x.square().sum(1) - along.square().sum(1)).clamp_min(0)
        return ((along.square() / self.variances).sum(1) + across / self.rest).sqrt()

    def score(self, codes: Tensor) -> Tensor:
        """The distance over the threshold: above 1 is unusual. float32 [n, ...] to [n]."""
        return self.distance(codes) / self.threshold

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the vectors in half precision, base64; about 80 KB for 1,280 codes."""
        return {
            "method": "mahalanobis, unit-length codes, probabilistic PCA",
            "percentile": PERCENTILE,
            "threshold": self.threshold,
            "rest": self.rest,
            "variances": self.variances.tolist(),
            "width": len(self.mean),
            "mean": _packed(self.mean),
            "directions": _packed(self.directions),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OodDetector":
        """What `to_dict` wrote.

        Raises:
            ValueError: a field is missing or does not fit the others.
        """
        try:
            k, d = len(values["variances"]), int(values["width"])
            found = cls(
                _unpacked(values["mean"], (d,)),
                _unpacked(values["directions"], (k, d)),
                torch.tensor(values["variances"], dtype=torch.float32),
                float(values["rest"]),
                float(values["threshold"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"novelty is damaged: {error}") from error
        positive = [found.rest, found.threshold, *found.variances.tolist()]
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise ValueError("novelty is damaged: a variance or the threshold is not positive")
        return found


def unit(codes: Tensor) -> Tensor:
    """Codes as rows of length 1: of maps [n, c, h, w] the mean over the places."""
    rows = codes.float() if codes.dim() == 2 else codes.float().flatten(2).mean(2)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def fit_ood(codes: Tensor) -> OodDetector | None:
    """The Gaussian of the training images' codes, float32 [n, ...], and its threshold.

    The threshold comes from images that are left out, a fifth after the other. None where there
    are too few images, or they are all alike.
    """
    n = len(codes)
    if n < MIN_IMAGES:
        return None
    x = unit(codes)
    # Every fifth one, so that sorted classes fall into all folds alike.
    fold = torch.arange(n) % FOLDS
    parts = [x, *(x[fold != left_out] for left_out in range(FOLDS))]
    # Each on one thread: on a busy machine several that share one take a hundred times as long.
    found, *others = map_in_order(_gaussian, parts, first=partial(torch.set_num_threads, 1))
    distances = [part.distance(x[fold == left_out]) for left_out, part in enumerate(others) if part]
    return with_threshold(found, torch.cat(distances)) if len(distances) == FOLDS else None


def fit_ood_held_out(codes: Tensor, spare: Tensor) -> OodDetector | None:
    """The same where the network was trained on `codes` itself: the threshold is from `spare`."""
    if min(len(codes), len(spare)) < MIN_IMAGES:
        return None
    found = _gaussian(unit(codes))
    return None if found is None else with_threshold(found, found.distance(spare))


def with_threshold(found: OodDetector | None, distances: Tensor) -> OodDetector | None:
    """`found` with the percentile of `distances`, as a bundle would hold it."""
    if found is None:
        return None
    threshold = distances.double().quantile(PERCENTILE / 100).item()
    if not math.isfinite(threshold) or threshold <= 0:
        return None
    return OodDetector(**{**found.__dict__, "threshold": threshold})


def spread(n: int) -> Tensor:
    """Indices of at most `MAX_IMAGES` of `n` images, evenly spread."""
    return torch.linspace(0, n - 1, min(n, MAX_IMAGES)).round().long()


def _gaussian(x: Tensor) -> OodDetector | None:
    """Of unit rows, float32 [n, d]; its threshold is still to be found."""
    n, d = x.shape
    x = x.double()
    mean = x.mean(0)
    x -= mean
    # A direction needs some images to be told from chance.
    k = max(1, min(DIRECTIONS, n // 8, d - 1))
    # By way of the smaller of the two Gram matrices: a full decomposition of the codes takes ten
    # times as long. In fp32, since only the directions that vary most are of use.
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
    # As the bundle will hold them, so that the threshold fits what is read back.
    kept = (_half(mean), _half(directions[:k]), variances[:k].float())
    return OodDetector(*kept, rest, math.nan)


def _half(values: Tensor) -> Tensor:
    return values.half().float()


def _packed(values: Tensor) -> str:
    return base64.b64encode(values.half().contiguous().numpy().tobytes()).decode("ascii")


def _unpacked(text: str, shape: tuple[int, ...]) -> Tensor:
    raw = bytearray(base64.b64decode(text, validate=True))
    return torch.frombuffer(raw, dtype=torch.float16).reshape(shape).float()
