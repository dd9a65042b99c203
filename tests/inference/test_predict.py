"""tlcli predict as a filter among others: formats, files, pipes, several models."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tlcli as package
from tlcli import load
from tlcli.artifacts import bundle
from tlcli.cli import output
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.stream import stream_batches
from tlcli.errors import UsageError, UserError
from tlcli.inference.load import open_bundle
from tlcli.recipes.finetune import finetune

PROGRAM = f"{sys.executable} -m tlcli"
PRE = Preprocessing(8, 8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BLACK = Image.new("RGB", (8, 8))


@pytest.fixture
def images(flowers):
    """One drawn flower of each class, sorted."""
    return [sorted(folder.glob("*.jpg"))[0] for folder in sorted(flowers.glob("*/"))]


@pytest.fixture(scope="module")
def other(tmp_path_factory, flowers):
    """Another run on the same classes: fewer views, another seed."""
    return finetune(flowers, seed=1, views=1, output=tmp_path_factory.mktemp("runs") / "other")


# --output and --format


@pytest.mark.parametrize("format_name", [None, *output.RESULT_FORMATS])
@pytest.mark.parametrize("extension", [*output.EXTENSIONS, ".txt", ""])
def test_every_pair_of_format_and_extension(tmp_path, format_name, extension):
    file = tmp_path / f"out{extension}"
    known = output.EXTENSIONS.get(extension)
    if format_name is None and known is None:
        with pytest.raises(UsageError, match="no format"):
            output.choose_result_format(None, file)
    elif format_name and known and format_name != known:
        with pytest.raises(UsageError, match=f"{known} by its extension"):
            output.choose_result_format(format_name, file)
    else:
        name = output.choose_result_format(format_name, file)
        assert name == (format_name or known)
        output.write_result([{"a": 1, "b": "x"}], ("a", "b"), name, file=file)
        text = file.read_text()
        wanted = {
            "tsv": "a\tb\n1\tx\n",
            "csv": "a,b\n1,x\n",
            "json": '[\n  {\n    "a": 1,\n    "b": "x"\n  }\n]\n',
            "jsonl": '{"a": 1, "b": "x"}\n',
        }
        assert text == wanted[name] if name in wanted else "a" in text


def test_output_is_the_same_as_stdout_and_is_never_overwritten(tlcli, trained, images, tmp_path):
    file = tmp_path / "answers.csv"
    done = tlcli("predict", *images, "-m", trained.folder, "-o", file)
    assert (done.exit_code, done.stdout) == (0, "")
    assert file.read_text() == tlcli("predict", *images, "-m", trained.folder, "-f", "csv").stdout
    again = tlcli("predict", images[0], "-m", trained.folder, "-o", file)
    assert again.exit_code == 1
    assert "will not be overwritten" in again.stderr
    assert len(file.read_text().splitlines()) == 1 + len(images)
    wrong = tlcli("predict", images[0], "-m", trained.folder, "-o", "x.csv", "-f", "json")
    assert wrong.exit_code == 2


def test_an_output_that_fails_midway_leaves_nothing(tmp_path):
    def rows():
        yield {"a": 1}
        raise UserError("broken off")

    with pytest.raises(UserError, match="broken off"):
        output.write_result(rows(), ("a",), "jsonl", file=tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_json_is_a_list_even_of_nothing_and_a_table_comes_by_pages(capsys):
    output.write_result(iter([]), ("a",), "json")
    assert json.loads(capsys.readouterr().out) == []
    output.write_result(iter([]), ("a",), "table")
    assert capsys.readouterr().out.split() == ["a", "─"]
    output.write_result(({"a": i} for i in range(output.PAGE_ROWS + 1)), ("a",), "table")
    assert capsys.readouterr().out.count("a \n") == 2


# What becomes of the answers


def test_labels_only_is_a_bare_column(tlcli, trained, images, tmp_path):
    (tmp_path / "bad.jpg").write_text("no")
    done = tlcli("predict", *images, tmp_path / "bad.jpg", "-m", trained.folder, "--labels-only")
    assert done.exit_code == 3
    labels = done.stdout.split("\n")
    assert len(labels) == len(images) + 2
    assert labels[-2] == ""  # the unreadable one keeps its line
    assert set(labels[:-2]) <= {path.parent.name for path in images}
    assert tlcli("predict", images[0], "--labels-only", "--top", 2).exit_code == 2


def test_threshold_and_reject_answer_unknown(trained, images):
    classifier = load(trained.folder)
    plain = classifier.predict(images)
    middle = sorted(a.probability for a in plain)[2]
    cut = classifier.predict(images, threshold=middle)
    for was, now in zip(plain, cut, strict=True):
        assert now.label == ("unknown" if was.probability < middle else was.label)
        assert (now.probability, now.top, now.ood) == (was.probability, was.top, was.ood)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    (strange,) = classifier.predict(noise, reject=True)
    assert strange.ood > 1
    assert strange.label == "unknown"
    kept = classifier.predict(images, reject=True)
    assert [a.label == "unknown" for a in kept] == [a.ood > 1 for a in plain]
    assert sum(a.ood > 1 for a in plain) <= 1
    with pytest.raises(UsageError, match="threshold"):
        classifier.predict(images, threshold=1.5)


def test_a_backbone_has_imagenets_classes_and_nothing_to_reject_by(tlcli, images):
    done = tlcli("predict", images[0], "-m", "efficientnet_lite0", "-f", "json")
    (row,) = json.loads(done.stdout)
    assert row["ood"] is None
    refused = tlcli("predict", images[0], "-m", "efficientnet_lite0", "--reject")
    assert refused.exit_code == 2
    assert "reject" in refused.stderr


# What is predicted


def test_patterns_are_expanded_unless_a_file_is_called_so(tlcli, trained, images, tmp_path):
    for name in ("b.jpg", "a.jpg", "in/c.jpg", "[x].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(images[0], tmp_path / name)

    def paths(pattern):
        done = tlcli("predict", tmp_path / pattern, "-m", trained.folder, "-f", "jsonl")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert (done.exit_code == 3) == any(row["error"] for row in rows)
        return [str(Path(row["path"]).relative_to(tmp_path)) for row in rows]

    assert paths("[ab].jpg") == ["a.jpg", "b.jpg"]
    assert paths("**/*.jpg") == ["[x].jpg", "a.jpg", "b.jpg", "in/c.jpg"]
    assert paths("i*") == ["in/c.jpg"]
    assert paths("[x].jpg") == ["[x].jpg"]
    assert paths("no*.jpg") == ["no*.jpg"]


def test_the_bytes_of_one_image_on_stdin(tlcli, trained, images):
    content = images[0].read_bytes()
    done = tlcli("predict", "--stdin-image", "-m", trained.folder, "-f", "json", input=content)
    (row,) = json.loads(done.stdout)
    (wanted,) = load(trained.folder).predict(images[:1])
    assert (row["path"], row["label"]) == ("-", wanted.label)
    assert row["probability"] == wanted.probability
    broken = tlcli("predict", "--stdin-image", "-m", trained.folder, input=b"")
    assert broken.exit_code == 3
    assert tlcli("predict", "--stdin-image", images[0]).exit_code == 2
    assert tlcli("predict").exit_code == 2


def test_from_python_paths_images_bytes_and_arrays_are_the_same(trained, images):
    classifier = load(trained.folder)
    png = images[0].with_suffix(".jpg")
    picture = Image.open(png).convert("RGB")
    for image in (str(png), png, png.read_bytes(), picture, np.asarray(picture)):
        (answer,) = classifier.predict(image)
        (wanted,) = classifier.predict([png])
        assert (answer.label, answer.probability) == (wanted.label, wanted.probability)
    for wrong in (np.zeros((2, 3, 4, 5), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(UserError, match="is not an image"):
            classifier.predict(wrong)


def test_the_package_is_lazy_and_names_what_it_offers():
    code = "import sys, tlcli; dir(tlcli); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {"load", "evaluate", "finetune", "Classifier", "Prediction"} <= set(dir(package))
    assert callable(package.evaluate)


# Several models


def test_an_ensemble_averages_probabilities_by_class_name(trained, other, images, tmp_path):
    # the same network with its classes in another order: averaged with itself nothing changes
    meta = bundle.read_meta(trained.bundle)
    tensors = bundle.read_tensors(trained.bundle)
    order = [4, 2, 0, 1, 3]
    for name in ("classifier.1.weight", "classifier.1.bias"):
        tensors[name] = tensors[name][order]
    turned = tmp_path / "turned.safetensors"
    classes = tuple(meta.classes[i] for i in order)
    bundle.save(turned, tensors, bundle.BundleMeta(**{**meta.__dict__, "classes": classes}))
    one = load(trained.folder).predict(images, top=5)
    same = load([trained.folder, turned]).predict(images, top=5)
    for a, b in zip(one, same, strict=True):
        assert dict(a.top) == pytest.approx(dict(b.top), abs=1e-5)
        assert a.ood == pytest.approx(b.ood, rel=1e-4)
    both = load([trained.folder, other.folder]).predict(images, top=5)
    single = load(other.folder).predict(images, top=5)
    for a, b, c in zip(one, single, both, strict=True):
        mean = {k: (dict(a.top)[k] + dict(b.top)[k]) / 2 for k in dict(a.top)}
        assert dict(c.top) == pytest.approx(mean, abs=1e-5)


def test_an_ensemble_of_different_classes_is_refused(tlcli, trained, two_classes, images, tmp_path):
    small = finetune(two_classes, output=tmp_path / "small")
    done = tlcli("predict", images[0], "-m", trained.folder, "-m", small.folder)
    assert done.exit_code == 1
    assert "same classes" in done.stderr
    assert done.stdout == ""


# Streams


def test_a_slow_source_gets_its_answers_while_it_waits():
    seen, go = [], threading.Event()

    def jobs():
        for name in "abc":
            yield name, BLACK
        assert go.wait(20), "nothing came while the source waited"
        yield "d", BLACK

    for group in stream_batches(jobs(), [PRE], batch_size=32, max_wait=0.05):
        seen.append((group.names, len(group.pixels[0]), group.is_last))
        go.set()
    assert seen == [(["a", "b", "c"], 4, False), (["d"], 32, True)]


def test_groups_are_full_in_order_and_padded():
    jobs = ((str(i), BLACK if i % 2 else b"bad") for i in range(70))
    groups = list(stream_batches(jobs, [PRE, PRE], batch_size=32))
    assert [len(g.names) for g in groups] == [32, 32, 6]
    assert [len(p) for g in groups for p in g.pixels] == [32] * 6
    assert [name for g in groups for name in g.names] == [str(i) for i in range(70)]
    assert [p is None for p in groups[2].problems] == [False, True] * 3
    assert list(stream_batches(iter([]), [PRE], batch_size=4)) == []
    (few,) = stream_batches([("a", BLACK)] * 3, [PRE], batch_size=32)
    assert (len(few.pixels[0]), few.is_last) == (3, True)


def test_a_source_that_fails_is_heard_after_what_came_before():
    def jobs():
        yield "a", BLACK
        raise UserError("the list is broken")

    groups = stream_batches(jobs(), [PRE], batch_size=4)
    assert next(groups).names == ["a"]
    with pytest.raises(UserError, match="list is broken"):
        next(groups)


def test_leaving_early_stops_reading():
    read = []

    def jobs():
        for i in range(10_000):
            read.append(i)
            yield str(i), BLACK

    groups = stream_batches(jobs(), [PRE], batch_size=4)
    next(groups)
    groups.close()
    time.sleep(0.5)
    assert len(read) < 50


def test_a_million_paths_are_not_read_ahead(trained):
    read = []

    def paths():
        for i in range(1_000_000):
            read.append(i)
            yield f"/nowhere/{i}.jpg"

    answers = load(trained.folder).stream(paths())
    assert next(answers).error is not None
    assert len(read) < 200
    answers.close()


def test_a_closed_pipe_ends_quietly_though_the_source_goes_on(trained, images):
    command = [sys.executable, "-m", "tlcli", "predict", "-", "-q", "-m", str(trained.folder)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, text=True, **pipes)
    process.stdin.write("\n".join(str(path) for path in images * 20) + "\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith("path")
    process.stdout.close()
    # stdin stays open: the program must not wait for it at exit
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


# The pipelines of docs/predict.md


@pytest.fixture
def photos(tmp_path, flowers):
    """A folder `photos` and a run for `predict` to find, with a name that needs quoting."""
    for path in flowers.glob("*/*-00[1-3].jpg"):
        copy = tmp_path / "photos" / path.relative_to(flowers)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    first = sorted((tmp_path / "photos").glob("*/*.jpg"))[0]
    first.rename(first.with_name("with a\nbreak and space.jpg"))
    return tmp_path


def shell(line, folder, trained):
    """What a line of the docs prints, with `tlcli` being this program."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    program = tools / "tlcli"
    program.write_text(f'#!/bin/sh\nexec {PROGRAM} "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "TLCLI_MODEL": str(trained.folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documented(start):
    """The line of docs/predict.md that begins so."""
    page = (Path(__file__).parents[2] / "docs" / "predict.md").read_text()
    lines = page.replace("\\\n", " ").splitlines()
    return next(line for line in lines if line.startswith(start))


def needs(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def test_pipeline_find_and_jq(photos, trained):
    needs("find", "jq")
    out = shell(
        documented("find photos -name '*.jpg' -print0 | tlcli predict -0 -"), photos, trained
    )
    counts = [line.split() for line in out.splitlines()]
    assert sum(int(n) for n, _ in counts) == 15


def test_pipeline_awk(photos, trained):
    needs("awk")
    out = shell(documented("tlcli predict photos --format tsv | awk"), photos, trained)
    rows = [line.split("\t") for line in out.splitlines()]
    assert 0 < len(rows) <= 15
    assert all(len(row) == 2 for row in rows)


def test_pipeline_xargs(photos, trained):
    needs("find", "xargs")
    out = shell(documented("find photos -name '*.jpg' -print0 | xargs"), photos, trained)
    assert len(out.splitlines()) == 15


def test_pipeline_into_folders(photos, trained):
    needs("jq", "xargs")
    shell(documented("tlcli predict photos --reject --format jsonl | jq"), photos, trained)
    sorted_ones = list((photos / "sorted").glob("*/*.jpg"))
    assert len(sorted_ones) == 15
    right = [p for p in sorted_ones if p.parent.name in p.name or p.parent.name == "unknown"]
    assert len(right) >= 0.8 * 14


def test_a_temperature_of_the_bundle_is_in_its_tensors(trained, images):
    meta = bundle.read_meta(trained.bundle)
    record = json.loads((trained.folder / "run.json").read_text())
    counts = record["dataset"]["classes"].values()
    assert meta.calibration.method == "5-fold"
    assert meta.calibration.n == sum(count["train"] for count in counts)
    # so that what reads the tensors alone has the same probabilities
    network, _ = open_bundle(trained.bundle)
    pixels = network.backbone.preprocessing.to_pixels(Image.open(images[0]).convert("RGB"))
    x = network.backbone.preprocessing.normalize(pixels[None])
    with torch.no_grad():
        plain = network.backbone.model.eval()(x).softmax(1)
    (answer,) = load(trained.folder).predict(images[:1])
    assert plain.max().item() == pytest.approx(answer.probability, abs=1e-4)
