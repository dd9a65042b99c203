"""The metrics of a classifier as data: the content of metrics.json, bundles and reports. No torch.

Readers accept what any version wrote: a value that is missing or of another type becomes None (or
nothing), and an unknown key is ignored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class; None where the denominator is 0.

    Attributes:
        n: images of the class.
        precision: share of the images predicted as this class that are of it.
        recall: share of the images of this class that are predicted as it.
        f1: harmonic mean of the two.
    """

    n: int = 0
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Read what `to_dict` wrote."""
        return cls(n=_count(content, "n"), **_floats(content, "precision", "recall", "f1"))


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error (ECE) with and without the temperature.

    The ends of each interval are the 2.5th and 97.5th percentile of bootstrap samples.

    Attributes:
        temperature: the number that the logits were divided by; 1 where they were not calibrated.
        ece: of the probabilities as they are.
        raw_ece: of the probabilities before the division.
        difference: `ece` minus `raw_ece`, on the same bootstrap samples.
    """

    temperature: float = 1.0
    ece: float | None = None
    ece_low: float | None = None
    ece_high: float | None = None
    raw_ece: float | None = None
    raw_ece_low: float | None = None
    raw_ece_high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Read what `to_dict` wrote."""
        temperature, *others = (f.name for f in fields(cls))
        known = _float(content, temperature)
        return cls(1.0 if known is None else known, **_floats(content, *others))


@dataclass(frozen=True)
class Calibration:
    """How the probabilities of a trained network were calibrated.

    Attributes:
        temperature: the number that the final layer was divided by (Guo et al. 2017).
        method: "5-fold" or "held-out": which images it was fitted on.
        n: number of these images.
    """

    temperature: float
    method: str = ""
    n: int = 0

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the `calibration` of a bundle.

        Raises:
            ValueError: the temperature is not a positive number.
        """
        temperature, method = _float(content, "temperature"), _get(content, "method")
        if temperature is None or not 0 < temperature < math.inf:
            raise ValueError("the temperature is not a positive number")
        return cls(temperature, method if isinstance(method, str) else "", _count(content, "n"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dict(vars(self))


@dataclass(frozen=True)
class Agreement:
    """How often predictions in a lower precision are the same as in fp32.

    Attributes:
        precision: the device and precision that were compared, such as "cpu bf16"; its key in
            JSON is "numbers".
        n: validation images.
        same: images with the same predicted class.
    """

    precision: str
    n: int
    same: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"numbers": self.precision, "n": self.n, "same": self.same}

    @classmethod
    def from_dict(cls, content: Any) -> Self | None:
        """Read what `to_dict` wrote; None for anything else."""
        precision, n, same = (_get(content, key) for key in ("numbers", "n", "same"))
        if isinstance(precision, str) and isinstance(n, int) and isinstance(same, int):
            return cls(precision, n, same)
        return None


@dataclass(frozen=True)
class Metrics:
    """The metrics of one set of labeled images.

    Intervals are 95% Wilson intervals (1927).

    Attributes:
        n: images.
        top1: share of images whose predicted class is the true one; None for no images.
        top5: share of images whose true class is among the five most probable; None for five
            classes or fewer.
        loss: mean cross entropy, in nats.
        balanced_accuracy: mean recall over the classes that have images.
        per_class: the metrics of each class by its name, in the order of the outputs.
        confusion: images by true class (row) and predicted class (column).
        calibration: how far the probabilities are from the share of correct predictions.
        agreement: the comparison of the precision used in training with fp32, if there was one.
        test: the same metrics of the test images, if there are any.
    """

    n: int = 0
    top1: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None
    top5: float | None = None
    top5_low: float | None = None
    top5_high: float | None = None
    loss: float | None = None
    balanced_accuracy: float | None = None
    per_class: Mapping[str, ClassMetrics] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    calibration: CalibrationError = field(default_factory=CalibrationError)
    agreement: Agreement | None = None
    test: "Metrics | None" = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `confusion`."""
        return tuple(self.per_class)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of metrics.json: plain JSON types, without what is not there."""
        content = dict(vars(self))
        content["per_class"] = {name: of.to_dict() for name, of in self.per_class.items()}
        for key in ("calibration", "agreement", "test"):
            value = content.pop(key)
            if value is not None:
                content[key] = value.to_dict()
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content of metrics.json, or the `metrics` of a bundle or of run.json."""
        per_class, confusion = content.get("per_class"), content.get("confusion")
        test = content.get("test")
        return cls(
            n=_count(content, "n"),
            **_floats(content, *_SHARES),
            per_class={name: ClassMetrics.from_dict(of) for name, of in per_class.items()}
            if isinstance(per_class, Mapping)
            else {},
            confusion=confusion if isinstance(confusion, list) else [],
            calibration=CalibrationError.from_dict(content.get("calibration")),
            agreement=Agreement.from_dict(content.get("agreement")),
            test=cls.from_dict(test) if isinstance(test, Mapping) else None,
        )


_SHARES = (
    *("top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high"),
    *("loss", "balanced_accuracy"),
)


def accuracy_text(metrics: Metrics) -> str:
    """Return for example "91.3% (95% interval 88.1 to 93.7, n = 400)"."""
    if metrics.top1 is None or metrics.top1_low is None or metrics.top1_high is None:
        return "unknown (it was not measured)"
    low, high = metrics.top1_low * 100, metrics.top1_high * 100
    return f"{metrics.top1:.1%} (95% interval {low:.1f} to {high:.1f}, n = {metrics.n})"


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _float(content: Any, key: str) -> float | None:
    value = _get(content, key)
    return value if isinstance(value, int | float) else None


def _floats(content: Any, *keys: str) -> dict[str, Any]:
    return {key: _float(content, key) for key in keys}


def _count(content: Any, key: str) -> int:
    value = _get(content, key)
    return value if isinstance(value, int) else 0
