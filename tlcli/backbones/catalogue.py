"""The catalogue of backbones, and the weight files on this machine, without importing torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from tlcli.errors import UsageError, did_you_mean

DEFAULT_MODEL = "efficientnet_lite0"
NEW_HEAD = "new_head"
"""Name of the new linear head that replaces dropped stages."""


@dataclass(frozen=True)
class CatalogueEntry:
    """The published facts about a backbone (`catalogue.json`).

    Attributes:
        name: torchvision's name of the model.
        family: a key of `families.FAMILIES`.
        parameters: number of parameters, with the published classifier, without auxiliary heads.
        gflops: 10^9 multiply-adds for one image at `resolution`.
        top1: published accuracy of `weights` on ImageNet's validation images, in percent.
        size_mb: size of the weight file, in 2^20 bytes.
        resolution: side of the square input in pixels that `top1` was measured at.
        file: name of the default weight file.
        weights: torchvision's name of these weights: "IMAGENET1K_V1".
        package: import name of the Python package that contains `file`, if there is one.
    """

    name: str
    family: str
    parameters: int
    gflops: float | None
    top1: float | None
    size_mb: float | None
    resolution: int
    file: str | None
    weights: str | None
    package: str | None = None


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Return all backbones by name, in order of name."""
    import json
    from importlib.resources import files  # slow to import, and --help does not read the file

    text = files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8")
    return MappingProxyType({row["name"]: CatalogueEntry(**row) for row in json.loads(text)})


def find_entry(name: str) -> CatalogueEntry:
    """Return the catalogue's entry for the backbone `name`.

    Raises:
        UsageError: there is no such backbone; the hint names close matches.
    """
    entries = catalogue()
    if name not in entries:
        close = did_you_mean(name, entries)
        raise UsageError(
            f"there is no backbone {name!r}", close or "`tlcli models` lists all backbones"
        )
    return entries[name]


def checkpoint_dir() -> Path:
    """Return the folder where torchvision (through `torch.hub`) keeps weight files."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", cache_home / "torch"))
    return torch_home.expanduser() / "hub" / "checkpoints"


def local_file(file: str, package: str | None = None) -> Path | None:
    """Return the path of a weight file that `package` contains or torchvision has downloaded.

    Returns None if it is in neither place.
    """
    spec = find_spec(package) if package else None
    packages = spec.submodule_search_locations or [] if spec else []
    folders = [*(Path(folder) / "models" for folder in packages), checkpoint_dir()]
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def at_hand(entry: CatalogueEntry) -> bool:
    """Return whether a backbone can be used without a download.

    It can if its weights are on this machine, or if none are published.
    """
    return entry.file is None or local_file(entry.file, entry.package) is not None
