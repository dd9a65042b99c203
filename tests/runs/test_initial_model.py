"""A bundle that is trained further."""

import json

import pytest
import torch

from tests.fakes import RecordingReporter, fail_at_step
from tlcli import finetune, load
from tlcli.artifacts.bundle import read_meta
from tlcli.backbones import build
from tlcli.errors import UsageError, UserError
from tlcli.inference.load import open_bundle
from tlcli.recipes.plan import plan
from tlcli.runs.initial_model import load_initial_model, tensors_sha256


def test_on_the_same_classes_the_head_is_kept(straight_run, flowers, tmp_path):
    notes = RecordingReporter()
    options = {"case": "large-similar", "epochs": 1, "lr": 1e-9, "calibrate": False}
    further = finetune(
        flowers, model=straight_run.folder, output=tmp_path / "run", reporter=notes, **options
    )
    assert any("the same as here" in note for note in notes.notes)
    assert "trained further" in further.plan.why
    assert not further.plan.training.head_first  # the head needs no solving first
    before, after = (open_bundle(r.bundle)[0].tensors() for r in (straight_run, further))
    temperature = read_meta(straight_run.bundle).temperature
    for name, tensor in before.items():  # hardly moved, and the temperature undone
        undone = temperature if name.startswith("fc3") or "classifier" in name else 1.0
        assert torch.allclose(after[name], tensor * undone, atol=1e-3), name
    meta = read_meta(further.bundle)
    assert meta.preprocessing == read_meta(straight_run.bundle).preprocessing
    assert meta.ancestor.sha256 == tensors_sha256(before)
    assert meta.ancestor.name == meta.weights == "run/model.safetensors"
    assert meta.ancestor.weights == "lenet.safetensors"


def test_for_other_classes_the_head_is_replaced(straight_run, two_classes, tmp_path):
    notes = RecordingReporter()
    further = finetune(
        two_classes, model=str(straight_run.bundle), case="large-similar", epochs=1,
        output=tmp_path / "run", reporter=notes,
    )  # fmt: skip
    assert any("head is replaced" in note for note in notes.notes)
    assert load(further.folder).predict(next(two_classes.glob("val/*/*")))[0].label
    assert len(read_meta(further.bundle).classes) == 2


def test_a_bundle_without_its_last_stages_is_trained_further_without_them(two_classes, tmp_path):
    short = finetune(two_classes, case="small-different", output=tmp_path / "short")
    ends = read_meta(short.bundle).truncated_after
    assert ends == short.plan.cut
    before = open_bundle(short.bundle)[0].tensors()
    image = next(two_classes.glob("val/*/*"))
    for case, options in (("small-similar", {}), ("large-similar", {"epochs": 1})):
        further = finetune(
            two_classes, model=short.folder, case=case, output=tmp_path / case, **options
        )
        meta, now = read_meta(further.bundle), open_bundle(further.bundle)[0].tensors()
        assert (meta.dropped, meta.truncated_after) == (True, ends)
        assert meta.cut == ("none" if case == "large-similar" else "pool")
        assert load(further.folder).predict(image)[0].label
        assert now.keys() == before.keys()
        frozen = [k for k in now if torch.equal(now[k], before[k])]
        body = [k for k in now if not k.startswith("new_head")]
        assert (set(body) <= set(frozen)) == (case == "small-similar")


def test_a_bundle_can_be_planned_for(trained, flowers):
    notes = RecordingReporter()
    found = plan(flowers, model=trained.folder, reporter=notes)
    assert found.evidence.similarity.method == "self"  # no table knows these weights
    assert found.evidence.similarity.head_win_rate is None  # nor is its head one of ImageNet's
    assert found.evidence.sweep
    assert any("the same as here" in note for note in notes.notes)


def test_a_run_from_a_bundle_is_resumed_from_the_same_bundle(
    straight_run, flowers, tmp_path, monkeypatch
):
    options = {"model": straight_run.folder, "case": "large-different", "epochs": 2}
    options |= {"checkpoint_minutes": 0, "batch_size": 8}
    straight = finetune(flowers, output=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        fail_at_step(patch, 7)
        finetune(flowers, output=tmp_path / "b", **options)
    again = finetune(resume=tmp_path / "b")
    assert again.bundle.read_bytes() == straight.bundle.read_bytes()
    text = json.loads((tmp_path / "b" / "run.json").read_text())
    text["weights_sha256"] = "0" * 64
    (tmp_path / "b" / "run.json").write_text(json.dumps(text))
    (tmp_path / "b" / "checkpoint" / "state.safetensors").unlink()
    text["status"] = "running"
    (tmp_path / "b" / "run.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match="other weights"):
        finetune(resume=tmp_path / "b")


def test_what_is_no_bundle_is_told(straight_run, flowers, tmp_path):
    with pytest.raises(UsageError, match="--weights goes with a backbone"):
        finetune(flowers, model=straight_run.folder, weights="none", output=tmp_path / "run")
    with pytest.raises(UsageError, match="vgg61"):
        finetune(flowers, model="vgg61", output=tmp_path / "run")
    with pytest.raises(UserError, match="there is no model"):
        finetune(flowers, model=flowers, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_hash_of_tensors_is_of_their_values_alone():
    torch.manual_seed(0)
    tensors = build.build("lenet5").model.state_dict()
    turned = {k: v.clone() for k, v in reversed(tensors.items())}
    assert tensors_sha256(tensors) == tensors_sha256(turned)
    next(iter(turned.values())).flatten()[0] += 1
    assert tensors_sha256(tensors) != tensors_sha256(turned)


def test_a_published_backbone_has_no_ancestor():
    origin = load_initial_model("efficientnet_lite0", "auto", ("a", "b"))
    assert origin.ancestor is None
    assert origin.head is None
