"""Runs that are extended by further epochs."""

import csv

import pytest

from tests.fakes import fail_at_step, raise_it, same_run
from tlcli import finetune
from tlcli.artifacts import run_folder as run
from tlcli.errors import UsageError, UserError

# Longer


def test_a_finished_run_is_extended_along_the_longer_schedule(
    flowers, lenet, tmp_path, monkeypatch
):
    first = finetune(flowers, output=tmp_path / "a", **lenet)
    with pytest.raises(UserError, match="has finished"):
        finetune(resume=first.folder)
    longer = finetune(resume=first.folder, epochs="+2")
    rows = list(csv.DictReader((longer.folder / "history.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "1", "2", "3", "4", "5"]
    assert "epochs = 5\n" in (longer.folder / "options.toml").read_text()
    planned = finetune(flowers, output=tmp_path / "five", **{**lenet, "epochs": 5})
    theirs = list(csv.DictReader((planned.folder / "history.csv").open()))
    # The rate from the fourth epoch on is that of a run of five.
    assert [r["lr"] for r in rows[-2:]] == [r["lr"] for r in theirs[-2:]]
    # Stopped while it is extended, before and after its first new state is saved.
    for step in (1, 15):
        finetune(flowers, output=tmp_path / f"b{step}", **lenet)
        with monkeypatch.context() as patch:
            fail_at_step(patch, step)
            finetune(resume=tmp_path / f"b{step}", epochs="+2")
        assert same_run(longer, finetune(resume=tmp_path / f"b{step}"))


def test_an_extension_that_is_killed_at_its_first_file_goes_on(
    flowers, lenet, tmp_path, monkeypatch
):
    finetune(flowers, output=tmp_path / "run", **lenet)
    with monkeypatch.context() as patch:
        patch.setattr("tlcli.artifacts.run_folder.write_run_json", lambda *_: raise_it(SystemExit))
        with pytest.raises(SystemExit):
            finetune(resume=tmp_path / "run", epochs="+2")
    assert run.read_run_json(tmp_path / "run")["status"] == "finished"
    assert finetune(resume=tmp_path / "run").plan.training.epochs == 5


def test_patience_is_remembered_and_an_extension_begins_it_anew(flowers, lenet, tmp_path):
    options = {**lenet, "epochs": 20, "patience": 1, "lr": 1e-9}  # nothing gets better
    first = finetune(flowers, output=tmp_path / "run", **options)
    rows = list(csv.DictReader((first.folder / "history.csv").open()))
    done = int(rows[-1]["epoch"])
    assert done < 20
    more = finetune(resume=tmp_path / "run", epochs="+3")
    assert more.plan.training.epochs == done + 3
    assert len(list(csv.DictReader((more.folder / "history.csv").open()))) > len(rows)


def test_a_solved_head_has_nothing_to_extend_and_keeps_no_checkpoint(trained):
    assert not (trained.folder / "checkpoint").exists()
    with pytest.raises(UserError, match="was solved") as caught:
        finetune(resume=trained.folder, epochs="+10")
    assert "--optimizer adamw" in caught.value.hint


def test_added_epochs_need_a_run(flowers):
    with pytest.raises(UsageError, match="adds epochs to an existing run"):
        finetune(flowers, epochs="+3")
