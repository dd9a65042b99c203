"""Plans of real folders: the command, its table, comparisons, and finetune after it."""

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
from tlcli.data.dataset import scan


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
    # Where a bundle reads an earlier stage, its last features are cached under that stage's name.
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
    assert "Hardest to tell apart" in shown.stdout or "Accuracy by number of" in shown.stdout
    assert re.search(r"\nFrozen up to: \S+; trained: \w*head", shown.stdout)
    assert "\nTraining: L-BFGS" in shown.stdout
    large = tlcli("plan", flowers, "--case", "large-similar", "-f", "table").stdout
    assert "\nFrozen: nothing; trained: features.0, ..., head.\n" in large
    assert "\nTraining: the head first, then AdamW, " in large
    assert "Forecast for this machine: small-similar" in shown.stdout
    told = " ".join(shown.stdout.split())
    assert "Alternatives: with --size large, large-" in told
    assert "(everything is trained, " in told
    assert re.search(r"; with --similarity (\w+), small-\1 \((a head on \w+|the same)", told)
    for by_hand in ("--size", "large"), ("--weights", "none"):
        assert "Alternatives" not in tlcli("plan", flowers, "-f", "table", *by_hand).stdout
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
