"""The package as Python programs see it: the same verbs as the command line."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import tlcli
from tlcli.cli import app

COMMANDS = list(typer.main.get_command(app).commands)
OTHER_NAMES = {"predict": ["load", "Classifier"], "sample": ["draw_sample", "contact_sheet"]}
"""The Python names of commands that are not called the same."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_function(command):
    for name in OTHER_NAMES.get(command, [command]):
        assert name in tlcli.__all__
        assert callable(getattr(tlcli, name))
        assert inspect.getdoc(getattr(tlcli, name))


def test_all_names_are_there_and_typed():
    assert tlcli.__all__ == dir(tlcli)
    for name in tlcli.__all__:
        assert getattr(tlcli, name) is not None
    source = ast.parse(Path(tlcli.__file__).read_text())
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    typed = {alias.name for node in block.body for alias in node.names}
    assert typed == set(tlcli.__all__) - {"__version__"}
    assert Path(tlcli.__file__).with_name("py.typed").exists()


def test_the_former_name_of_a_prediction_still_works():
    assert tlcli.Answer is tlcli.Prediction
    assert "Answer" not in tlcli.__all__
    with pytest.raises(AttributeError, match="'Nothing'"):
        tlcli.Nothing  # noqa: B018


def test_importing_the_package_imports_no_torch():
    code = "import sys, tlcli; dir(tlcli); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_do_what_the_commands_do(flowers, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path))
    checked = tlcli.check(flowers)
    assert [row["train"] + row["val"] for row in checked.rows()] == [8] * 5
    assert not checked.unreadable
    assert [row["name"] for row in tlcli.models("vgg16")] == ["vgg16", "vgg16_bn"]
    assert all(row["at_hand"] for row in tlcli.models(at_hand=True))
    with pytest.raises(tlcli.UserError, match="vgg61"):
        tlcli.models("vgg61")
    contents = tlcli.cache()
    assert (contents.folder, contents.tables) == (tmp_path / "features", ())
    assert tlcli.cache(clear=True).freed_mb == 0
