"""Flags that several commands share; those of a run's options are made from their table."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typer

from tlcli.runs.option_spec import OptionSpec
from tlcli.runs.options import OPTION_TABLE

MODEL_VARIABLE = "TLCLI_MODEL"
"""The environment variable that names a bundle."""
RESULT_FORMATS = ("table", "tsv", "csv", "json", "jsonl")
DEFAULT_BUNDLE = f"${MODEL_VARIABLE}, else the newest finished run in ./runs"
"""The model of a command that names none."""
FORMAT_FLAG = typer.Option(
    None,
    "--format",
    "-f",
    metavar="NAME",
    help="Format of the result.",
    show_default=f"table on a terminal, else tsv; one of {', '.join(RESULT_FORMATS)}",
)
OUTPUT_FLAG = typer.Option(
    None,
    "--output",
    "-o",
    metavar="FILE",
    help="Write the result to a file; its extension (.tsv, .csv, .json, .jsonl) sets the format.",
    show_default="stdout",
)
QUIET_FLAG = typer.Option(False, "--quiet", "-q", help="Show only warnings and the result.")
TTA_FLAG = typer.Option(
    "none",
    "--tta",
    metavar="NAME",
    help="Test-time augmentation: average the predictions of several views of each image: flip "
    "(the image and its mirror image), 5 (center and corners) or 10 (those and their mirror "
    "images). Takes as many times as long.",
)


def option_flag(name: str, **changes: Any) -> Any:
    """Return the flag of an option of the table, as the default of a command's parameter.

    Args:
        changes: arguments of `typer.Option` that differ from the table, such as `help`.
    """
    spec = OPTION_TABLE[name]
    declarations = [spec.flag, spec.short] if spec.short else [spec.flag]
    if spec.types == (bool,) and spec.default is not False:
        declarations = [f"{spec.flag}/--no-{spec.flag.removeprefix('--')}"]
    arguments = {
        "metavar": None if spec.types == (bool,) else spec.placeholder,
        "help": spec.help,
        "show_default": "; ".join(filter(None, (spec.shown_default, spec.shown_values))),
    }
    return typer.Option(spec.default, *declarations, **{**arguments, **changes})


def _flag_parameter(spec: OptionSpec) -> inspect.Parameter:
    """Return an option as a parameter of a command."""
    return inspect.Parameter(
        spec.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option_flag(spec.name, rich_help_panel=spec.group),
        annotation=str if str in spec.types or spec.flag_is_text else spec.types[0],
    )


def with_options(names: Iterable[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's `**options` by one flag for each of these options of the table.

    They stand behind the command's arguments and before its own flags, which are keyword-only.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters.values()
        before = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        after = [p for p in own if p.kind is p.KEYWORD_ONLY]
        made = [_flag_parameter(OPTION_TABLE[name]) for name in names]
        parameters = [*before, *made, *after]
        # typer reads both: the signature, and the type hints.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def given_options(context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are on the command line, by name."""
    return {name: value for name, value in options.items() if _is_given(context, name)}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
