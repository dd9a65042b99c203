"""The commands together, and the exit codes of failures."""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from tlcli._version import __version__
from tlcli.cli.help import MAX_HELP_WIDTH, GroupedCommand
from tlcli.errors import UserError
from tlcli.text import printable

COMMANDS = {
    "finetune": "Train a classifier on a folder of images.",
    "plan": "Measure a folder of images and show which of the four cases it is, and why.",
    "predict": "Predict the class of each image, with its probability.",
    "evaluate": "Evaluate a model on labeled images: accuracy, mistakes and calibration.",
    "models": "List the backbones, or show the stages of one and what each case does with them.",
    "check": "Check a folder the way finetune would read it.",
    "export": "Export a trained model for other programs.",
    "sample": "Draw a sample dataset of flowers, or show how images are augmented.",
    "demo": "Draw flowers, fine-tune on them and predict new ones. Needs no network.",
    "cache": "List the contents of the feature cache, or clear it.",
}
"""The first line of each command's help, so that `tlcli --help` imports no command."""


class _LazyCommands(Mapping[str, Any]):
    """The commands by name; the module of a command is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        single = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        command = import_module(f"tlcli.cli.{name}").command
        single.command(name, cls=GroupedCommand)(command)
        return typer.main.get_command(single)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(TyperGroup):
    """The group of commands; turns expected failures into exit codes in one place."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = _LazyCommands()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write one line per command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

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
