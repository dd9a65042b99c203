"""Which backbones there are, and what is at hand: answered without importing torch."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from tlcli.errors import UsageError, did_you_mean

DEFAULT_MODEL = "efficientnet_lite0"
NEW_HEAD = "new_head"
"""Name of the new linear head that replaces dropped stages."""


@dataclass(frozen=True)
class Entry:
    """What is known of a backbone before it is built (`catalogue.json`).

    Attributes:
        name: torchvision's name of the model.
        family: a key of `families.FAMILIES`.
        parameters: how many, with the classifier it is published with, without auxiliary heads.
        gflops: 10^9 multiply-adds for one image at `resolution`.
        top1: accuracy on ImageNet's validation images, percent, as published with `weights`.
        size_mb: of the weight file, in 2^20 bytes.
        resolution: side of the square input, pixels, that `weights` were trained or measured at.
        file: name of the weight file that is taken by default.
        weights: torchvision's name of that entry: "IMAGENET1K_V1".
        package: import name of the Python package that `file` comes with, if it does.
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
def catalogue() -> Mapping[str, Entry]:
    """All backbones by name, in order of name."""
    text = files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8")
    return MappingProxyType({row["name"]: Entry(**row) for row in json.loads(text)})


def find_entry(name: str) -> Entry:
    """The backbone of that name.

    Raises:
        UsageError: there is none; close matches are named.
    """
    entries = catalogue()
    if name not in entries:
        close = did_you_mean(name, entries)
        raise UsageError(
            f"there is no backbone {name!r}", close or "`tlcli models` lists all backbones"
        )
    return entries[name]


def checkpoint_dir() -> Path:
    """Where torchvision keeps its weight files: `torch.hub`'s folder, found without torch."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", cache_home / "torch"))
    return torch_home.expanduser() / "hub" / "checkpoints"


def local_file(file: str, package: str | None = None) -> Path | None:
    """Return the path of a weight file that `package` holds or torchvision has downloaded.

    Returns None if it is in neither place.
    """
    spec = find_spec(package) if package else None
    packages = spec.submodule_search_locations or [] if spec else []
    folders = [*(Path(folder) / "models" for folder in packages), checkpoint_dir()]
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def at_hand(entry: Entry) -> bool:
    """Return whether `entry` needs no download, which includes having no weights at all."""
    return entry.file is None or local_file(entry.file, entry.package) is not None
