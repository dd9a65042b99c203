"""Results on stdout or in a file, in every format; names in them are data, never markup."""

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

from tlcli.artifacts.atomic import write_atomic
from tlcli.cli.flags import RESULT_FORMATS
from tlcli.errors import UsageError, UserError, choice
from tlcli.text import printable

Row = Mapping[str, Any]
Rows = Iterator[Row]

EXTENSIONS = {".tsv": "tsv", ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PERCENTAGES = ("probability", "precision", "recall", "f1")
"""Columns that a table shows in percent."""
PAGE_ROWS = 200
"""Rows of a table that are laid out together; a longer result is several tables."""


def choose_result_format(
    name: str | None, file: Path | None = None, on_terminal: str = "table"
) -> str:
    """Return the format `name`, or if it is None the one that suits `file` or stdout.

    Raises:
        UsageError: an unknown format, one that contradicts the file's extension, or an unknown
            extension.
        UserError: the file exists.
    """
    if name is not None:
        choice("--format", name, RESULT_FORMATS)
    if file is None:
        return name or (on_terminal if sys.stdout.isatty() else "tsv")
    known = EXTENSIONS.get(file.suffix.lower())
    if name is None and known is None:
        raise UsageError(
            f"--output {file}: its extension names no format",
            f"use {', '.join(EXTENSIONS)}, or add --format",
        )
    if name is not None and known is not None and name != known:
        raise UsageError(f"--output {file} is {known} by its extension, but --format is {name}")
    if file.exists() or file.is_symlink():
        raise UserError(
            f"--output {file} already exists and will not be overwritten",
            "choose another file, or remove this one first",
        )
    return name or known or ""


def write_result(
    rows: Iterable[Row],
    columns: Sequence[str],
    format_name: str,
    *,
    file: Path | None = None,
    header: bool = True,
) -> None:
    """Write rows as they arrive (a table by pages) to stdout, or to `file` in one piece.

    TSV escapes tab, newline, carriage return and backslash as \\t, \\n, \\r and \\\\; None is
    an empty field there and in CSV. Without `header` those two begin with the first row.
    """
    rows = ({c: row.get(c) for c in columns} for row in rows)
    send(lambda out: write_rows(rows, columns, format_name, out, header), file)


def send(write: Callable[[TextIO], object], file: Path | None = None) -> None:
    """Call `write` with stdout, or with a new file that takes its name once it is complete."""
    if file is not None:
        write_atomic(file, lambda part: _write_file(part, write))
        return
    out = sys.stdout
    if out is None:
        raise UserError("stdout is closed, so the result cannot be written")
    if hasattr(out, "reconfigure"):
        # A file name may hold any bytes; they come out as they came in.
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        write(out)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise UserError(f"stdout cannot be written: {error.strerror}") from error


def discard_stdout() -> None:
    """Send what is left in stdout's buffer nowhere, or Python would fail on it when it exits."""
    with suppress(OSError, ValueError):  # in a test it may have no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_one(row: Row, columns: Sequence[str], format_name: str) -> None:
    """Write a single result: in JSON the object itself, else as a table of one row."""
    write_result([row], columns, "jsonl" if format_name == "json" else format_name)


def _write_file(path: Path, write: Callable[[TextIO], object]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        write(out)


def write_rows(
    rows: Iterable[Row],
    columns: Sequence[str],
    format_name: str,
    out: TextIO,
    header: bool = True,
) -> None:
    """Write rows to `out`; see `write_result`."""
    if format_name == "table":
        rest = iter(rows)
        page = list(islice(rest, PAGE_ROWS))
        while page or header:
            write_table(page, columns, out)
            page, header = list(islice(rest, PAGE_ROWS)), False
    elif format_name == "json":
        _write_json_list(rows, out)
    else:
        line = {"jsonl": _json_line, "csv": _csv_line, "tsv": _tsv_line}[format_name]
        if header and format_name != "jsonl":
            out.write(line(dict(zip(columns, columns, strict=True))))
        for row in rows:
            out.write(line(row))
            out.flush()


def json_text(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2) + "\n"


def _write_json_list(rows: Iterable[Row], out: TextIO) -> None:
    """Write a JSON list, one element at a time."""
    before = "[\n"
    for row in rows:
        out.write(before + indent(json.dumps(row, indent=2), "  "))
        before = ",\n"
    out.write("[]\n" if before == "[\n" else "\n]\n")


def _json_line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _csv_line(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_field(value) for value in row.values()])
    return text.getvalue()


def _tsv_line(row: Row) -> str:
    return "\t".join(_escape_tsv(_field(value)) for value in row.values()) + "\n"


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


def _escape_tsv(text: str) -> str:
    for character, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escaped)
    return text


def write_table(rows: Sequence[Row], columns: Sequence[str], out: TextIO) -> None:
    """Write rows as a table for people; columns without any value are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    cells = [[_cell(c, row.get(c)) for c in columns] for row in rows]
    kept = [i for i in range(len(columns)) if not rows or any(line[i] for line in cells)]
    for i in kept:
        numeric = any(isinstance(row.get(columns[i]), int | float) for row in rows)
        table.add_column(
            columns[i].replace("-", "-\n"),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=columns[i] not in ("path", "error", "top"),
        )
    for line in cells:
        table.add_row(*(Text(line[i]) for i in kept))
    Console(file=out, soft_wrap=False).print(table)


def _cell(column: str, value: Any) -> str:
    """Return a value as a table shows it."""
    if column in PERCENTAGES and isinstance(value, float):
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
