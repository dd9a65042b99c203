"""tlcli evaluate: figures, matching by name, comparison, files."""

import csv
import json
import shutil

import pytest
import torch
from PIL import Image

import tlcli as package
from tlcli import finetune
from tlcli.artifacts import confusion_matrix as confusion
from tlcli.errors import UsageError, UserError
from tlcli.metrics.intervals import mcnemar_test

FIELDS = {
    "n", "top1", "top1_low", "top1_high", "top5", "balanced_accuracy", "per_class", "confusion",
    "calibration", "confused", "mistakes", "skipped", "unknown_classes", "absent_classes",
    "against",
}  # fmt: skip


@pytest.fixture
def labeled(flowers, tmp_path):
    """A copy of the drawn flowers that no run has recorded as its own."""
    shutil.copytree(flowers, tmp_path / "labeled")
    return tmp_path / "labeled"


@pytest.fixture(scope="module")
def weak(tmp_path_factory, flowers):
    """A network that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("runs") / "weak"
    return finetune(flowers, model="lenet5", epochs=1, output=folder)


def test_mcnemar_by_hand():
    # statsmodels.stats.contingency_tables.mcnemar([[0, 1], [9, 0]], exact=True)
    assert mcnemar_test(1, 9) == pytest.approx(0.021484375)
    assert mcnemar_test(9, 1) == mcnemar_test(1, 9)
    assert mcnemar_test(3, 3) == mcnemar_test(0, 0) == 1


def test_everything_is_in_the_json(tlcli, trained, labeled):
    done = tlcli("evaluate", trained.folder, labeled, "--format", "json")
    assert done.exit_code == 0, done.stderr
    got = json.loads(done.stdout)
    assert got.keys() >= FIELDS
    assert got["n"] == 40
    assert got["top1_low"] < got["top1"] <= got["top1_high"]
    total = sum(sum(row) for row in got["confusion"])
    hits = sum(row[i] for i, row in enumerate(got["confusion"]))
    assert (total, hits / total) == (40, got["top1"])
    assert len(got["mistakes"]) == min(10, total - hits)
    assert sum(pair["n"] for pair in got["confused"]) == total - hits
    assert got["calibration"]["temperature"] == trained.metrics["calibration"]["temperature"]
    # the same from Python
    assert package.evaluate(trained.folder, labeled)["confusion"] == got["confusion"]


@pytest.mark.parametrize("name", ["tsv", "csv", "jsonl", "table"])
def test_formats(tlcli, trained, labeled, name, tmp_path):
    done = tlcli("evaluate", trained.folder, labeled, "--format", name)
    assert done.exit_code == 0
    if name == "table":
        assert "top-1" in done.stdout
        assert "95% interval" in done.stdout
        return
    if name == "jsonl":
        (row,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert row["n"] == 40
    else:
        dialect = "excel-tab" if name == "tsv" else "excel"
        (row,) = csv.DictReader(done.stdout.splitlines(), dialect=dialect)
        assert row["n"] == "40"
        if name == "csv":
            assert len(json.loads(row["per_class"])) == 5
    file = tmp_path / f"out.{name}"
    assert tlcli("evaluate", trained.folder, labeled, "-o", file).exit_code == 0
    assert file.read_text() == done.stdout


def test_the_folder_that_was_split_is_judged_on_what_was_held_out(
    tlcli, trained, flowers, tmp_path
):
    done = tlcli("evaluate", trained.folder, flowers, "-f", "json")
    got = json.loads(done.stdout)
    assert "held out" in done.stderr
    assert (got["n"], got["top1"]) == (trained.metrics["n"], trained.metrics["top1"])
    assert got["confusion"] == trained.metrics["confusion"]
    # changed since, nobody can tell which images were trained on
    shutil.copytree(flowers, tmp_path / "own")
    run = finetune(tmp_path / "own", output=tmp_path / "run")
    next((tmp_path / "own").glob("*/*.jpg")).unlink()
    assert "slightly optimistic" in tlcli("evaluate", run.folder, tmp_path / "own").stderr


def test_of_a_folder_with_parts_the_test_or_val_part_is_taken(tlcli, trained, two_classes):
    done = tlcli("evaluate", trained.folder, two_classes, "-f", "json")
    assert json.loads(done.stdout)["n"] == 4
    assert "val" in done.stderr


def test_classes_are_matched_by_name_and_differences_told(tlcli, trained, labeled):
    first, second, *_ = sorted(p.name for p in labeled.iterdir() if p.is_dir())
    (labeled / first).rename(labeled / "cactus")
    shutil.rmtree(labeled / second)
    done = tlcli("evaluate", trained.folder, labeled, "-f", "json")
    assert done.exit_code == 3
    got = json.loads(done.stdout)
    assert (got["n"], got["unknown_classes"]) == (24, ["cactus"])
    assert got["absent_classes"] == sorted([first, second])
    assert got["per_class"][first]["recall"] is None
    assert "no class cactus: 8 images left out" in done.stderr
    for folder in sorted(labeled.iterdir()):
        if folder.is_dir() and folder.name != "cactus":
            shutil.rmtree(folder)
    none = tlcli("evaluate", trained.folder, labeled)
    assert none.exit_code == 1
    assert "knows none of the classes" in none.stderr


def test_unreadable_images_are_named_and_the_exit_code_says_so(tlcli, trained, labeled):
    broken = next(labeled.glob("*/*.jpg"))
    broken.write_text("no picture")
    done = tlcli("evaluate", trained.folder, labeled, "-f", "json")
    assert done.exit_code == 3
    got = json.loads(done.stdout)
    assert (got["n"], got["skipped"][0]["path"]) == (39, str(broken))
    assert broken.name in done.stderr


def test_two_bundles_on_the_same_images(tlcli, trained, weak, labeled):
    done = tlcli("evaluate", trained.folder, labeled, "--against", weak.folder, "-f", "json")
    got = json.loads(done.stdout)["against"]
    assert (got["n"], got["model"]) == (40, str(weak.bundle))
    assert got["only_this_right"] > got["only_other_right"]
    assert got["p"] == mcnemar_test(got["only_this_right"], got["only_other_right"]) < 0.01
    difference = (got["only_this_right"] - got["only_other_right"]) / 40
    assert got["this_top1"] - got["other_top1"] == pytest.approx(difference)
    table = tlcli("evaluate", trained.folder, labeled, "--against", weak.folder, "-f", "table")
    assert "McNemar" in table.stdout
    same = tlcli("evaluate", trained.folder, labeled, "--against", trained.folder, "-f", "json")
    assert json.loads(same.stdout)["against"]["p"] == 1


def test_the_confusion_matrix_as_a_file(tlcli, trained, labeled, tmp_path):
    for name in ("c.csv", "c.png"):
        done = tlcli("evaluate", trained.folder, labeled, "--confusion", tmp_path / name)
        assert done.exit_code == 0, done.stderr
    rows = list(csv.reader((tmp_path / "c.csv").open()))
    assert rows[0][1:] == [row[0] for row in rows[1:]]
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 40
    picture = Image.open(tmp_path / "c.png")
    assert min(picture.size) > 5 * confusion.CELL
    again = tlcli("evaluate", trained.folder, labeled, "--confusion", tmp_path / "c.png")
    assert again.exit_code == 1
    assert tlcli("evaluate", trained.folder, labeled, "--confusion", "c.svg").exit_code == 2


def test_the_picture_shows_where_answers_fall_and_names_as_they_are():
    right = confusion.draw_confusion_matrix(["a", "\x1b[31mb"], [[5, 0], [0, 5]])
    wrong = confusion.draw_confusion_matrix(["a", "\x1b[31mb"], [[0, 5], [5, 0]])
    side = right.width - confusion.MARGIN - 2 * confusion.CELL
    place = (side + 3, side + 3)
    assert right.getpixel(place) == confusion.CORRECT_COLOR
    assert sum(wrong.getpixel(place)) > 700
    assert confusion.draw_confusion_matrix(
        [str(i) for i in range(100)], torch.eye(100).int().tolist()
    )


def test_what_cannot_be_evaluated(tlcli, trained, labeled, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in class folders"):
        package.evaluate(trained.folder, tmp_path / "empty")
    assert tlcli("evaluate", trained.folder, tmp_path / "nowhere").exit_code == 1
    assert tlcli("evaluate", "a", "b", "c").exit_code == 2
    with pytest.raises(UsageError):
        package.evaluate("no-such-model", labeled)
    found = tlcli("evaluate", labeled, "-f", "json", env={"TLCLI_MODEL": str(trained.folder)})
    assert json.loads(found.stdout)["n"] == 40
