"""`--help` of the commands: options under headings, each with its default and accepted values.

Plain text, so that it reads the same on a terminal, in a pipe and without color.
"""

import textwrap
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

MAX_HELP_WIDTH = 100
"""Columns of a help text."""
MAX_NAMES_WIDTH = 30
"""Columns that the names of options take at most; a longer name has a line of its own."""


class GroupedCommand(TyperCommand):
    """A command whose `--help` lists its options under their headings."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name in the usage line."""
        return ["[OPTIONS]", *(names(p) for p in self.get_params(ctx) if not is_option(p))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, with all descriptions in one column."""
        parameters: list[Any] = list(self.get_params(ctx))
        longest = max(len(names(p)) for p in parameters)
        column = min(longest, MAX_NAMES_WIDTH, formatter.width // 3) + 4
        for title, members in sections(parameters).items():
            with formatter.section(title):
                for parameter in members:
                    formatter.write(_entry(parameter, column, formatter.width))


def _entry(parameter: Any, column: int, width: int) -> str:
    """Return the lines of one parameter; its description begins in `column`."""
    text = textwrap.fill(
        description(parameter),
        width,
        initial_indent=" " * column,
        subsequent_indent=" " * column,
        break_on_hyphens=False,  # "small-similar" is one word
    )
    name = f"  {names(parameter)}"
    joined = name.ljust(column) + text[column:] if len(name) < column - 1 else f"{name}\n{text}"
    return f"{joined}\n"


def sections(parameters: Iterable[Any]) -> dict[str, list[Any]]:
    """Group a command's parameters by heading: arguments first, options without heading last."""
    grouped: dict[str, list[Any]] = {"Arguments": []}
    other = []
    for parameter in parameters:
        heading = getattr(parameter, "rich_help_panel", None)  # Click's own --help has none
        if not is_option(parameter):
            grouped["Arguments"].append(parameter)
        elif heading:
            grouped.setdefault(heading, []).append(parameter)
        else:
            other.append(parameter)
    return {title: group for title, group in {**grouped, "Options": other}.items() if group}


def names(parameter: Any) -> str:
    """Return a parameter as people type it, such as "-m, --model NAME"."""
    if not is_option(parameter):
        return parameter.metavar or parameter.name.upper()
    flags = ", ".join(sorted(parameter.opts, key=len))
    flags += "".join(f"/{flag}" for flag in parameter.secondary_opts)
    return flags if parameter.is_flag else f"{flags} {parameter.metavar}"


def description(parameter: Any) -> str:
    """Return the help text of a parameter with its default and accepted values."""
    facts = [f"env var: {parameter.envvar}"] if parameter.envvar else []
    facts += [f"default: {text}"] if (text := default(parameter)) else []
    facts += ["required"] if parameter.required else []
    text = parameter.help or ""  # old versions of typer lose it beside new ones of Click
    return f"{text} [{'; '.join(facts)}]".lstrip() if facts else text


def default(parameter: Any) -> str:
    """Return the default of a parameter and its accepted values in words, or ""."""
    shown = parameter.show_default
    if isinstance(shown, str):
        return shown
    return str(parameter.default) if shown and parameter.default else ""


def is_option(parameter: Any) -> bool:
    """Return whether a parameter is an option and not an argument."""
    return parameter.param_type_name == "option"
