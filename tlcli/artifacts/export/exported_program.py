"""The format `exported-program`: the graph for torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tlcli.artifacts.export.format import Format

if TYPE_CHECKING:
    from torch import Tensor

    from tlcli.artifacts.export.script import ScriptParts
    from tlcli.artifacts.export.source import ExportSource

ABOUT = "tlcli.json"
"""The extra file of the program that holds classes and preprocessing."""

_SETUP = f"""\
FILES = {{{ABOUT!r}: ""}}
MODEL = torch.export.load(FILE, extra_files=FILES).module()
ABOUT = json.loads(FILES[{ABOUT!r}])
"""
_PREDICT = """\
    with torch.no_grad():
        probabilities = MODEL(torch.from_numpy(pixels(path)))[0]"""


def _write(source: ExportSource, path: Path) -> None:
    import json  # --help imports this module, and needs no JSON

    import torch

    torch.export.save(source.program, path, extra_files={ABOUT: json.dumps(source.about)})


def _open(_: ExportSource, path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.11 about a buffer of its own
        run: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return run


def _script_parts(_: ExportSource, __: Path) -> ScriptParts:
    from tlcli.artifacts.export.script import ScriptParts

    imports = ["import numpy as np", "import torch", "from PIL import Image, ImageOps"]
    return ScriptParts("torch, numpy", imports, _SETUP, _PREDICT)


EXPORTED_PROGRAM = Format(
    name="exported-program",
    help="for torch alone",
    suffixes=(".pt2",),
    stem="model",
    write=_write,
    open=_open,
    script_parts=_script_parts,
)
