"""The measurements of a folder that its case is decided on, as data that needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tlcli.planning.json_fields import from_json_types, stored_as, to_json_types

ACCURACY_DIGITS = 6
"""Digits in which accuracies are compared; further ones are rounding errors."""
BY_CONFIDENCE, BY_WIN_RATE = "level", "self"
"""The values of `SimilarityScore.method`, as bundles store them."""


@dataclass(frozen=True)
class StageScore:
    """The score of a linear probe on a stage's pooled features.

    Attributes:
        accuracy: the balanced accuracy under cross-validation.
        error: the standard error of `accuracy`.
        gap: the best stage's accuracy minus this one's, on the same images.
        gap_error: the paired standard error of `gap`.
    """

    name: str
    accuracy: float
    error: float
    gap: float = field(metadata=stored_as("behind"))
    gap_error: float = field(metadata=stored_as("behind_error"))


@dataclass(frozen=True)
class SimilarityScore:
    """How familiar the images are to the pretrained network.

    Attributes:
        score: the images are similar where this is at or above `threshold`.
        threshold: the limit, set as docs/four-cases.md tells.
        error: the standard error of `score`.
        method: `BY_CONFIDENCE` (the confidence as a share of the reference) or `BY_WIN_RATE` (the
            mean of the two win rates, where these weights have no reference).
        confidence: the mean probability of the likeliest ImageNet class; None without a classifier.
        reference: the same on ImageNet photographs that these weights have not seen.
        head_win_rate: the share of images whose logits stand out more than those of the same image
            upside down.
        feature_win_rate: the share of images whose last features are more peaked than those of the
            same image upside down.
        margin: the distance from the threshold within which the score is uncertain, whatever its
            error.
    """

    score: float
    threshold: float = field(metadata=stored_as("line"))
    error: float
    method: str = field(metadata=stored_as("by"))
    confidence: float | None = None
    reference: float | None = None
    head_win_rate: float | None = field(default=None, metadata=stored_as("upright"))
    feature_win_rate: float | None = field(default=None, metadata=stored_as("peaked"))
    margin: float = field(default=0.05, metadata=stored_as("doubt"))

    @property
    def win_rate(self) -> float | None:
        """The mean of the two win rates, as far as they are known."""
        known = [r for r in (self.head_win_rate, self.feature_win_rate) if r is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class CurvePoint:
    """The accuracy of a probe that was fitted on some of the sample's images."""

    images: int
    accuracy: float
    error: float


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that the best probe confuses.

    Attributes:
        confused: the images of either class that were predicted as the other.
        images: the images of both classes.
    """

    classes: tuple[str, str]
    confused: int
    images: int = field(metadata=stored_as("of"))


@dataclass(frozen=True)
class Evidence:
    """All measurements that the decision rests on.

    Attributes:
        n_train, n_classes: the training images and classes of the whole folder.
        smallest, largest: the images of the smallest and of the largest class.
        sampled, sampled_classes: the images and classes that were measured.
        similarity: None where it could not be measured.
        sweep: the stages' scores, first to last; empty where the classes are too small to probe.
        curve: the probe's accuracy by number of images.
        curve_note: a sentence on whether more images would help.
        pairs: the most confused pairs of classes, worst first.
        notes: sentences on what could not be measured, and why.
    """

    n_train: int
    n_classes: int
    smallest: int
    largest: int
    sampled: int
    sampled_classes: int
    similarity: SimilarityScore | None = field(default=None, metadata=stored_as("familiarity"))
    sweep: tuple[StageScore, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    curve_note: str = field(default="", metadata=stored_as("grows"))
    pairs: tuple[ConfusedPair, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def best_stage(self) -> StageScore | None:
        """The stage with the most accurate probe, the earliest of equals."""
        return max(self.sweep, key=lambda s: round(s.accuracy, ACCURACY_DIGITS), default=None)

    @property
    def informative_sweep(self) -> tuple[StageScore, ...]:
        """The sweep if its best stage is clearly better than guessing; else empty."""
        best, guessing = self.best_stage, 1 / max(self.sampled_classes, 1)
        return self.sweep if best and best.accuracy - 2 * best.error > guessing else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence in plain JSON types, its figures to six digits."""
        return _rounded(to_json_types(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Evidence":
        """Return the evidence that `to_dict` wrote.

        Raises:
            TypeError: fields are missing or unknown.
        """
        evidence = from_json_types(cls, content)
        similarity = content.get("familiarity")
        return replace(
            evidence,
            similarity=from_json_types(SimilarityScore, similarity) if similarity else None,
            sweep=tuple(from_json_types(StageScore, stage) for stage in content["sweep"]),
            curve=tuple(from_json_types(CurvePoint, point) for point in content["curve"]),
            pairs=tuple(
                ConfusedPair(tuple(pair["classes"]), pair["confused"], pair["of"])
                for pair in content["pairs"]
            ),
            notes=tuple(content["notes"]),
        )


def _rounded(value: Any) -> Any:
    """Return JSON types with floats to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return value


@dataclass(frozen=True)
class Timing:
    """The costs on this machine, in seconds; they vary, so they are no part of the evidence.

    Attributes:
        image: one image through the whole backbone, decoding included.
        share: by stage, the part of `image` that is spent up to and including it.
        step: the fixed part of a training step of all stages.
        step_image: the additional cost of each image in the step.
    """

    image: float
    share: Mapping[str, float] = field(default_factory=dict)
    step: float = 0.0
    step_image: float = 0.0
