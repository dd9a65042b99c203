"""Results on stdout, in every format, with names as data."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import typer

from tlcli.data.names import shown
from tlcli.errors import UserError, choice

FORMATS = ("table", "tsv", "csv", "json", "jsonl")
FORMAT = typer.Option(
    None,
    "--format",
    "-f",
    help="table, tsv, csv, json or jsonl; a table on a terminal, else tsv.",
    show_default=False,
)

Row = Mapping[str, Any]
Rows = Iterator[Row]


def resolve(name: str | None) -> str:
    """The format that was asked for, or what suits stdout."""
    if name is None:
        return "table" if sys.stdout.isatty() else "tsv"
    return choice("--format", name, FORMATS)


def write(rows: Iterable[Row], columns: Sequence[str], format_name: str) -> None:
    """Write rows as they come (a table once they are all there).

    TSV escapes tab, newline, carriage return and backslash as \\t, \\n, \\r and \\\\; None is
    an empty field there and in CSV.
    """
    rows = ({c: row.get(c) for c in columns} for row in rows)
    out = sys.stdout
    if out is None:
        raise UserError("stdout is closed, so there is nowhere for the result to go")
    if hasattr(out, "reconfigure"):
        # A file name may hold any bytes; they come out as they came in.
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        _write(rows, columns, format_name, out)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"stdout cannot be written: {error.strerror}") from error


def write_one(row: Row, columns: Sequence[str], format_name: str) -> None:
    """Write a result that is one thing: in JSON the object itself, else as a table of one row."""
    write([row], columns, "jsonl" if format_name == "json" else format_name)


def _write(rows: Iterable[Row], columns: Sequence[str], format_name: str, out: TextIO) -> None:
    if format_name == "table":
        _table(list(rows), columns)
    elif format_name == "json":
        out.write(json.dumps(list(rows), indent=2) + "\n")
    elif format_name == "jsonl":
        for row in rows:
            out.write(json.dumps(row) + "\n")
            out.flush()
    elif format_name == "csv":
        for line in ([columns], ([_field(r[c]) for c in columns] for r in rows)):
            for fields in line:
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerow(fields)
                out.write(text.getvalue())
                out.flush()
    else:
        out.write("\t".join(columns) + "\n")
        for row in rows:
            out.write("\t".join(_tsv(_field(row[c])) for c in columns) + "\n")
            out.flush()


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


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [[_cell(c, row.get(c)) for c in columns] for row in rows]
    keep = [i for i in range(len(columns)) if not rows or any(line[i] for line in shown)]
    for i in keep:
        numeric = any(isinstance(row.get(columns[i]), int | float) for row in rows)
        table.add_column(
            columns[i].replace("-", "-\n"),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=columns[i] not in ("path", "error", "top"),
        )
    for line in shown:
        table.add_row(*(Text(line[i]) for i in keep))
    Console(soft_wrap=False).print(table)


def _cell(column: str, value: Any) -> str:
    if column == "probability" and isinstance(value, float):
        return f"{value:.1%}"
    if column == "top" and isinstance(value, list):
        return ", ".join(f"{shown(t['label'])} {t['probability']:.1%}" for t in value)
    if column == "parameters" and isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return shown(_field(value))
