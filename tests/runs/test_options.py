"""The table of options, and what is made from it."""

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

import pytest
import typer.main

from tlcli.cli import app
from tlcli.cli.plan import PLAN_OPTIONS
from tlcli.errors import UsageError
from tlcli.planning.training_config import TrainingConfig
from tlcli.recipes.finetune import finetune
from tlcli.recipes.plan import plan
from tlcli.runs.config_file import read_toml
from tlcli.runs.option_values import OptionValues
from tlcli.runs.options import GROUPS, OPTION_TABLE, Options

COMMANDS = typer.main.get_command(app).commands


def test_every_field_is_described():
    assert list(OPTION_TABLE) == [f.name for f in fields(Options)]
    for f in fields(Options):
        spec = OPTION_TABLE[f.name]
        assert f.default is not MISSING
        assert spec.default == f.default == getattr(Options(), f.name)
        assert spec.help.endswith(".")
        assert spec.help[0].isupper()
        assert spec.group in GROUPS


@pytest.mark.parametrize(("command", "names"), [("finetune", OPTION_TABLE), ("plan", PLAN_OPTIONS)])
def test_commands_have_the_flags_of_the_table(command, names):
    parameters = {p.name: p for p in COMMANDS[command].params}
    for name in names:
        spec, parameter = OPTION_TABLE[name], parameters[name]
        assert spec.flag in parameter.opts
        assert not spec.short or spec.short in parameter.opts
        assert parameter.default == spec.default


def test_types_for_editors_are_those_of_the_table():
    hints = get_type_hints(OptionValues)
    assert hints.keys() == OPTION_TABLE.keys()
    for name, spec in OPTION_TABLE.items():
        accepted = get_args(hints[name]) or (hints[name],)
        assert (NoneType in accepted) == (spec.default is None)
        assert set(spec.types) <= set(accepted)
        if spec.choices:
            assert get_args(accepted[0]) == spec.choices


@pytest.mark.parametrize("function", [finetune, plan])
def test_functions_show_their_options(function):
    more = inspect.signature(function).parameters["more"]
    assert get_args(more.annotation) == (OptionValues,)


def wrong_values():
    """Yield an option and a value just outside of what it accepts."""
    for name, spec in OPTION_TABLE.items():
        if spec.choices:
            yield name, "no-such-name"
        if spec.low is not None:
            yield name, spec.low - 1
            yield name, float("nan")
        if spec.low is not None and spec.high < float("inf"):
            yield name, spec.high * 2


@pytest.mark.parametrize(("name", "value"), list(wrong_values()))
def test_values_outside_of_the_table_are_refused(name, value):
    with pytest.raises(UsageError, match=OPTION_TABLE[name].flag):
        Options(**{name: value}).check()


def test_accepted_values_are_accepted():
    for name, spec in OPTION_TABLE.items():
        for value in [*spec.choices, *spec.words, *([] if spec.low is None else [spec.low])]:
            Options(**{name: value}).check()


def test_all_numbers_out_of_range_are_named_together():
    with pytest.raises(UsageError) as caught:
        Options(epochs=0, dropout=2.0, seed=-1).check()
    for flag in ("--epochs 0", "--dropout 2", "--seed -1"):
        assert flag in caught.value.message


@pytest.mark.parametrize("name", OPTION_TABLE)
def test_a_file_of_options_takes_each_option_and_no_other_type(name, tmp_path):
    spec, file = OPTION_TABLE[name], tmp_path / "o.toml"
    right = {int: "3", float: "0.5", bool: "true", str: '"auto"', Path: '"auto"'}[spec.types[0]]
    file.write_text(f"{name} = {right}\n")
    assert read_toml(file).keys() == {name}
    file.write_text(f"{name} = [1]\n")
    with pytest.raises(UsageError, match=f"{name} must be "):
        read_toml(file)


def test_what_overrides_the_plan_are_the_training_options():
    overrides = Options(case="large-similar", lr=0.5, augment="mixup").overrides()
    assert overrides.case == "large-similar"
    assert overrides.mixing == "--augment mixup"
    known = {f.name for f in fields(TrainingConfig)} & OPTION_TABLE.keys()
    training = {"lr": 0.5, "augment": "mixup"}
    (values,) = [value for value in vars(overrides).values() if isinstance(value, dict)]
    assert values == {name: training.get(name) for name in known}
