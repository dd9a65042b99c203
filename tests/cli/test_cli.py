"""The command line as people and pipes see it."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlcli import __version__
from tlcli.cli import output

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tlcli"]


def test_help_is_as_quick_as_typer():
    bare = (
        "import typer\napp = typer.Typer(rich_markup_mode=None)\n"
        "@app.command()\ndef f(): pass\napp()"
    )

    def seconds(command):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started

    # The quickest of several, in turn: the machine may be busy with other things.
    pairs = [
        (seconds([*PROGRAM, "--help"]), seconds([sys.executable, "-c", bare, "--help"]))
        for _ in range(7)
    ]
    ours, typers = (min(times) for times in zip(*pairs, strict=True))
    assert ours - typers < 0.15


def test_version_and_no_arguments(tlcli):
    assert tlcli("--version").stdout == f"tlcli {__version__}\n"
    assert "Usage" in tlcli().output


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["finetune", "nowhere"], 1, "nowhere"),
        (["finetune", "{flowers}", "--model", "vgg61"], 2, "vgg16"),
        (["finetune", "{flowers}", "--case", "small-simlar"], 2, "small-similar"),
        (["finetune", "{flowers}", "--weights", "missing.pth"], 2, "missing.pth"),
        (["finetune", "{flowers}", "--no-such-option"], 2, "--no-such-option"),
        (["predict", "x.jpg", "--model", "missing.safetensors"], 1, "missing.safetensors"),
        (["predict", "x.jpg", "--model", "vgg61"], 2, "vgg16"),
        (["predict", "x.jpg"], 1, "no finished run"),
        (["predict", "x.jpg", "--model", "lenet5"], 1, "finetune DIR --model lenet5"),
        (["models", "vgg61"], 2, "vgg16"),
        (["models", "--format", "xml"], 2, "--format"),
        (["export", "missing.safetensors"], 1, "missing.safetensors"),
        (["sample", "{flowers}"], 1, "flowers"),
    ],
)
def test_failures_are_one_line_and_a_hint_without_traceback(
    tlcli, flowers, tmp_path, monkeypatch, arguments, code, expected
):
    monkeypatch.chdir(tmp_path)
    result = tlcli(*(a.format(flowers=flowers) for a in arguments))
    assert result.exit_code == code
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_finetune_prints_the_bundle_and_nothing_else_on_stdout(
    tlcli, two_classes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = tlcli("finetune", two_classes)
    assert result.exit_code == 0, result.stderr
    bundle = Path(result.stdout.strip())
    assert bundle.name == "model.safetensors"
    assert bundle.parent.parent == Path("runs")
    assert bundle.parent.name.endswith("-two-efficientnet_lite0")
    assert "val accuracy" in result.stderr
    assert "95% interval" in result.stderr
    # the newest finished run is what predict takes when no model is named
    image = next(two_classes.glob("val/*/*"))
    predicted = tlcli("predict", image)
    assert bundle.parent.name in predicted.stderr
    assert predicted.stdout.splitlines()[1].split("\t")[0] == str(image)


def rows_of(text, name):
    if name == "json":
        return json.loads(text)
    if name == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(
        csv.DictReader(io.StringIO(text), dialect="excel-tab" if name == "tsv" else "excel")
    )


@pytest.mark.parametrize("name", ["tsv", "csv", "json", "jsonl"])
def test_predict_in_every_format(tlcli, trained, flowers, name):
    images = sorted(flowers.glob("*/*.jpg"))[:3]
    result = tlcli("predict", *images, "--model", trained.folder, "--format", name)
    assert result.exit_code == 0
    rows = rows_of(result.stdout, name)
    assert [r["path"] for r in rows] == [str(i) for i in images]
    assert all(list(r) == ["path", "label", "probability", "error", "ood"] for r in rows)
    assert all(0 < float(r["probability"]) <= 1 for r in rows)
    table = tlcli("predict", *images, "--model", trained.folder, "--format", "table")
    assert "label" in table.stdout


def test_predict_top_and_environment(tlcli, trained, flowers):
    image = next(flowers.glob("*/*.jpg"))
    result = tlcli(
        "predict", image, "--top", 9, "-f", "json", env={"TLCLI_MODEL": str(trained.bundle)}
    )
    (row,) = json.loads(result.stdout)
    assert len(row["top"]) == 5  # no more than there are classes
    assert sum(t["probability"] for t in row["top"]) == pytest.approx(1, abs=1e-5)
    assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}


def test_predict_names_what_it_cannot_read_goes_on_and_exits_3(tlcli, trained, flowers, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("not a picture")
    image = next(flowers.glob("*/*.jpg"))
    result = tlcli("predict", broken, tmp_path / "gone.jpg", image, "-m", trained.folder)
    assert result.exit_code == 3
    rows = rows_of(result.stdout, "tsv")
    assert [bool(r["error"]) for r in rows] == [True, True, False]
    assert "broken.jpg" in result.stderr


def test_predict_reads_folders_and_stdin(tlcli, trained, flowers):
    folder = sorted(p for p in flowers.iterdir() if p.is_dir())[0]
    images = sorted(str(p) for p in folder.glob("*.jpg"))
    rows = rows_of(tlcli("predict", folder, "-m", trained.folder).stdout, "tsv")
    assert [r["path"] for r in rows] == images
    lines = tlcli("predict", "-", "-m", trained.folder, input="\n".join(images[:2]) + "\n")
    assert [r["path"] for r in rows_of(lines.stdout, "tsv")] == images[:2]
    nul = tlcli("predict", "-0", "-", "-m", trained.folder, input="\0".join(images[:2]))
    assert nul.stdout == lines.stdout


def test_names_are_data(tlcli, trained, flowers, tmp_path):
    odd = [
        "[bold red]x.jpg",
        "tab\there.jpg",
        "line\nbreak.jpg",
        "\x1b[31mred.jpg",
        "back\\slash.jpg",
    ]
    image = next(flowers.glob("*/*.jpg"))
    paths = [tmp_path / name for name in odd]
    for path in paths:
        shutil.copy(image, path)
    result = tlcli("predict", *paths, "-m", trained.folder)
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(odd)
    assert all(line.count("\t") == 4 for line in lines)
    assert lines[2].startswith(str(tmp_path / "tab\\there.jpg"))
    table = tlcli("predict", *paths, "-m", trained.folder, "-f", "table").stdout
    assert "\x1b" not in table
    got = json.loads(tlcli("predict", *paths, "-m", trained.folder, "-f", "json").stdout)
    assert [r["path"] for r in got] == [str(p) for p in paths]


def test_file_names_of_any_bytes_come_out_as_they_went_in(trained, flowers, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(name)).write_bytes(next(flowers.glob("*/*.jpg")).read_bytes())
    done = subprocess.run(
        [*PROGRAM, "predict", name, "-m", trained.folder], capture_output=True, check=True
    )
    assert name in done.stdout
    done = subprocess.run(
        [*PROGRAM, "predict", "-", "-m", trained.folder, "-f", "table"],
        input=name + b"\n",
        capture_output=True,
        check=True,
    )
    assert b"caf" in done.stdout


def test_a_closed_pipe_ends_quietly(trained, flowers):
    done = subprocess.run(
        f"{sys.executable} -m tlcli predict {flowers} -m {trained.folder} -q | head -n 2",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_models_list_in_every_format(tlcli):
    for name in ("tsv", "csv", "json", "jsonl"):
        rows = rows_of(tlcli("models", "--format", name).stdout, name)
        assert len(rows) == 82
        assert list(rows[0]) == [
            "name", "parameters", "gflops", "top1", "size_mb", "resolution", "at_hand",
        ]  # fmt: skip
    vgg = {r["name"]: r for r in json.loads(tlcli("models", "vgg", "-f", "json").stdout)}
    assert len(vgg) == 8
    assert vgg["vgg16"]["parameters"] == 138_357_544
    at_hand = json.loads(
        tlcli("models", "--at-hand", "-f", "json", env={"TORCH_HOME": "/nowhere"}).stdout
    )
    assert [r["name"] for r in at_hand] == ["efficientnet_lite0", "lenet5"]
    assert "efficientnet_lite0" in tlcli("models", "--format", "table").stdout


def test_models_shows_a_structure_and_the_four_cases(tlcli):
    result = tlcli("models", "vgg16", "--format", "json")
    rows = json.loads(result.stdout)
    assert [r["stage"] for r in rows][:2] == ["block1", "block2"]
    assert rows[0]["output"] == "64x112x112"
    assert rows[-1]["classifier"] == "classifier.6"
    assert sum(r["parameters"] for r in rows) == 138_357_544
    assert rows[0]["large-similar"] == "trained"
    assert {r["small-similar"] for r in rows[:-1]} == {"frozen"}
    assert "dropped" in {r["small-different"] for r in rows}


def test_check_counts_and_names_what_cannot_be_read(tlcli, flowers, tmp_path):
    result = tlcli("check", flowers, "-f", "json")
    rows = json.loads(result.stdout)
    assert [r["train"] + r["val"] for r in rows] == [8] * 5
    shutil.copytree(flowers, tmp_path / "data")
    (tmp_path / "data" / rows[0]["class"] / "bad.png").write_bytes(b"")
    result = tlcli("check", tmp_path / "data")
    assert result.exit_code == 3
    assert "bad.png" in result.stderr


def test_a_table_shows_names_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output.write_result(
        iter([{"a": "[bold red]x", "b": 1}, {"a": "\x1b[31mred", "b": 2}]), ("a", "b"), "table"
    )
    shown = capsys.readouterr().out
    assert "[bold red]x" in shown
    assert "\\x1b[31mred" in shown


def test_tsv_escapes_and_empty_fields(capsys):
    rows = [{"a": "x\ty\\z\n", "b": None, "c": 0.5, "d": True}]
    output.write_result(iter(rows), ("a", "b", "c", "d"), "tsv")
    assert capsys.readouterr().out == "a\tb\tc\td\nx\\ty\\\\z\\n\t\t0.5\ttrue\n"


def test_progress_on_a_terminal_goes_to_stderr_and_a_table_to_stdout(flowers, trained):
    # `script` gives both streams a terminal; the result must still be a table
    if not shutil.which("script"):
        pytest.skip("needs util-linux's script for a pseudo-terminal")
    command = f"{sys.executable} -m tlcli predict {flowers} -m {trained.folder}"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=True
    )
    assert "probability" in done.stdout
    assert "\t" not in done.stdout


def test_ctrl_c_saves_the_best_so_far_and_exits_130(flowers, tmp_path):
    run = tmp_path / "run"
    command = [
        *PROGRAM, "finetune", str(flowers), "--optimizer", "sgd", "--epochs", "100000",
        "--patience", "0", "--augment", "none", "-o", str(run),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "best so far is saved" in stderr
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert Path(stdout.strip()) == run / "model.safetensors"


def test_ctrl_c_while_the_program_is_loaded_ends_it_as_later_on(monkeypatch, capsys):
    from tlcli.__main__ import main

    class Loading:
        def find_spec(name, *_):
            if name == "tlcli.cli":
                raise KeyboardInterrupt

    for name in [name for name in sys.modules if name.startswith("tlcli.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Loading, *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_before_there_is_anything_leaves_what_can_be_resumed(flowers, tmp_path):
    process = subprocess.Popen(
        [*PROGRAM, "finetune", str(flowers), "--no-cache", "-o", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("why:"):
            process.send_signal(signal.SIGINT)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert f"--resume {tmp_path / 'run'}" in stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.json", "options.toml"}


def test_a_folder_without_images_is_a_row_and_the_rest_goes_on(tlcli, trained, flowers, tmp_path):
    image = next(flowers.glob("*/*.jpg"))
    result = tlcli("predict", tmp_path, image, "-m", trained.folder, "-f", "json")
    assert result.exit_code == 3
    assert [r["label"] is None for r in json.loads(result.stdout)] == [True, False]


def test_null_without_stdin_is_wrong_usage(tlcli, trained):
    result = tlcli("predict", "-0", "x.jpg", "-m", trained.folder)
    assert result.exit_code == 2
    assert "predict -0 -" in result.stderr


def test_a_full_disk_behind_stdout_is_an_error():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = [*PROGRAM, "models"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # what is left in the buffer fails again
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Exception ignored" not in done.stderr
    assert "stdout cannot be written" in done.stderr


def test_top_reads_well_in_a_table(tlcli, trained, flowers):
    image = next(flowers.glob("*/*.jpg"))
    table = tlcli("predict", image, "-m", trained.folder, "--top", 2, "-f", "table").stdout
    assert "{" not in table
