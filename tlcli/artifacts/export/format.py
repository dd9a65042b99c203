"""What an export format is: the class `Format`. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tlcli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from tlcli.artifacts.export.script import ScriptParts
    from tlcli.artifacts.export.source import ExportSource


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: the value of `--to`.
        help: what it is good for, in a few words.
        suffixes: extensions of its file, the usual one first.
        stem: name of its file, without extension, where none is given.
        write: writes the file at a path.
        open: opens the written file in its own runtime. The function that is returned maps uint8
            [n, h, w, 3] to probabilities, float32 [n, classes].
        script_parts: makes the script's parts for the file at a path.
        packages: packages that have to be installed.
        extra: the extra of tlcli that installs them.
        has_graph: whether the file holds the graph, so that there is a choice of `INPUTS`.
        has_sidecar: whether classes and preprocessing are in a .json beside the file.
    """

    name: str
    help: str
    suffixes: tuple[str, ...]
    stem: str
    write: Callable[[ExportSource, Path], None]
    open: Callable[[ExportSource, Path], Callable[[Tensor], Tensor]]
    script_parts: Callable[[ExportSource, Path], ScriptParts]
    packages: tuple[str, ...] = ()
    extra: str = ""
    has_graph: bool = True
    has_sidecar: bool = False

    def check_installed(self) -> None:
        """Check that the packages that the format needs are installed.

        Raises:
            UserError: naming those that are missing, and how to install them.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise UserError(
                f"--to {self.name} needs packages that are not installed: {', '.join(missing)}",
                f"pip install 'tlcli[{self.extra}]'",
            )
