"""The choice of an export's format, input and file from the options."""

from dataclasses import dataclass
from pathlib import Path

from tlcli.artifacts.export.format import Format
from tlcli.artifacts.export.formats import DEFAULT_FORMAT, FORMATS
from tlcli.artifacts.export.inputs import IMAGE, INPUTS, PIXELS
from tlcli.errors import UsageError, choice
from tlcli.text import join_or


@dataclass(frozen=True)
class ExportTarget:
    """The format, the input and the file that an export is written with.

    Attributes:
        format: the format of the file.
        input: what the graph takes, one of `INPUTS`.
        file: where the export goes.
    """

    format: Format
    input: str
    file: Path

    @property
    def script(self) -> Path:
        """The script beside the file that shows how to use it."""
        return self.file.with_name(f"{self.file.name}.py")

    @property
    def files(self) -> list[Path]:
        """All files that are written, but for the model card."""
        return [path for path in (self.file, self.script, self.sidecar) if path is not None]

    @property
    def sidecar(self) -> Path | None:
        """The file for classes and preprocessing, if the format has one."""
        return self.file.with_name(f"{self.file.name}.json") if self.format.has_sidecar else None


def choose_target(
    to: str | None, output: Path | None, input_name: str | None, folder: Path
) -> ExportTarget:
    """Choose the format, the input and the file.

    Args:
        to: a key of `FORMATS`; None takes the one that `output`'s extension belongs to.
        output: the file; None puts it into `folder` under the format's usual name.
        input_name: one of `INPUTS`; None takes images where there is a choice.
        folder: the folder of the bundle.

    Raises:
        UsageError: they are unknown, or contradict each other.
    """
    if to is not None:
        chosen = FORMATS[choice("--to", to, FORMATS)]
    else:
        chosen = DEFAULT_FORMAT if output is None else _format_of(output)
    if input_name is not None and choice("--input", input_name, INPUTS) and not chosen.has_graph:
        with_graph = join_or(f"--to {f.name}" for f in FORMATS.values() if f.has_graph)
        raise UsageError(
            f"--input {input_name} is about a graph, but a {chosen.name} holds tensors only",
            f"leave it out, or use {with_graph}",
        )
    input_name = input_name or (IMAGE if chosen.has_graph else PIXELS)
    if output is None:
        ending = f"-{PIXELS}" if chosen.has_graph and input_name == PIXELS else ""
        output = folder / f"{chosen.stem}{ending}{chosen.suffixes[0]}"
    if output.suffix not in chosen.suffixes:
        raise UsageError(
            f"--output {output}: --to {chosen.name} writes {join_or(chosen.suffixes)}, not "
            f"{output.suffix or 'a file without extension'}",
            "change one of the two",
        )
    return ExportTarget(chosen, input_name, output)


def _format_of(output: Path) -> Format:
    """Return the format that the file's extension belongs to."""
    for each in FORMATS.values():
        if output.suffix in each.suffixes:
            return each
    known = ", ".join(suffix for each in FORMATS.values() for suffix in each.suffixes)
    raise UsageError(f"--output {output}: no format has that extension", f"one of: {known}")
