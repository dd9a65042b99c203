"""Files of options: every run writes its own, and `--config` reads one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcli.backbones.catalogue import catalogue
from tlcli.errors import UsageError, UserError, did_you_mean
from tlcli.runs.options import OPTION_TABLE, Options

DATA = "data"
PATHS = (DATA, *(name for name, spec in OPTION_TABLE.items() if spec.names_file))
"""Entries that may name a file or a folder, relative to the folder of the file of options."""
_NOT_WRITTEN = ("output",)  # another run needs another folder
_TYPES = {DATA: (str,), **{name: spec.types for name, spec in OPTION_TABLE.items()}}
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text in quotes",
    Path: "a text in quotes",
}


def to_toml(options: Options, data: Path, chosen: Mapping[str, Any]) -> str:
    """Return the options of a run as TOML, and as comments what the plan chose.

    Paths are absolute, so that the file may be moved; `output` is left out.

    Args:
        chosen: the values that the plan chose, by option name.
    """
    values = {DATA: data, **options.values()}
    lines = ["# The options of this run; tlcli finetune --config reads them."]
    for name, value in values.items():
        if value is not None and name not in _NOT_WRITTEN:
            lines.append(f"{name} = {_toml(absolute(name, value, Path()))}")
    left = {k: v for k, v in chosen.items() if values.get(k, v) is None and v is not None}
    if left:
        lines += ["", "# chosen by the plan:"]
        lines += [f"# {name} = {_toml(value)}" for name, value in left.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Write a value as TOML, whose syntax is that of JSON but for the delete character."""
    plain = str(value) if isinstance(value, Path) else value
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file of options: values by name, and under "data" the folder of images if it has one.

    Raises:
        UserError: there is no such file, or it is not TOML.
        UsageError: unknown names, or values of the wrong type; all of them are named.
    """
    import tomllib  # takes 0.2 s to import, and few runs read options

    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        content = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"--config {path} is not TOML: {error}", 'write lines such as: model = "resnet18"'
        ) from error
    problems, hints = [], []
    for name, value in content.items():
        if name not in _TYPES:
            problems.append(f"{name!r} is not an option")
            hints.append(did_you_mean(name.replace("-", "_"), _TYPES))
        elif not _has_type(value, _TYPES[name]):
            wanted = " or ".join(_TYPE_NAMES[kind] for kind in _TYPES[name])
            problems.append(f"{name} must be {wanted}, not {_shown(value)}")
    if problems:
        raise UsageError(f"--config {path}: {'; '.join(problems)}", "; ".join(filter(None, hints)))
    return {name: absolute(name, value, path.parent) for name, value in content.items()}


def _has_type(value: Any, types: tuple[type, ...]) -> bool:
    """Return whether a TOML value is of one of the types; a whole number is a number too."""
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, str):
        return str in types or Path in types
    return isinstance(value, types) or (isinstance(value, int) and float in types)


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 40 else type(value).__name__


def absolute(name: str, value: Any, folder: Path) -> Any:
    """Return `value` with a relative path in it resolved from `folder`.

    Names of backbones and of weights stay as they are.
    """
    if name not in PATHS or value is None or str(value) in (*catalogue(), "auto", "none"):
        return value
    path = folder / Path(value).expanduser()
    if name in ("model", "weights") and not path.exists():
        return value
    resolved = path.resolve()
    return str(resolved) if isinstance(value, str) else resolved
