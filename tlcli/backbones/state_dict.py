"""Reading weight files from untrusted sources, and converting them to the model's names."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tlcli.backbones.family import Family
from tlcli.errors import UserError
from tlcli.text import printable

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys that training scripts save it under
_PREFIXES = ("module.", "_orig_mod.")  # of names in DataParallel and in torch.compile

# The first bytes of files that are often taken for weights, and what such a file is.
_OTHER_FILES = (
    (b"<!doctype html", "a web page (a failed download?)"),
    (b"<html", "a web page (a failed download?)"),
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a `.safetensors` file, or in one that torch.save wrote.

    The tensors of a zip file are mapped into memory, not read. No code in the file is run.

    Raises:
        UserError: the file cannot be read, is damaged, or contains something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(
            f"the weights {printable(path)} cannot be read: {error.strerror}",
            "name a file that can be read",
        ) from None
    for signature, kind in _OTHER_FILES:
        if start.lstrip().lower().startswith(signature):
            raise _unusable(path, f"is {kind}, not weights")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            # files from before torch 1.6 are not zip files and cannot be mapped
            zipped = start.startswith(b"PK\x03\x04")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged file can fail in any way
        raise _unusable(path, _reason(error)) from None
    return _unwrap(path, content)


def prepare_state(
    state: Mapping[str, Tensor], family: Family, model: nn.Module
) -> dict[str, Tensor]:
    """Convert a published state dict into one that `model`, of `family`, can load.

    The tensors are copies in the model's dtypes, independent of the file that they were mapped
    from. Tensors that are all NaN stand for missing ones and are left out.
    """
    if family.adapt_state is not None:
        state = family.adapt_state(state, model)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    copies = {
        name: tensor.to(dtypes.get(name, tensor.dtype), copy=True)
        for name, tensor in state.items()
        if not _all_nan(tensor)
    }
    return with_version(copies, family)


def with_version(state: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return `state` with the version in its metadata that models of `family` expect, if any."""
    if family.state_version is None:
        return state
    versioned = OrderedDict(state)
    versioned._metadata = {"": {"version": family.state_version}}  # type: ignore[attr-defined]
    return versioned


def _all_nan(tensor: Tensor) -> bool:
    """Return whether all of `tensor` is NaN, as in the classifier of torchvision's features-only
    vgg16."""
    # the first value rules out nearly all tensors without reading them
    return tensor.is_floating_point() and bool(
        tensor.flatten()[:1].isnan().any() and tensor.isnan().all()
    )


def rename_densenet_layers(state: Mapping[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """Rename `denselayer1.norm.1.weight` to `denselayer1.norm1.weight`.

    The published files are older than torch's rule that a module's name has no dots.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): value for name, value in state.items()}


def drop_auxiliary_heads(state: Mapping[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """Leave out the tensors of the auxiliary heads of GoogLeNet and Inception."""
    auxiliary = ("aux1.", "aux2.", "AuxLogits.")
    return {name: value for name, value in state.items() if not name.startswith(auxiliary)}


def _unwrap(path: Path, content: object) -> dict[str, Tensor]:
    """Return the state dict in `content`, without a training script's wrapping and prefixes.

    Raises:
        UserError: it does not consist of named tensors.
    """
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise _unusable(path, f"contains {type(content).__name__}, not named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise _unusable(path, f"contains {kind} under {printable(str(name))!r}")
    state = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _unusable(path: Path, reason: str) -> UserError:
    """Return the error for a weight file that cannot be used."""
    return UserError(
        f"{printable(path)} {reason}",
        "a state dict is needed: `.safetensors`, or torch.save(model.state_dict(), 'file.pth')",
    )


def _reason(error: Exception) -> str:
    """Return in a few words why reading a file failed with `error`."""
    if not isinstance(error, pickle.UnpicklingError):
        first = re.split(r"\.?\s*\n|\. ", str(error))[0] or type(error).__name__
        return f"is damaged or contains no weights: {first}"
    # torch's message explains at length how to run the file's code; only the code's name is useful
    found = re.search(r"(?:GLOBAL|unsupported class) ([\w.]+)", str(error))
    if found:
        return f"contains Python objects ({found[1]}), not only tensors, and was not opened"
    return "is damaged or contains no weights"
