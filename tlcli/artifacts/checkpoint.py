"""A run's state on disk: one safetensors file, so that it is whole or not there. No pickle.

Tensors lie in the file by their place in the state, everything else as JSON in its metadata. One
file and one rename: no kill can leave the tensors of one epoch beside the numbers of another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tlcli.artifacts.atomic import write_tensors
from tlcli.errors import UserError

FORMAT = 1
STATE = "state.safetensors"
KEY = "tlcli-checkpoint"
_TENSOR, _PAIRS = "$tensor", "$pairs"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state`: nested mappings and lists of tensors and of what JSON knows.

    Raises:
        Unwritable: the disk is full, and the like; what was at `path` is still there.
    """
    tensors: dict[str, Tensor] = {}
    content = json.dumps({"format": FORMAT, "state": _flat(state, "", tensors)})
    write_tensors(path, tensors, {KEY: content})


def read(path: Path) -> dict[str, Any] | None:
    """The state that was saved there, its tensors on the CPU; None where there is none.

    Raises:
        UserError: the file is damaged, or another version's.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version = content["format"]
        if version == FORMAT:
            state = _nested(content["state"], tensors)
            if isinstance(state, dict):
                return state
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error})", _ANEW) from error
    raise UserError(f"{path}: its format is {version}, and this tlcli reads {FORMAT}", _ANEW)


_ANEW = "start a new run"


def _flat(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it, its tensors moved to `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        inner = {k: _flat(v, f"{name}/{k}" if name else str(k), tensors) for k, v in value.items()}
        # JSON's keys are strings, an optimizer's are numbers.
        plain = all(isinstance(key, str) for key in inner)
        return inner if plain else {_PAIRS: [list(pair) for pair in inner.items()]}
    if isinstance(value, list | tuple):
        return [_flat(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _nested(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_nested(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    if value.keys() == {_PAIRS}:
        return {key: _nested(v, tensors) for key, v in value[_PAIRS]}
    return {key: _nested(v, tensors) for key, v in value.items()}
