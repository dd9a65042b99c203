"""tlcli predict as a filter among others: formats, files, pipes, several models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tlcli as package
from tlcli import load
from tlcli.artifacts import bundle
from tlcli.cli import output
from tlcli.errors import UsageError, UserError
from tlcli.inference.load import open_bundle
from tlcli.recipes.finetune import finetune

PROGRAM = f"{sys.executable} -m tlcli"


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
    bundle.save_bundle(turned, tensors, bundle.BundleMeta(**{**meta.__dict__, "classes": classes}))
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
