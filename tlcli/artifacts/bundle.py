"""The bundle: one safetensors file that holds everything a prediction needs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tlcli.artifacts.atomic import write_tensors
from tlcli.backbones import catalogue
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UserError
from tlcli.metrics.metrics import Calibration, Metrics
from tlcli.metrics.ood import OodDetector

BUNDLE_FORMAT = 3
"""The format that is written; this one and all before it are read."""
BUNDLE_KEY = "tlcli"
"""The only metadata key. Safetensors orders several keys at random, and equal content has to give
equal bytes."""

KEYS = {
    *("format", "backbone", "cut", "dropped", "classes", "preprocessing", "plan", "metrics"),
    *("dataset", "seed", "versions", "weights", "calibration", "novelty", "ends", "ancestor"),
}
"""The keys of a description; earlier formats have fewer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ancestor:
    """The bundle that a run continued from.

    Attributes:
        name: the folder and the file.
        sha256: digest of its tensors.
        weights: the weights that it was itself trained from.
    """

    name: str
    sha256: str
    weights: str

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON types."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the `ancestor` of a bundle.

        Raises:
            KeyError: a field is missing.
        """
        return cls(content["name"], content["sha256"], content["weights"])


@dataclass(frozen=True)
class BundleMeta:
    """The description of a bundle. It holds no timings, so that equal runs give equal bytes.

    Attributes:
        backbone: the backbone's name, one of `tlcli models`.
        cut: the last frozen stage, or "none".
        classes: names in the order of the outputs.
        preprocessing: how an image becomes the network's input.
        plan: the plan with its evidence, as `Plan.to_dict` gives it; a plan of an older version may
            lack fields.
        metrics: on the validation images (and the test images); None where nothing was measured.
        dataset: sha256 of the training data's content.
        seed: the run's seed.
        versions: the versions of tlcli, torch and torchvision.
        weights: label of the weights that training started from.
        calibration: the temperature that the final layer was divided by; None if it was not.
        ood_detector: measures how unlike the training images an image is; None if it could not be
            fitted. Its key in JSON is "novelty".
        truncated_after: the backbone's last stage that is kept, with a new head after it; None if
            no stage was dropped. Its key in JSON is "ends".
        ancestor: the bundle that the run continued from, if any.
    """

    backbone: str
    cut: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    plan: Mapping[str, Any]
    metrics: Metrics | None
    dataset: str
    seed: int
    versions: Mapping[str, str]
    weights: str
    calibration: Calibration | None = None
    ood_detector: OodDetector | None = None
    truncated_after: str | None = None
    ancestor: Ancestor | None = None

    @property
    def dropped(self) -> bool:
        """Whether stages of the backbone were dropped for a new head."""
        return self.truncated_after is not None

    @property
    def temperature(self) -> float:
        """The temperature that the final layer was divided by; 1 where it was not calibrated."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def to_json(self) -> str:
        """Return the description in one line, keys sorted."""
        content = {
            "format": BUNDLE_FORMAT,
            "backbone": self.backbone,
            "cut": self.cut,
            "dropped": self.dropped,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "plan": self.plan,
            "metrics": self.metrics.to_dict() if self.metrics else {},
            "dataset": self.dataset,
            "seed": self.seed,
            "versions": self.versions,
            "weights": self.weights,
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "novelty": self.ood_detector.to_dict() if self.ood_detector else None,
            "ends": self.truncated_after,
            "ancestor": self.ancestor.to_dict() if self.ancestor else None,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` of this or an earlier version wrote.

        Raises:
            UserError: it is of a newer format.
            ValueError, KeyError: it is damaged; a bundle may come from anywhere.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("no format version")
        if content["format"] > BUNDLE_FORMAT:
            raise UserError(
                f"its bundle format {content['format']} is newer than {BUNDLE_FORMAT}, the newest "
                "that this tlcli reads",
                "upgrade tlcli",
            )
        if unknown := content.keys() - KEYS:
            raise ValueError(f"unknown key {min(unknown)!r}")
        metrics = _checked(content, "metrics", dict)
        return cls(
            backbone=_checked_backbone(content),
            cut=_checked(content, "cut", str),
            classes=_checked_classes(content),
            preprocessing=Preprocessing.from_dict(_checked(content, "preprocessing", dict)),
            plan=_checked(content, "plan", dict),
            metrics=Metrics.from_dict(metrics) if metrics else None,
            dataset=_checked(content, "dataset", str),
            seed=_checked(content, "seed", int),
            versions=_checked(content, "versions", dict),
            weights=_checked(content, "weights", str),
            calibration=_optional(content, "calibration", Calibration.from_dict),
            ood_detector=_optional(content, "novelty", OodDetector.from_dict),
            truncated_after=_checked_truncation(content),
            ancestor=_optional(content, "ancestor", Ancestor.from_dict),
        )


def save_bundle(path: Path, tensors: Mapping[str, Tensor], meta: BundleMeta) -> None:
    """Write a bundle atomically."""
    write_tensors(path, tensors, {BUNDLE_KEY: meta.to_json()})


def read_meta(path: Path) -> BundleMeta:
    """Read the description of the bundle at `path`.

    Raises:
        UserError: there is no such file, or it is not a bundle, or of a newer format.
    """
    text = _open(path, lambda file: (file.metadata() or {}).get(BUNDLE_KEY))
    if text is None:
        raise UserError(
            f"{path} is a safetensors file, but not a bundle of tlcli",
            "to start from plain weights, use: tlcli finetune DIR --model NAME --weights FILE",
        )
    try:
        return BundleMeta.from_json(text)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: its description is damaged ({error})", "train it again"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the bundle's tensors by name."""
    return _open(path, lambda file: {k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118


def _checked(content: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = content[key]
    if not isinstance(value, kind):
        raise ValueError(f"{key} is {value!r:.40}, not of type {kind.__name__}")
    return value


def _optional(
    content: Mapping[str, Any], key: str, read: Callable[[dict[str, Any]], T]
) -> T | None:
    """Read the object under `key`, if there is one."""
    return None if content.get(key) is None else read(_checked(content, key, dict))


def _checked_backbone(content: Mapping[str, Any]) -> str:
    name = content["backbone"]
    if name not in catalogue.catalogue():
        raise ValueError(f"unknown backbone {name!r}")
    return str(name)


def _checked_classes(content: Mapping[str, Any]) -> tuple[str, ...]:
    classes = content["classes"]
    if not isinstance(classes, list) or not classes or not all(isinstance(c, str) for c in classes):
        raise ValueError("classes are not a list of names")
    if len(set(classes)) < len(classes):
        raise ValueError("two classes have the same name")
    return tuple(classes)


def _checked_truncation(content: Mapping[str, Any]) -> str | None:
    """Return the last stage that is kept; before format 3 it was always the cut."""
    dropped, truncated_after = _checked(content, "dropped", bool), content.get("ends")
    if truncated_after is not None and not (isinstance(truncated_after, str) and dropped):
        raise ValueError("ends is not a stage, or no stage was dropped")
    return (truncated_after or _checked(content, "cut", str)) if dropped else None


def _open(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", "name a bundle or a run folder") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as a safetensors file: {error}",
            "a bundle is the model.safetensors that tlcli finetune writes",
        ) from error
