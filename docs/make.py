"""Write what is made from the program: `python -m docs.make [--check]`.

docs/reference/cli.md describes every command with its arguments and options, docs/architecture.md
lists every module, and tlcli/runs/option_values.py has the types of all options for editors.
`--check` writes nothing, and fails if a file is not what the program would write now.
"""

import json
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

import typer.main

from docs import modules
from tlcli.cli import app
from tlcli.cli.help import default, is_option, names, sections
from tlcli.runs.option_spec import OptionSpec
from tlcli.runs.options import GROUPS, OPTION_TABLE

ROOT = Path(__file__).parent.parent
WIDTH = 100
"""Columns of generated source."""
OPTION_VALUES_HEADER = '''\
"""The types of all options of a run, for editors and type checkers.

Made by `python -m docs.make` from tlcli/runs/options.py; do not edit. A name is one of the
`Literal`s, which editors offer, or any `str`, so that it may be in a variable.
"""

from pathlib import Path
from typing import Literal, TypedDict


class OptionValues(TypedDict, total=False):
    """Options of a run by name, as `tlcli.finetune` and `tlcli.plan` take them."""'''


def cli_reference() -> str:
    """Return docs/reference/cli.md."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = ["# Commands\n\nMade by `python -m docs.make` from the program; do not edit.\n"]
    for name, command in commands.items():
        usage = [
            "tlcli",
            name,
            "[OPTIONS]",
            *(names(p) for p in command.params if not is_option(p)),
        ]
        parts.append(f"## tlcli {name}\n\n{command.help}\n\n`{' '.join(usage)}`\n")
        for title, parameters in sections(command.params).items():
            rows = "".join(map(_row, parameters))
            parts.append(f"| {title} | | Default and values |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def _row(parameter: Any) -> str:
    """Return a row of a table: names, description, default and accepted values."""
    variable = f" (`${parameter.envvar}`)" if parameter.envvar else ""
    shown = "required" if parameter.required else default(parameter)
    return f"| `{names(parameter)}` | {parameter.help}{variable} | {shown} |\n"


def option_values() -> str:
    """Return tlcli/runs/option_values.py."""
    lines = [OPTION_VALUES_HEADER]
    for group in GROUPS:
        lines += ["", f"    # {group}"]
        for spec in OPTION_TABLE.values():
            if spec.group == group:
                lines += [*_declaration(spec), _docstring(spec)]
    return "\n".join(lines) + "\n"


def _declaration(spec: OptionSpec) -> list[str]:
    """Return an option and its type as source, formatted as ruff does."""
    line = f"    {spec.name}: {_annotation(spec)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"    {spec.name}: (", f"        {_annotation(spec)}", "    )"]


def _annotation(spec: OptionSpec) -> str:
    """Return the type of an option's value as source."""
    types = [kind.__name__ for kind in spec.types]
    if spec.choices:
        types.insert(0, f"Literal[{', '.join(map(json.dumps, spec.choices))}]")
    if spec.flag_is_text:
        types.append("str")
    if spec.names_file:
        types = ["str", "Path"]
    return " | ".join([*types, *(["None"] if spec.default is None else [])])


def _docstring(spec: OptionSpec) -> str:
    """Return the description of an option as source."""
    facts = "; ".join(filter(None, (f"default: {spec.shown_default}", spec.shown_values)))
    text = f'"""{spec.help} [{facts}]"""'
    return fill(
        text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )


def main() -> int:
    """Write the files that are out of date, or with --check name them."""
    made = {
        ROOT / "docs" / "reference" / "cli.md": cli_reference(),
        modules.PAGE: modules.architecture(),
        ROOT / "tlcli" / "runs" / "option_values.py": option_values(),
    }
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run python -m docs.make")
        return 1 if stale else 0
    for path in stale:
        path.write_text(made[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
