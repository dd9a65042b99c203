"""What was measured of a folder before deciding its case. Pure data, no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

EQUAL = 6
"""Digits of an accuracy; what differs behind them is rounding."""


@dataclass(frozen=True)
class StageScore:
    """How well a linear probe on a stage's pooled activations tells the classes apart.

    Attributes:
        accuracy: balanced, cross-validated; `error` its standard error.
        behind: how far behind the best stage, on the same images; `behind_error` the paired
            standard error of that.
    """

    name: str
    accuracy: float
    error: float
    behind: float
    behind_error: float


@dataclass(frozen=True)
class Familiarity:
    """How much at home the pretrained network is with the images.

    Attributes:
        score: what is compared with `line`: at or above it the images are similar.
        line: see `docs/four-cases.md` for how it was set.
        error: the standard error of `score`.
        by: "level" (the confidence as a share of the reference) or "self" (the mean of the two
            shares below, where these weights have no reference).
        confidence: mean probability of the likeliest ImageNet class; None without a classifier.
        reference: the same on ImageNet photographs that these weights have not seen.
        upright: share of images of which it is surer than of them upside down.
        peaked: share of images whose last codes are more peaked than upside down.
        doubt: how near to its line the score is not trusted alone, whatever its error.
    """

    score: float
    line: float
    error: float
    by: str
    confidence: float | None = None
    reference: float | None = None
    upright: float | None = None
    peaked: float | None = None
    doubt: float = 0.05

    @property
    def wins(self) -> float | None:
        """The mean of `upright` and `peaked`, as far as they are known."""
        known = [share for share in (self.upright, self.peaked) if share is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class CurvePoint:
    """Probe accuracy when fitted on a share of the sample's images."""

    images: int
    accuracy: float
    error: float


@dataclass(frozen=True)
class Pair:
    """Two classes that the best probe takes for each other, and how often, of both's images."""

    classes: tuple[str, str]
    confused: int
    of: int


@dataclass(frozen=True)
class Evidence:
    """All that the decision rests on.

    Attributes:
        n_train, n_classes: of the whole folder.
        smallest, largest: images of the smallest and of the largest class.
        sampled, sampled_classes: what the pass looked at.
        familiarity: None where nothing of it could be measured.
        sweep: by stage, first to last; empty where the classes are too small to probe.
        last: the stage whose output the head reads, by its name in `sweep`.
        curve: probe accuracy by number of images, and `grows` whether more would help.
        pairs: the hardest to tell apart, worst first.
        notes: what could not be measured, and why.
    """

    n_train: int
    n_classes: int
    smallest: int
    largest: int
    sampled: int
    sampled_classes: int
    familiarity: Familiarity | None = None
    sweep: tuple[StageScore, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    grows: str = ""
    pairs: tuple[Pair, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> StageScore | None:
        """The stage that tells the classes apart best, the earliest of equals."""
        return max(self.sweep, key=lambda s: round(s.accuracy, EQUAL), default=None)

    @property
    def telling(self) -> tuple[StageScore, ...]:
        """The sweep, where its best stage is beyond guessing; else nothing."""
        best, guessing = self.best, 1 / max(self.sampled_classes, 1)
        return self.sweep if best and best.accuracy - 2 * best.error > guessing else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, figures to six digits."""
        return _rounded(asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Evidence":
        """What `to_dict` was made of, to six digits.

        Raises:
            TypeError: fields are missing or unknown.
        """
        found = cls(**content)
        known = found.familiarity and Familiarity(**content["familiarity"])
        return replace(
            found,
            familiarity=known or None,
            sweep=tuple(StageScore(**stage) for stage in content["sweep"]),
            curve=tuple(CurvePoint(**point) for point in content["curve"]),
            pairs=tuple(
                Pair(tuple(pair["classes"]), pair["confused"], pair["of"])
                for pair in content["pairs"]
            ),
            notes=tuple(content["notes"]),
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


@dataclass(frozen=True)
class Timing:
    """What things cost on this machine, in seconds; kept apart from the evidence, since it varies.

    Attributes:
        image: one image through the whole backbone, decoding included.
        share: by stage name, the part of `image` that is spent up to and including it.
        step, step_image: a training step of all stages: its fixed part, and that of each image.
    """

    image: float
    share: Mapping[str, float] = field(default_factory=dict)
    step: float = 0.0
    step_image: float = 0.0
