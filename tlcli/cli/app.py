"""The commands gathered, and how failures leave the program."""

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
from tlcli.cli.output import drop_stdout
from tlcli.errors import UserError
from tlcli.text import printable


class Commands(TyperGroup):
    """The group of commands; turns expected failures into exit codes in one place."""

    def invoke(self, ctx: Any) -> Any:
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
            # The reader of a pipe has gone (`| head`): nothing is wrong, nothing more to say.
            drop_stdout()
            raise typer.Exit(0) from error


app = typer.Typer(
    name="tlcli",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A folder of images in, a classifier you can trust out.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tlcli {__version__}")
        raise typer.Exit


@app.callback()
def _tlcli(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
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
    app.command(module.__name__.rpartition(".")[2])(module.command)


def main() -> None:
    """The program; a bug keeps its traceback and says that it is one."""
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
