"""Options in a file: every run writes its own, and `--config` reads one."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from tlcli.backbones.catalogue import catalogue
from tlcli.errors import UsageError, UserError, did_you_mean
from tlcli.runs.options import Options

DATA = "data"
PATHS = (DATA, "output", "model", "weights")
"""What may name a file; relative to the folder of the file that says so."""
_NOT_WRITTEN = ("output",)  # another run needs another folder
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}


def to_toml(options: Options, data: Path, chosen: Mapping[str, Any]) -> str:
    """The options of a run as TOML, what was left to the plan as comments.

    Paths are absolute, so that the file may be moved; `output` is left out.

    Args:
        chosen: what the plan chose, by name.
    """
    values = {DATA: data, **{f.name: getattr(options, f.name) for f in fields(options)}}
    lines = ["# The options of this run; tlcli finetune --config reads them."]
    for name, value in values.items():
        if value is not None and name not in _NOT_WRITTEN:
            lines.append(f"{name} = {_toml(absolute(name, value, Path()))}")
    left = {k: v for k, v in chosen.items() if values.get(k, v) is None and v is not None}
    if left:
        lines += ["", "# left to the plan, which chose:"]
        lines += [f"# {name} = {_toml(value)}" for name, value in left.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON's texts, numbers, truth values and lists are TOML's, but for the delete character."""
    plain = str(value) if isinstance(value, Path) else value
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(path: Path) -> dict[str, Any]:
    """The options in a file, by name, and under "data" the folder of images if it says.

    Raises:
        UserError: there is no such file, or it is not TOML.
        UsageError: unknown names, or values of another kind; all of them are told.
    """
    import tomllib  # takes 0.2 s to import, and few runs read options

    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        content = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"--config {path} is not TOML: {error}", 'lines such as: model = "resnet18"'
        ) from error
    kinds = {name: _kinds(kind) for name, kind in get_type_hints(Options).items()}
    kinds[DATA] = (str,)
    problems, hints = [], []
    for name, value in content.items():
        if name not in kinds:
            problems.append(f"{name!r} is not an option")
            hints.append(did_you_mean(name.replace("-", "_"), kinds))
        elif not _fits(value, kinds[name]):
            wanted = " or ".join(_KINDS.get(kind, kind.__name__) for kind in kinds[name])
            problems.append(f"{name} must be {wanted}, not {_toml_shown(value)}")
    if problems:
        raise UsageError(f"--config {path}: {'; '.join(problems)}", "; ".join(filter(None, hints)))
    return {name: absolute(name, value, path.parent) for name, value in content.items()}


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of TOML values that an option takes."""
    given = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    return tuple(dict.fromkeys(str if kind is Path else kind for kind in given))


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _toml_shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 40 else type(value).__name__


def absolute(name: str, value: Any, folder: Path) -> Any:
    """`value` with a path in it seen from `folder`; names of backbones and weights stay."""
    if name not in PATHS or value is None or str(value) in (*catalogue(), "auto", "none"):
        return value
    path = folder / Path(value).expanduser()
    if name in ("model", "weights") and not path.exists():
        return value
    resolved = path.resolve()
    return str(resolved) if isinstance(value, str) else resolved
