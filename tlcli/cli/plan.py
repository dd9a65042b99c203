"""`tlcli plan`: measure a folder and show which case it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tlcli.cli.flags import FORMAT_FLAG, QUIET_FLAG, with_options
from tlcli.errors import UsageError
from tlcli.runs.options import OPTION_TABLE, Options

if TYPE_CHECKING:
    from tlcli.planning.planned import Planned

PLAN_OPTIONS = (
    "model",
    "weights",
    "case",
    "size",
    "similarity",
    "freeze",
    "sample",
    "large_from",
    "val_fraction",
    "seed",
    "device",
    "cache",
    "cache_limit",
)
"""The options of a run that a plan depends on."""
_COLUMNS = (
    "case",
    "size",
    "similarity",
    "cut",
    "trained",
    "why",
    "evidence",
    "forecast_s",
    "backbone",
    "dropped",
    "override",
    "runner_up",
    "schedule",
    "otherwise",
    "images",
    "seed",
)
_COMPARISON_COLUMNS = (
    "backbone",
    "accuracy",
    "accuracy_error",
    "stage",
    "images_per_s",
    "size_mb",
    "case",
    "runner_up",
)


@with_options(PLAN_OPTIONS)
def command(
    data: Path = typer.Argument(
        ...,
        metavar="DIR",
        help="Folder with one sub-folder per class, or with train/ and val/ of that form.",
    ),
    *,
    compare: str = typer.Option(
        None,
        metavar="NAME,NAME,...",
        help="Compare several backbones on the same images, best first. NAME=FILE adds a weight "
        "file.",
    ),
    format_name: str = FORMAT_FLAG,
    quiet: bool = QUIET_FLAG,
    **options: Any,
) -> None:
    """Measure a folder of images and show which of the four cases it is, and why.

    Nothing is trained, and nothing is written but the feature cache.
    """
    from tlcli.cli import output
    from tlcli.cli.progress import Terminal
    from tlcli.recipes.plan import compare_backbones

    format_name = output.choose_result_format(format_name)
    backbones = _backbones(compare, options)
    with Terminal(quiet) as terminal:
        plans = compare_backbones(data, backbones, Options(**options), reporter=terminal)
    _write(plans, backbones is not None, format_name)


def _backbones(compare: str | None, options: dict[str, Any]) -> list[str] | None:
    """Return the backbones that --compare names, which --model and --weights contradict."""
    if compare is None:
        return None
    if any(options[name] != OPTION_TABLE[name].default for name in ("model", "weights")):
        raise UsageError(
            "--compare names the backbones, so --model and --weights cannot be given",
            "name weight files as in --compare vgg16=vgg16.pth",
        )
    return compare.split(",")


def _write(plans: "list[Planned]", comparison: bool, format_name: str) -> None:
    """Write one plan, or the rows of a comparison."""
    from tlcli.cli import output
    from tlcli.recipes.plan import comparison_row

    if format_name == "table":
        from tlcli.cli.plan_table import show_plans

        output.send(lambda out: show_plans(plans, comparison, out))
    elif comparison:
        output.write_result(map(comparison_row, plans), _COMPARISON_COLUMNS, format_name)
    else:
        output.write_one(plans[0].to_dict(), _COLUMNS, format_name)
