"""run.json and checkpoints as typed values: read, written back and damaged."""

import json

import pytest

from tlcli import finetune
from tlcli.artifacts import checkpoint
from tlcli.artifacts import run_folder as run
from tlcli.errors import UserError
from tlcli.runs.description import RunRecord
from tlcli.runs.state import RunState

KEYS = [
    *("status", "backbone", "weights", "weights_sha256", "preprocessing", "dataset", "options"),
    *("augmentation", "plan", "forecast_s", "views", "compute", "forward_batch_size", "threads"),
    *("machine", "versions"),
]
OUTCOME_KEYS = ["remembered", "stopped", "best_epoch", "metrics", "seconds"]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory, flowers, lenet):
    """A run that trained in steps, so that it keeps its checkpoint."""
    options = {**lenet, "lr": "find", "augment": "standard,pca=0.1"}
    return finetune(flowers, output=tmp_path_factory.mktemp("stepped") / "run", **options)


def text_of(run_json):
    """run.json as it is written: keys in their order."""
    return json.dumps(run_json, indent=2) + "\n"


def test_run_json_is_read_and_written_back_to_the_same_text(trained, stepped):
    for folder, more in ((trained.folder, []), (stepped.folder, ["found_lr"])):
        text = (folder / "run.json").read_text()
        record = RunRecord.from_dict(json.loads(text))
        assert text_of(record.to_dict()) == text
        assert list(json.loads(text)) == KEYS + OUTCOME_KEYS + more
        counts = record.description.dataset.classes.values()
        assert record.outcome.metrics.n == sum(count["val"] for count in counts)


def test_a_run_that_goes_on_has_no_outcome(trained):
    content = json.loads((trained.folder / "run.json").read_text())
    begun = {key: content[key] for key in KEYS} | {"status": "running"}
    record = RunRecord.from_dict(begun)
    assert record.outcome is None
    assert record.to_dict() == begun


def test_the_state_in_a_checkpoint_is_read_and_written_back(stepped):
    stored = checkpoint.read_checkpoint(run.state_file(stepped.folder))
    state = RunState.from_dict(stored)
    assert state.to_dict().keys() == stored.keys()
    assert state.to_dict()["run"] == stored["run"]
    assert (state.phase, state.epoch, state.epochs_done) == (1, 3, 4)
    assert not state.is_mid_epoch
    assert state.improved
    assert state.run.plan == stepped.plan


@pytest.mark.parametrize("damage", ["plan", "dataset", "options"])
def test_a_damaged_run_json_is_named(stepped, tmp_path, damage):
    content = json.loads((stepped.folder / "run.json").read_text())
    content[damage] = {"unknown": 1}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        finetune(resume=tmp_path)
