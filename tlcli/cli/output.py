"""Results on stdout, in every format, with names as data."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import Any, TextIO

import typer

from tlcli.artifacts.atomic import write_atomic
from tlcli.errors import UsageError, UserError, choice
from tlcli.text import printable

FORMATS = ("table", "tsv", "csv", "json", "jsonl")
FORMAT = typer.Option(
    None,
    "--format",
    "-f",
    help="table, tsv, csv, json or jsonl; a table on a terminal, else tsv.",
    show_default=False,
)
FILE = typer.Option(
    None,
    "--output",
    "-o",
    metavar="FILE",
    help="Write there; .tsv, .csv, .json and .jsonl say the format.",
    show_default="stdout",
)

Row = Mapping[str, Any]
Rows = Iterator[Row]

EXTENSIONS = {".tsv": "tsv", ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SHARES = ("probability", "precision", "recall", "f1")
"""Columns that a table shows in percent."""
PAGE = 200
"""Rows of a table that are laid out together: a longer result is several tables."""


def resolve(name: str | None, file: Path | None = None, on_terminal: str = "table") -> str:
    """The format that was asked for, or what suits `file`, or stdout where that is None.

    Raises:
        UsageError: an unknown format, one that contradicts the file's extension, or an
            extension that says nothing.
        UserError: the file is there already.
    """
    if name is not None:
        choice("--format", name, FORMATS)
    if file is None:
        return name or (on_terminal if sys.stdout.isatty() else "tsv")
    known = EXTENSIONS.get(file.suffix.lower())
    if name is None and known is None:
        raise UsageError(
            f"--output {file}: its extension says no format",
            f"end it in {', '.join(EXTENSIONS)}, or add --format",
        )
    if name is not None and known is not None and name != known:
        raise UsageError(f"--output {file} is {known} by its extension, and --format is {name}")
    if file.exists() or file.is_symlink():
        raise UserError(
            f"--output {file}: it is there already, and it is not overwritten",
            "name another file, or remove this one first",
        )
    return name or known or ""


def write(
    rows: Iterable[Row],
    columns: Sequence[str],
    format_name: str,
    *,
    file: Path | None = None,
    header: bool = True,
) -> None:
    """Write rows as they come (a table by pages) to stdout, or to `file`, whole or not at all.

    TSV escapes tab, newline, carriage return and backslash as \\t, \\n, \\r and \\\\; None is
    an empty field there and in CSV. Without `header` those two begin with the first row.
    """
    rows = ({c: row.get(c) for c in columns} for row in rows)
    send(lambda out: write_rows(rows, columns, format_name, out, header), file)


def send(write: Callable[[TextIO], None], file: Path | None = None) -> None:
    """Let `write` fill stdout, or `file`, whole or not at all."""
    if file is not None:
        write_atomic(file, lambda beside: _fill(beside, write))
        return
    out = sys.stdout
    if out is None:
        raise UserError("stdout is closed, so there is nowhere for the result to go")
    if hasattr(out, "reconfigure"):
        # A file name may hold any bytes; they come out as they came in.
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        write(out)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise UserError(f"stdout cannot be written: {error.strerror}") from error


def drop_stdout() -> None:
    """What is left in its buffer goes nowhere, or Python would fail with it at its end."""
    with suppress(OSError, ValueError):  # in a test it may have no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_one(row: Row, columns: Sequence[str], format_name: str) -> None:
    """Write a result that is one thing: in JSON the object itself, else as a table of one row."""
    write([row], columns, "jsonl" if format_name == "json" else format_name)


def _fill(file: Path, write: Callable[[TextIO], None]) -> None:
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        write(out)


def write_rows(
    rows: Iterable[Row],
    columns: Sequence[str],
    format_name: str,
    out: TextIO,
    header: bool = True,
) -> None:
    """Write rows to `out`; see `write`."""
    if format_name == "table":
        rest = iter(rows)
        page = list(islice(rest, PAGE))
        while page or header:
            table(page, columns, out)
            page, header = list(islice(rest, PAGE)), False
    elif format_name == "json":
        _json(rows, out)
    else:
        line = {"jsonl": _json_line, "csv": _csv_line, "tsv": _tsv_line}[format_name]
        if header and format_name != "jsonl":
            out.write(line(dict(zip(columns, columns, strict=True))))
        for row in rows:
            out.write(line(row))
            out.flush()


def _json(rows: Iterable[Row], out: TextIO) -> None:
    """A list, an element at a time."""
    between = "[\n"
    for row in rows:
        out.write(between + indent(json.dumps(row, indent=2), "  "))
        between = ",\n"
    out.write("[]\n" if between == "[\n" else "\n]\n")


def _json_line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _csv_line(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_field(value) for value in row.values()])
    return text.getvalue()


def _tsv_line(row: Row) -> str:
    return "\t".join(_tsv(_field(value)) for value in row.values()) + "\n"


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value)
    return str(value)


def _tsv(text: str) -> str:
    for character, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escaped)
    return text


def table(rows: Sequence[Row], columns: Sequence[str], out: TextIO) -> None:
    """Rows for a person to read; columns that are empty throughout are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    printable = [[_cell(c, row.get(c)) for c in columns] for row in rows]
    keep = [i for i in range(len(columns)) if not rows or any(line[i] for line in printable)]
    for i in keep:
        numeric = any(isinstance(row.get(columns[i]), int | float) for row in rows)
        table.add_column(
            columns[i].replace("-", "-\n"),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=columns[i] not in ("path", "error", "top"),
        )
    for line in printable:
        table.add_row(*(Text(line[i]) for i in keep))
    Console(file=out, soft_wrap=False).print(table)


def _cell(column: str, value: Any) -> str:
    if column in SHARES and isinstance(value, float):
        return f"{value:.1%}"
    if column == "ood" and isinstance(value, float):
        return f"{value:.2f}"
    if column == "top" and isinstance(value, list):
        return ", ".join(f"{printable(t['label'])} {t['probability']:.1%}" for t in value)
    if column == "parameters" and isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(_field(value))
