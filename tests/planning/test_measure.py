"""The measuring pass on real images, and what finetune takes over from it."""

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.fakes import RecordingReporter
from tlcli import finetune
from tlcli.artifacts import bundle
from tlcli.artifacts.run_folder import BUNDLE as bundle_name
from tlcli.backbones import build
from tlcli.backbones.network import build_network
from tlcli.data.augmentation.presets import PRESETS
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import Sample, scan
from tlcli.features import stage_features as look
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import FeatureExtractor, extract_features
from tlcli.features.stage_features import StageFeatures
from tlcli.features.views import Views
from tlcli.planning import similarity
from tlcli.planning.measure import choose_sample as draw
from tlcli.planning.measure import measure_folder, probe_stages
from tlcli.recipes import plan as comparing
from tlcli.runtime.device import Compute, choose_device

SMALL = {  # a small member of each family that is quick enough on a few images
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet_lite": "efficientnet_lite0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "swin": "swin_t",
    "vgg": "vgg11",
    "vit": "vit_b_32",
}


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of four: padded to 32, a few images would cost as much as many."""
    monkeypatch.setattr(Compute, "batch_size", 4)


def fake(per_class):
    """Samples without files: {label: n}."""
    return [
        Sample(f"{label}-{i}", label, f"{label:03}{i:05}")
        for label, n in per_class.items()
        for i in range(n)
    ]


def test_every_beginning_of_the_sample_is_balanced():
    chosen = draw(fake({0: 500, 1: 30, 2: 30}), 60, seed=0)
    labels = [s.label for s in chosen]
    assert sorted(labels[:3]) == [0, 1, 2]
    assert labels.count(0) == labels.count(1) == labels.count(2) == 20
    everything = draw(fake({0: 500, 1: 30, 2: 30}), 1000, seed=0)
    assert len(everything) == 560
    assert len({s.digest for s in everything}) == 560


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    samples = fake({0: 100, 1: 100})
    one, two, other = draw(samples, 40, 0), draw(samples[::-1], 40, 0), draw(samples, 40, 1)
    assert [s.digest for s in one] == [s.digest for s in two]
    assert {s.digest for s in one} != {s.digest for s in other}


def test_of_very_many_classes_some_are_drawn():
    chosen = draw(fake(dict.fromkeys(range(1000), 20)), 1000, seed=0)
    counts = torch.bincount(torch.tensor([s.label for s in chosen]))
    assert len(chosen) == 1000
    assert (counts > 0).sum() == 100
    assert counts.max() == 10


def test_a_class_with_one_image_is_left_out_of_the_sweep():
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    codes = {"a": torch.randn(21, 4, generator=torch.Generator().manual_seed(0))}
    scores, best, notes = probe_stages(codes, labels, 0)
    assert len(best.labels) == 20
    assert "one image" in notes[0]
    assert scores[0].gap == 0.0
    for few in (torch.tensor([0, 1]), torch.tensor([0] * 30), torch.zeros(0, dtype=torch.int64)):
        scores, best, notes = probe_stages({"a": torch.zeros(len(few), 4)}, few, 0)
        assert (scores, best) == ((), None)
        assert "too few" in notes[-1]


@pytest.mark.parametrize("missing", [1, 3])
def test_a_class_that_is_not_in_the_sample_takes_no_answers(missing):
    """Of many classes some are drawn, and classes with one image are left out."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    labels[labels >= missing % 3] += 1  # there is no class of that number
    codes = torch.randn(4, 8, generator=g)[labels] + 0.2 * torch.randn(90, 8, generator=g)
    scores, best, notes = probe_stages({"a": codes}, labels, 0)
    assert scores[0].accuracy > 0.95
    assert best.classes.tolist() == labels.unique().tolist()
    assert notes == []


def test_one_image_beside_many_does_not_spoil_the_sweep():
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] + [2] * 10)
    codes = torch.randn(3, 8, generator=g)[labels] + 0.2 * torch.randn(71, 8, generator=g)
    scores, _, notes = probe_stages({"a": codes}, labels, 0)
    assert scores[0].accuracy > 0.95
    assert "one image" in notes[0]


def test_what_fits_the_sample_is_looked_at_whole():
    chosen = draw(fake(dict.fromkeys(range(300), 2)), 1000, seed=0)
    assert len(chosen) == 600


def test_a_stage_that_gives_no_numbers_is_left_out_and_told():
    labels = torch.arange(30) % 2
    codes = {"a": torch.randn(30, 4), "b": torch.full((30, 4), torch.nan)}
    scores, _, notes = probe_stages(codes, labels, 0)
    assert [s.name for s in scores] == ["a"]
    assert "b gives numbers that are not finite" in notes[0]


def test_upside_down_is_upside_down():
    images = torch.randint(256, (3, 3, 30, 20), dtype=torch.uint8)
    changed = similarity.upside_down(images)
    assert torch.equal(changed[0, :, 0, 0], images[0, :, -1, -1])
    assert torch.equal(similarity.upside_down(changed), images)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.usefixtures("small_batches")
def test_what_the_pass_keeps_is_what_finetune_would_compute(family, tmp_path, flowers):
    torch.manual_seed(0)
    backbone = build.build(SMALL[family])
    backbone.weights_sha256, backbone.pretrained = "made up", len(backbone.stages)
    cache, compute = FeatureCache(tmp_path), choose_device("cpu")
    samples = scan(flowers).train[:3]
    seen = StageFeatures(backbone, compute, cache, RecordingReporter())
    views = Views(2, make_augmentation(PRESETS["light"]), seed=3)
    outputs, unreadable = seen.extract(samples, views)
    assert not unreadable
    assert outputs["head"].shape == (3, 1000)
    assert all(o.dim() == 2 and len(o) == 3 and o.isfinite().all() for o in outputs.values())
    widths = [o.shape[1] for o in outputs.values()]
    # Both of the small cases read rows that the pass has written, and the same numbers.
    middle = list(outputs)[len(outputs) // 2]
    for cut, dropped in ((seen.last_stage, False), (middle, True)):
        names = [s.name for s in backbone.stages]
        if dropped and names.index(cut) >= len(names) - 2:
            continue
        network = build_network(backbone, cut=cut, dropped=dropped, n_classes=2)
        prefix = FeatureExtractor(
            network.prefix,
            backbone.preprocessing,
            compute,
            RecordingReporter(),
            origin=backbone.origin,
        )
        fresh, _, _ = extract_features(
            samples, prefix, task="x", views=views, reporter=RecordingReporter()
        )
        if fresh.dim() > 3:
            continue  # a map behind which the head pools itself (SqueezeNet)
        assert torch.equal(fresh[:, 0], outputs[cut]), cut
        notes = RecordingReporter()
        again = {"views": views, "cache": cache, "reporter": notes}
        cached, _, _ = extract_features(samples, prefix, task="x", **again)
        assert notes.notes == ["x: 6 of 6 views read from the cache"]
        assert torch.equal(cached, fresh)
    assert widths[-1] == 1000


@pytest.mark.parametrize("views", [1, 2])
def test_a_slow_backbone_is_shown_fewer_images(tmp_path, flowers, monkeypatch, views):
    backbone = build.load_backbone("efficientnet_lite0")
    monkeypatch.setattr(look, "MAX_SECONDS", 1e-6)
    monkeypatch.setattr(look, "MIN_SAMPLE", 9)
    monkeypatch.setattr(Compute, "batch_size", 8)
    monkeypatch.setattr(look, "FORECAST_AFTER_BATCHES", 1)
    dataset, notes = scan(flowers), RecordingReporter()
    found = measure_folder(
        dataset.train,
        dataset.classes,
        backbone,
        choose_device("cpu"),
        FeatureCache(tmp_path),
        views=Views(views, make_augmentation(PRESETS["light"])),
        reporter=notes,
    )
    assert found.evidence.sampled == 9
    assert "is slow on this machine" in notes.notes[0]


def test_once_a_view_is_known_to_take_too_long_none_is_drawn(tmp_path, flowers, monkeypatch):
    monkeypatch.setattr(Compute, "batch_size", 4)
    monkeypatch.setattr(look, "FORECAST_AFTER_BATCHES", 1)
    views, samples = Views(2, make_augmentation(PRESETS["light"])), scan(flowers).train
    pass_ = StageFeatures(
        build.load_backbone("efficientnet_lite0"),
        choose_device("cpu"),
        FeatureCache(tmp_path),
        RecordingReporter(),
    )
    outputs, _ = pass_.extract(samples, views, lambda view_seconds: 1 if view_seconds else 2)
    assert {len(output) for output in outputs.values()} == {len(samples)}
    drawn = [views.view_id(s, 1) in pass_.tables[0] for s in samples]
    assert drawn[:2] == [True, True]
    assert not drawn[-1]


@pytest.mark.parametrize(("family", "kept"), [("squeezenet", 1), ("resnet", 2)])
@pytest.mark.usefixtures("small_batches")
def test_views_that_no_head_would_read_are_not_computed(family, kept, tmp_path, two_classes):
    """SqueezeNet's head pools the last maps itself, and only pooled ones are kept."""
    backbone = build.build(SMALL[family])
    backbone.weights_sha256, backbone.pretrained = "made up", len(backbone.stages)
    dataset, views = scan(two_classes), Views(2, make_augmentation(PRESETS["light"]))
    found = measure_folder(
        dataset.train,
        dataset.classes,
        backbone,
        choose_device("cpu"),
        FeatureCache(tmp_path),
        views=views,
    )
    drawn = [views.view_id(s, 1) for s in dataset.train]
    for table in found.tables.values():
        assert sum(row in table for row in drawn) == (kept - 1) * len(dataset.train)


def test_a_second_view_that_takes_too_long_is_left_out_and_said(tmp_path, flowers, monkeypatch):
    monkeypatch.setattr("tlcli.planning.views.VIEW_LIMIT", 1e-6)
    notes = RecordingReporter()
    done = finetune(flowers, output=tmp_path / "run", size="small", reporter=notes)
    assert json.loads((done.folder / "run.json").read_text())["views"] == 1
    assert any("only the plain view" in note and "--views 2" in note for note in notes.notes)


@pytest.mark.parametrize("similarity", ["similar", "different"])
def test_a_fresh_run_decodes_no_image_twice(tmp_path, flowers, monkeypatch, similarity):
    """The plan's pass computes the views that are remembered afterwards, wherever the cut is."""
    from tlcli.data import loader as load

    seen, decode = Counter(), load.decode

    def counting(source, least):
        seen[source] += 1
        return decode(source, least)

    monkeypatch.setattr(load, "decode", counting)
    # In doubt some are looked at upside down too.
    monkeypatch.setattr("tlcli.planning.similarity.is_uncertain", lambda _: False)
    run = finetune(flowers, cache=False, similarity=similarity, output=tmp_path / "run")
    assert json.loads((run.folder / "run.json").read_text())["views"] == 2
    assert len(seen) == 40
    assert set(seen.values()) == {1}
    # Where a bundle reads an earlier stage, its last codes are kept under that stage's name.
    notes = RecordingReporter()
    more = {"model": str(run.folder), "similarity": similarity, "reporter": notes}
    finetune(flowers, cache=False, output=tmp_path / "again", **more)
    assert "features: 68 of 68 views read from the cache" in notes.notes


def test_the_plan_of_a_folder_and_the_finetune_that_follows(tlcli, tmp_path, flowers, monkeypatch):
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    planned = tlcli("plan", flowers, "--format", "json")
    assert planned.exit_code == 0
    told = json.loads(planned.stdout)
    assert list(told)[:8] == [
        "case",
        "size",
        "similarity",
        "cut",
        "trained",
        "why",
        "evidence",
        "forecast_s",
    ]
    assert told["size"] == "small"
    assert set(told["forecast_s"]) == {*package_cases(), "plan"}
    assert {s["name"] for s in told["evidence"]["sweep"]} >= {"features.0", "avgpool"}
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]  # nothing else is written

    done = tlcli("finetune", flowers, "--output", "run")
    assert done.exit_code == 0
    n = told["evidence"]["sampled"]
    assert f"features: {n} of {2 * n} views read from the cache" in done.stderr
    assert "plan: " in done.stderr
    assert "why: " in done.stderr
    assert "after the plan: took" in done.stderr
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["plan"]["evidence"] == told["evidence"]
    assert written["plan"]["why"] == told["why"]
    assert written["forecast_s"]["plan"] > 0
    assert bundle.read_meta(tmp_path / "run" / bundle_name).plan["evidence"] == told["evidence"]

    warm = tlcli("finetune", flowers, "--output", "warm")
    again = json.loads((tmp_path / "warm" / "run.json").read_text())
    assert again["forecast_s"]["plan"] < 4  # nothing is left to compute but the head
    assert f"features: {2 * n} of {2 * n} views read from the cache" in warm.stderr
    alone = tlcli("finetune", flowers, "--output", "alone", "--no-cache")
    assert "read from the cache" in alone.stderr  # what the pass saw, from a folder that is gone
    assert (
        (tmp_path / "run" / "model.safetensors").read_bytes()
        == (tmp_path / "warm" / "model.safetensors").read_bytes()
        == (tmp_path / "alone" / "model.safetensors").read_bytes()
    )


def package_cases():
    from tlcli.planning.cases import CASES

    return CASES


def test_a_plan_for_people_has_a_bar_for_each_stage(tlcli, flowers):
    shown = tlcli("plan", flowers, "--format", "table")
    assert shown.exit_code == 0
    assert shown.stdout.count("█") > 9
    assert "<- cut" in shown.stdout
    assert "Hardest to tell apart" in shown.stdout or "Accuracy by images" in shown.stdout
    assert re.search(r"\nFrozen up to: \S+; trained: \w*head", shown.stdout)
    assert "\nTraining: L-BFGS" in shown.stdout
    large = tlcli("plan", flowers, "--case", "large-similar", "-f", "table").stdout
    assert "\nFrozen: nothing; trained: features.0, ..., head.\n" in large
    assert "\nTraining: the head first, then AdamW, " in large
    assert "Forecast for this machine: small-similar" in shown.stdout
    told = " ".join(shown.stdout.split())
    assert "Otherwise: with --size large, large-" in told
    assert "(everything is trained, " in told
    assert re.search(r"; with --similarity (\w+), small-\1 \((a head on \w+|the same)", told)
    for by_hand in ("--size", "large"), ("--weights", "none"):
        assert "Otherwise" not in tlcli("plan", flowers, "-f", "table", *by_hand).stdout
    otherwise = json.loads(tlcli("plan", flowers, "-f", "json").stdout)["otherwise"]
    assert otherwise["--size large"]["cut"] == "none"


def test_a_full_disk_behind_a_table_is_told(flowers):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = [sys.executable, "-m", "tlcli", "plan", str(flowers), "-f", "table", "-q"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "stdout cannot be written" in done.stderr


def test_class_names_are_data_in_the_table(tlcli, tmp_path, flowers):
    folder = tmp_path / "odd"
    names = ["[red]a", "b\x1b[31m"]
    for name, source in zip(
        names, sorted(p for p in flowers.iterdir() if p.is_dir()), strict=False
    ):
        shutil.copytree(source, folder / name)
    for path in folder.rglob("*.jpg"):
        noise = random.Random(f"{path.parent.name}{path.name}").randbytes(48 * 48)
        Image.frombytes("L", (48, 48), noise).save(path)  # hard to tell apart
    shown = tlcli("plan", folder, "--format", "table")
    assert shown.exit_code == 0
    assert "\x1b[31m" not in shown.stdout
    assert "[red]a" in "".join(shown.stdout.split())


def test_compare_ranks_what_is_at_hand_and_names_what_is_not(tlcli, tmp_path, flowers, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = tmp_path / "half.pth"
    backbone = build.build("squeezenet1_1")
    torch.save(backbone.model.state_dict(), weights)
    done = tlcli(
        "plan",
        flowers,
        "--compare",
        f"squeezenet1_1={weights},efficientnet_lite0,resnet18",
        "--format",
        "json",
    )
    assert done.exit_code == 0
    compared = json.loads(done.stdout)
    assert [c["backbone"] for c in compared] == ["efficientnet_lite0", "squeezenet1_1"]
    assert compared[0]["accuracy"] > compared[1]["accuracy"]
    assert all(c["images_per_s"] > 0 and c["size_mb"] > 0 for c in compared)
    assert "resnet18 is left out" in done.stderr
    names = "efficientnet_lite0,lenet5"  # which has no weights, and so no size and no probe
    table = tlcli("plan", flowers, "--compare", names, "--format", "table")
    assert table.exit_code == 0
    assert "efficientnet_lite0" in table.stdout
    assert "lenet5" in table.stdout
    assert "% +- " in table.stdout
    for wrong in (
        ("--compare", "efficientnet_lite0,efficientnet_lite0"),
        ("--compare", ""),
        ("--compare", "efficientnet_lite0", "--model", "vgg16"),
    ):
        assert tlcli("plan", flowers, *wrong).exit_code == 2, wrong
    gone = tlcli("plan", flowers, "--compare", "efficientnet_lite0,resnet18=/gone.pth")
    assert gone.exit_code == 1
    assert "there is no such file" in gone.stderr
    assert "measuring" not in gone.stderr
    none = tlcli("plan", flowers, "--compare", "resnet18")
    assert none.exit_code == 1
    assert "hint:" in none.stderr
    assert tlcli("plan", flowers, "--compare", "resnet81").exit_code == 2


def test_an_unreadable_image_is_told_and_left_out(tlcli, tmp_path, flowers):
    folder = tmp_path / "flowers"
    shutil.copytree(flowers, folder)
    before = json.loads(tlcli("plan", folder, "--format", "json").stdout)["evidence"]
    broken = scan(folder).train[0].path
    broken.write_bytes(b"no picture, but something to hash: kept on its side of the split")
    dataset = scan(folder)
    assert broken in {s.path for s in dataset.train}
    done = tlcli("plan", folder, "--format", "json")
    assert done.exit_code == 0
    after = json.loads(done.stdout)["evidence"]
    assert after["sampled"] == before["sampled"] - 1
    assert after["n_train"] == before["n_train"] - 1
    assert broken.name in done.stderr


def test_a_class_without_any_readable_image_is_told_as_finetune_does(tlcli, tmp_path, flowers):
    folder = tmp_path / "flowers"
    shutil.copytree(flowers, folder)
    first = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    for n, path in enumerate(first.iterdir()):
        path.write_bytes(f"no picture {n}".encode())
    for command in ("plan", "finetune"):
        done = tlcli(command, folder)
        assert done.exit_code == 1
        assert f"no readable images are left for {first.name}" in done.stderr


@pytest.mark.parametrize(
    "wrong", [("--case", "small-similar", "--size", "large"), ("--freeze", "nothing")]
)
def test_what_contradicts_itself_is_told_before_anything_is_measured(
    tlcli, flowers, monkeypatch, wrong
):
    monkeypatch.setattr("tlcli.recipes.decide.measure_folder", None)
    assert tlcli("plan", flowers, *wrong).exit_code == 2


def test_nothing_pretrained_has_nothing_to_measure(tlcli, flowers):
    done = tlcli("plan", flowers, "--weights", "none", "--format", "json")
    told = json.loads(done.stdout)
    assert told["evidence"] is None
    assert told["cut"] == "none"
    assert "from scratch" in told["why"]


@pytest.mark.usefixtures("small_batches")
def test_a_backbone_without_its_classifier_still_gets_an_answer(shared, monkeypatch):
    monkeypatch.setattr(similarity, "MAX_ROTATED", 8)
    weights = shared / "weights" / "vgg16_features-keras-imagenet.pth"
    found = comparing.plan(
        shared / "data" / "caltech", model="vgg16", weights=weights, sample=20, cache=False
    )
    known = found.evidence.familiarity
    assert known.by == "self"
    assert known.confidence is None
    assert known.peaked is not None
    assert found.evidence.sweep[-1].name == "block5"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("flowers", "similar"),
        ("caltech", "similar"),
        ("digits", "different"),
        ("eurosat", "different"),
    ],
)
def test_real_folders_are_told_apart(shared, data, kind):
    found = comparing.plan(shared / "data" / data, sample=120)
    assert found.plan.similarity == kind
    assert found.evidence.familiarity.by == "level"


WEIGHTS = {
    "efficientnet_lite0": None,
    "mobilenet_v2": "mobilenet_v2-tf-imagenet.pth",
    "squeezenet1_1": "squeezenet1_1-caffe-imagenet.pth",
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", WEIGHTS)
def test_decisions_are_right_and_stable(shared, model, seed):
    file = WEIGHTS[model]
    weights = shared / "weights" / file if file else "auto"
    kinds = {
        data: comparing.plan(
            shared / "data" / data, model=model, weights=weights, seed=seed, sample=300
        ).plan.similarity
        for data in ("flowers", "caltech", "digits", "eurosat")
    }
    assert kinds == {
        "flowers": "similar",
        "caltech": "similar",
        "digits": "different",
        "eurosat": "different",
    }
