"""A checkpoint: the state of a run in one safetensors file. No pickle.

The file's tensors are named by their place in the state; everything else is JSON in its metadata.
One file and one rename: no kill can leave the tensors of one epoch beside the figures of another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tlcli.artifacts.atomic import write_tensors
from tlcli.errors import UserError

STATE = "state.safetensors"
_FORMAT = 1
_KEY = "tlcli-checkpoint"
_TENSOR, _PAIRS = "$tensor", "$pairs"
_HINT = "start a new run"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state: nested mappings and lists of tensors and of what JSON knows.

    Raises:
        Unwritable: the disk is full, and the like; the file at `path` stays as it was.
    """
    tensors: dict[str, Tensor] = {}
    content = json.dumps({"format": _FORMAT, "state": _flatten(state, "", tensors)})
    write_tensors(path, tensors, {_KEY: content})


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a state, its tensors on the CPU; None if there is no file.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version = content["format"]
        if version == _FORMAT:
            state = _restore(content["state"], tensors)
            if isinstance(state, dict):
                return state
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error})", _HINT) from error
    raise UserError(f"{path}: its format is {version}, but this tlcli reads {_FORMAT}", _HINT)


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors of `value` into `tensors`, and return the rest as JSON types."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        flat = {
            k: _flatten(v, f"{name}/{k}" if name else str(k), tensors) for k, v in value.items()
        }
        # JSON's keys are strings, but an optimizer's are numbers.
        all_strings = all(isinstance(key, str) for key in flat)
        return flat if all_strings else {_PAIRS: [list(pair) for pair in flat.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_flatten`."""
    if isinstance(value, list):
        return [_restore(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    if value.keys() == {_PAIRS}:
        return {key: _restore(v, tensors) for key, v in value[_PAIRS]}
    return {key: _restore(v, tensors) for key, v in value.items()}
