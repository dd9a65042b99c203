"""`--help` of every command: groups, defaults, accepted values, at any width."""

import os
import pty
import re
import subprocess
import sys

import pytest
import typer.main

from tlcli.cli import app
from tlcli.cli.app import COMMANDS as SUMMARIES
from tlcli.cli.help import names, sections
from tlcli.planning.optimizers import OPTIMIZERS
from tlcli.runs.options import GROUPS, OPTION_TABLE

COMMANDS = typer.main.get_command(app).commands
HEAVY = {"torch", "torchvision", "numpy", "PIL", "rich"}


def help_of(command, columns=80):
    context = COMMANDS[command].make_context(
        command, [], resilient_parsing=True, terminal_width=columns
    )
    return COMMANDS[command].get_help(context)


@pytest.mark.parametrize("arguments", [["--help"], ["finetune", "--help"], ["plan", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from tlcli.cli import app\n"
        f"try: app({arguments})\nexcept SystemExit: pass\n"
        f"sys.exit(', '.join(sorted({HEAVY} & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_the_options_of_finetune_stand_in_groups():
    text = help_of("finetune")
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == ["Arguments", *GROUPS, "Options"]
    for title, parameters in sections(COMMANDS["finetune"].params).items():
        for parameter in parameters:
            spec = OPTION_TABLE.get(parameter.name)
            assert spec is None or spec.group == title


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_has_the_first_line_of_each_help(command):
    assert COMMANDS[command].help.splitlines()[0] == SUMMARIES[command]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [60, 100])
def test_help_fits_the_terminal_and_names_every_option(command, columns):
    text = help_of(command, columns)
    assert max(map(len, text.splitlines())) <= columns
    for parameter in COMMANDS[command].params:
        assert re.search(rf"^  {re.escape(names(parameter))}( |$)", text, re.MULTILINE)


def test_help_shows_defaults_choices_and_ranges():
    text = " ".join(help_of("finetune").split())
    for spec in OPTION_TABLE.values():
        facts = "; ".join(filter(None, (f"default: {spec.shown_default}", spec.shown_values)))
        assert f"{spec.help} [{facts}]" in text
    assert f"[default: chosen by the plan; one of {', '.join(OPTIMIZERS)}]" in text
    assert "[default: 0.2; 0.01 to 0.9]" in text
    assert "[default: chosen by the plan; above 0 or find]" in text


def test_every_value_has_a_placeholder():
    for command in COMMANDS.values():
        for parameter in command.params:
            assert getattr(parameter, "is_flag", False) or parameter.metavar, parameter.name


def test_help_is_plain_text_on_a_terminal_too():
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "60", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "tlcli", "finetune", "--help"]
    piped = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert max(map(len, piped.stdout.splitlines())) <= 60
    process = subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:  # Linux ends a pseudo-terminal so
        pass
    assert process.wait() == 0
    os.close(ours)
    assert b"\x1b" not in shown
    assert shown.decode().replace("\r\n", "\n") == piped.stdout
