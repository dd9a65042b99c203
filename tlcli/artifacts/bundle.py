"""The bundle: one safetensors file that holds everything a prediction needs."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tlcli.artifacts.atomic import write_tensors
from tlcli.backbones import catalogue
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UserError
from tlcli.metrics.metrics import Metrics

FORMAT = 3
KEY = "tlcli"
"""The one metadata key, so that equal content is equal bytes: safetensors orders several at
random."""


@dataclass(frozen=True)
class BundleMeta:
    """What a bundle says of itself. Timings are not part of it: equal runs are equal bytes.

    Attributes:
        backbone: the name, one of `tlcli models`.
        cut: the last frozen stage, or "none".
        dropped: whether stages are gone (a head named `new_head` instead): those behind `ends`.
        classes: names in the order of the outputs.
        preprocessing: what an image goes through before the network.
        plan: the whole plan, with what it rests on.
        metrics: of the validation images (and the test images, where there are any); None where
            nothing was measured.
        calibration: the temperature that the final layer was divided by already, and where it is
            from; None: it was not.
        novelty: how unlike the training images an image is (`tlcli.metrics.ood`), if known.
        dataset: sha256 over the training data's content.
        seed: of the run.
        versions: of tlcli, torch and torchvision.
        weights: what the backbone started from.
        ends: the last stage of the backbone that is kept, where some were dropped; before format 3
            it was always the cut.
        ancestor: the bundle that was trained further: its name, the sha256 of its tensors, and
            the weights that it started from itself.
    """

    backbone: str
    cut: str
    dropped: bool
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    plan: Mapping[str, Any]
    metrics: Metrics | None
    dataset: str
    seed: int
    versions: Mapping[str, str]
    weights: str
    calibration: Mapping[str, Any] | None = None
    novelty: Mapping[str, Any] | None = None
    ends: str | None = None
    ancestor: Mapping[str, str] | None = None

    @property
    def end(self) -> str:
        """What `build_network` cuts at to make the bundle's network."""
        return self.ends or self.cut

    def to_json(self) -> str:
        """One line, keys sorted."""
        content = {"format": FORMAT, **self.__dict__}
        content["classes"] = list(self.classes)
        content["preprocessing"] = self.preprocessing.to_dict()
        content["metrics"] = {} if self.metrics is None else self.metrics.to_dict()
        return json.dumps(content, sort_keys=True, separators=(",", ":"))


def save(path: Path, tensors: Mapping[str, Tensor], meta: BundleMeta) -> None:
    """Write the bundle, whole or not at all."""
    write_tensors(path, tensors, {KEY: meta.to_json()})


def read_meta(path: Path) -> BundleMeta:
    """What the bundle at `path` says of itself.

    Raises:
        UserError: no such file, not a bundle, or of a newer format.
    """
    raw = _open(path, lambda file: (file.metadata() or {}).get(KEY))
    if raw is None:
        raise UserError(
            f"{path} is a safetensors file, but not a bundle of tlcli",
            "to start from plain weights, use: tlcli finetune DIR --model NAME --weights FILE",
        )
    try:
        content = json.loads(raw)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("no format version")
        version = content.pop("format")
        if version > FORMAT:
            raise UserError(
                f"it has bundle format {version}, and this tlcli reads up to {FORMAT}",
                "upgrade tlcli",
            )
        return _checked(BundleMeta(**content))
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: its description is damaged ({error})", "train it anew") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The bundle's tensors by name."""
    return _open(path, lambda file: {k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118


def _checked(meta: BundleMeta) -> BundleMeta:
    """The description with its types made sure of: a bundle may come from anywhere."""
    if meta.backbone not in catalogue.catalogue():
        raise ValueError(f"unknown backbone {meta.backbone!r}")
    classes = meta.classes
    if not isinstance(classes, list) or not classes or not all(isinstance(c, str) for c in classes):
        raise ValueError("classes are not a list of names")
    if len(set(classes)) < len(classes):
        raise ValueError("a class is named twice")
    if not isinstance(meta.cut, str) or not isinstance(meta.dropped, bool):
        raise ValueError("no cut")
    if not isinstance(meta.ends, str | None) or (meta.ends and not meta.dropped):
        raise ValueError("it ends nowhere")
    if not isinstance(meta.preprocessing, dict):
        raise ValueError("no preprocessing")
    for name in ("plan", "metrics", "versions"):
        if not isinstance(getattr(meta, name), dict):
            raise ValueError(f"{name} is not an object")
    for name in ("calibration", "novelty", "ancestor"):
        if not isinstance(getattr(meta, name), dict | None):
            raise ValueError(f"{name} is neither an object nor null")
    temperature = 1.0 if meta.calibration is None else meta.calibration.get("temperature")
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError("the temperature is not a positive number")
    changed = {
        "classes": tuple(classes),
        "preprocessing": Preprocessing.from_dict(meta.preprocessing),
        "metrics": Metrics.from_dict(meta.metrics) if meta.metrics else None,
    }
    return BundleMeta(**{**meta.__dict__, **changed})


def _open(path: Path, read: Any) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", "give a bundle or a run folder") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as a safetensors file: {error}",
            "a bundle is the model.safetensors that tlcli finetune writes",
        ) from error
