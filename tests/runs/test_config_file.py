"""Options in a file, and the figures for TensorBoard."""

import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.fakes import fail_at_step
from tlcli import finetune
from tlcli.errors import UsageError, UserError
from tlcli.runs.config_file import read_toml, to_toml
from tlcli.runs.options import Options

STRANGE = 'a "quoted" \\ name\twith\x7fönly 🌷 [characters] # = \n'


def test_options_go_through_a_file_unchanged(tmp_path):
    options = Options(
        model="vgg16", weights=STRANGE, lr=1e-5, epochs=7, calibrate=False, cache_limit=0.5,
        case="large-similar", seed=3,
    )  # fmt: skip
    (tmp_path / "o.toml").write_text(to_toml(options, tmp_path / "d", {"lr_schedule": "cosine"}))
    values = read_toml(tmp_path / "o.toml")
    assert values.pop("data") == str(tmp_path / "d")
    assert Options(**values) == options
    assert values.keys() == {
        f.name for f in fields(Options) if getattr(options, f.name) is not None
    }
    assert "# lr_schedule" in (tmp_path / "o.toml").read_text()


def test_a_run_is_repeated_by_its_file_and_flags_win(flowers, lenet, tmp_path, tlcli):
    first = finetune(flowers, output=tmp_path / "a", **lenet)
    file = first.folder / "options.toml"
    again = finetune(config=file, output=tmp_path / "b")
    assert again.bundle.read_bytes() == first.bundle.read_bytes()
    text = tomllib.loads(file.read_text())
    assert text["epochs"] == 3
    assert text["weights"] == lenet["weights"]
    assert "output" not in text
    result = tlcli("finetune", "--config", file, "--epochs", 1, "-o", tmp_path / "c")
    assert result.exit_code == 0, result.stderr
    options = json.loads((tmp_path / "c" / "run.json").read_text())["options"]
    assert options["epochs"] == 1  # the flag's
    assert options["batch_size"] == 3  # the file's, though it is not the default


def test_paths_are_seen_from_the_file(tmp_path, monkeypatch):
    (tmp_path / "here" / "images").mkdir(parents=True)
    (tmp_path / "here" / "w.pth").touch()
    (tmp_path / "here" / "vgg16").mkdir()
    file = tmp_path / "here" / "o.toml"
    file.write_text('data = "images"\nweights = "w.pth"\nmodel = "vgg16"\noutput = "run"\n')
    monkeypatch.chdir(tmp_path)
    values = read_toml(Path("here/o.toml"))
    assert values["data"] == str(tmp_path / "here" / "images")
    assert values["weights"] == str(tmp_path / "here" / "w.pth")
    assert values["model"] == "vgg16"  # a backbone's name is no path
    assert values["output"] == str(tmp_path / "here" / "run")
    file.write_text('weights = "auto"\nmodel = "../other/run"\n')
    (tmp_path / "other" / "run").mkdir(parents=True)
    values = read_toml(file)
    assert values == {"weights": "auto", "model": str(tmp_path / "other" / "run")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch = 3", "'epoch' is not an option"),
        ('lr = "fast"', "--lr fast is neither a number nor find"),
        ("epochs = 2.5", "epochs must be a whole number"),
        ("epochs = true", "epochs must be a whole number"),
        ('calibrate = "no"', "calibrate must be true or false"),
        ("model = 16", "model must be a text"),
        ("epoch = 3\nbatchsize = 2", "'batchsize' is not an option"),
    ],
)
def test_errors_in_a_file_are_named_with_what_was_meant(tmp_path, tlcli, text, expected):
    (tmp_path / "o.toml").write_text(text)
    result = tlcli("finetune", tmp_path, "--config", tmp_path / "o.toml")
    assert result.exit_code == 2
    assert expected in result.stderr
    if "is not an option" in expected:
        assert "did you mean" in result.stderr


def test_files_that_cannot_be_read_are_errors(tmp_path):
    (tmp_path / "o.toml").write_text("epochs: 3")
    for name, expected in (("o.toml", "not TOML"), ("nowhere.toml", "cannot be read")):
        with pytest.raises(UserError, match=expected):
            read_toml(tmp_path / name)
    with pytest.raises(UsageError, match="no folder of images"):
        finetune()
    (tmp_path / "o.toml").write_text("lr = 1\nepochs = -1")
    assert read_toml(tmp_path / "o.toml")["lr"] == 1  # a whole number is a number
    with pytest.raises(UsageError, match="--epochs -1 is out of range"):
        finetune(tmp_path, config=tmp_path / "o.toml")


def test_a_python_callers_options_are_those_that_differ_from_the_defaults():
    options = replace(Options(), lr=0.5, calibrate=False)
    assert options.non_default() == {"lr": 0.5, "calibrate": False}


def test_tensorboard_has_each_epoch_once_though_the_run_was_resumed(
    flowers,
    lenet,
    tmp_path,
    monkeypatch,
):
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monkeypatch.context() as patch:
        fail_at_step(patch, 13)
        finetune(flowers, output=tmp_path / "run", log="tensorboard", **lenet)
    run = finetune(resume=tmp_path / "run")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss/train")] == [1, 2, 3, 4]
    assert [e.step for e in events.Scalars("lr")] == [2, 3, 4]  # the solved head has none
    rows = (run.folder / "history.csv").read_text().splitlines()
    assert len(rows) == 5
    assert "options/text_summary" in events.Tags()["tensors"]


def test_a_missing_tensorboard_is_an_error_before_anything_is_done(flowers, tmp_path, monkeypatch):
    monkeypatch.setattr("tlcli.artifacts.tensorboard.find_spec", lambda _: None)
    with pytest.raises(UserError) as caught:
        finetune(flowers, log="tensorboard", output=tmp_path / "run")
    assert "tlcli[tensorboard]" in caught.value.hint
    assert not (tmp_path / "run").exists()
