"""The commands together, and the exit codes of failures."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tlcli._version import __version__
from tlcli.cli import (
    cache,
    check,
    demo,
    evaluate,
    export,
    finetune,
    models,
    plan,
    predict,
    sample,
)
from tlcli.cli.help import MAX_HELP_WIDTH, GroupedCommand
from tlcli.errors import UserError
from tlcli.text import printable


class Commands(TyperGroup):
    """The group of commands; turns expected failures into exit codes in one place."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        If the reader closes the pipe (`| head`), tlcli exits quietly.
        """
        try:
            return super().invoke(ctx)
        except UserError as error:
            sys.stderr.write(f"error: {printable(error.message)}\n")
            if error.hint:
                sys.stderr.write(f"hint: {printable(error.hint)}\n")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            sys.stderr.write("interrupted\n")
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            from tlcli.cli.output import discard_stdout

            discard_stdout()
            raise typer.Exit(0) from error


app = typer.Typer(
    name="tlcli",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": MAX_HELP_WIDTH},
    help="Turn a folder of images into a classifier you can trust.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tlcli {__version__}")
        raise typer.Exit


@app.callback()
def _tlcli(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


for module in (
    finetune,
    plan,
    predict,
    evaluate,
    models,
    check,
    export,
    sample,
    demo,
    cache,
):
    app.command(module.__name__.rpartition(".")[2], cls=GroupedCommand)(module.command)


def run_app() -> None:
    """Run the program; a bug keeps its traceback, and the user is asked to report it."""
    try:
        app()
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.write(
            "\nThis is a bug in tlcli, not a mistake of yours. "
            "Please report it with the lines above and the command.\n"
        )
        sys.exit(70)
