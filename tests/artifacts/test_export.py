"""Exports of real bundles: every file is run by its own runtime, and its script by itself."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import tlcli as package
from tests.fakes import RecordingReporter
from tlcli.artifacts import bundle
from tlcli.artifacts.export import format, onnx_file
from tlcli.artifacts.export.exported_program import ABOUT
from tlcli.artifacts.export.formats import FORMATS
from tlcli.artifacts.export.graph import resize_and_crop
from tlcli.artifacts.export.inputs import INPUTS
from tlcli.artifacts.export.model_card import model_card
from tlcli.artifacts.export.parity import N_IMAGES, compare
from tlcli.artifacts.export.source import ExportSource
from tlcli.artifacts.export.target import choose_target
from tlcli.artifacts.render import escape_markdown
from tlcli.artifacts.run_folder import TrainingData, read_training_data
from tlcli.backbones.build import build
from tlcli.backbones.network import build_network
from tlcli.backbones.weights import weights_license
from tlcli.data.preprocessing import Preprocessing, to_tensor
from tlcli.errors import UsageError, UserError
from tlcli.inference.load import load, open_bundle
from tlcli.metrics.metrics import Calibration, ClassMetrics, Metrics
from tlcli.recipes.export import export, find_images_to_compare
from tlcli.recipes.finetune import finetune

SUFFIXES = [suffix for f in FORMATS.values() for suffix in f.suffixes]
HOSTILE = ("<script>alert(1)</script>", "a|b `c` *d* [e](http://f)", "g\n# h\x1b[31m")


def save_network(path, name, *, cut="none", dropped=False, **changes):
    """A bundle of an untrained network."""
    torch.manual_seed(0)
    classes = changes.pop("classes", ("a", "b", "c"))
    network = build_network(build(name), cut=cut, dropped=dropped, n_classes=len(classes))
    torch.nn.init.normal_(network.final_layer.weight)
    meta = bundle.BundleMeta(
        backbone=name, cut=cut, truncated_after=cut if dropped else None, classes=classes,
        preprocessing=network.backbone.preprocessing, plan={}, metrics=None, dataset="", seed=0,
        versions={}, weights="none",
    )  # fmt: skip
    bundle.save(path, network.tensors(), replace(meta, **changes))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory, flowers):
    """A finished run of a network so small that every kind of export takes a moment."""
    folder = tmp_path_factory.mktemp("small") / "run"
    return finetune(flowers, model="lenet5", epochs=2, output=folder).bundle


@pytest.fixture(scope="module")
def pictures(flowers):
    return sorted(flowers.glob("*/*.jpg"))[::8]


def predictions_of(script, *images, cwd):
    """What a stored script prints, in a process of its own that is not in the repository."""
    done = subprocess.run(
        [sys.executable, script, *images], cwd=cwd, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def predictions_here(monkeypatch, capsys):
    """The same in this process, where torch is imported already: for what differs little."""

    def run(script, *images):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, images)])
        capsys.readouterr()
        runpy.run_path(str(script))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def agree(answers, model, images, limit):
    expected = load(model).predict(images)
    assert [a["path"] for a in answers] == [str(i) for i in images]
    assert [a["label"] for a in answers] == [e.label for e in expected]
    for a, e in zip(answers, expected, strict=True):
        assert a["probability"] == pytest.approx(e.probability, abs=limit)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".bin", ""])
@pytest.mark.parametrize("to", FORMATS)
def test_every_pair_of_format_and_extension(tlcli, small, tmp_path, to, suffix):
    output = tmp_path / f"model{suffix}"
    result = tlcli("export", small, "--to", to, "--output", output)
    if suffix not in FORMATS[to].suffixes:
        assert result.exit_code == 2
        assert str(output) in result.stderr
        assert not list(tmp_path.iterdir())
        return
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    assert "differ from the bundle's by at most" in result.stderr
    network, meta = open_bundle(small)
    source = ExportSource(meta, network, "image" if FORMATS[to].has_graph else "pixels")
    side = meta.preprocessing.crop
    images = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8)
    parity = compare(source, FORMATS[to].open(source, output), [images])
    assert parity.difference < 1e-5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_extension_names_the_format(suffix, tmp_path):
    to = choose_target(None, tmp_path / f"x{suffix}", None, tmp_path).format
    assert suffix in to.suffixes


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no format has that extension"):
        choose_target(None, tmp_path / "x.zip", None, tmp_path)
    with pytest.raises(UsageError, match="onx"):
        choose_target("onx", None, None, tmp_path)
    with pytest.raises(UsageError, match="--input"):
        choose_target("onnx", None, "tensor", tmp_path)
    for name in ("image", "pixels"):
        with pytest.raises(UsageError, match="tensors only"):
            choose_target("state-dict", None, name, tmp_path)


def test_files_have_names_that_do_not_collide(tmp_path):
    pairs = [(to, i) for to, f in FORMATS.items() for i in (INPUTS if f.has_graph else (None,))]
    files = {choose_target(to, None, i, tmp_path).file for to, i in pairs}
    assert len(files) == len(pairs)


@pytest.mark.parametrize("to", ["exported-program", "onnx"])
def test_the_turned_default_backbone_answers_the_same(trained, tmp_path, flowers, to):
    # EfficientNet-lite0: turned by 180 degrees, TensorFlow's padding
    done = export(trained.folder, to=to, output=tmp_path / f"model{FORMATS[to].suffixes[0]}")
    assert done.parity.difference < 1e-3
    assert done.parity.same == done.parity.n == 2 * N_IMAGES
    wide = tmp_path / "wide.png"
    image = sorted(flowers.glob("*/*.jpg"))[0]
    Image.open(image).resize((400, 230)).save(wide)
    images = [*sorted(flowers.glob("*/*.jpg"))[::6], wide]
    agree(predictions_of(done.script, *images, cwd=tmp_path), trained.folder, images, 1e-3)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx"])
def test_the_scripts_run_on_pixels(small, pictures, tmp_path, suffix):
    input_name = "pixels" if suffix in (".pt2", ".onnx") else None
    done = export(small, output=tmp_path / f"it's \"{suffix}", input_name=input_name)
    # 1e-4: tlcli decodes a large JPEG at a part of its size, the scripts do not
    agree(predictions_of(done.script, *pictures, cwd=tmp_path), small, pictures, 1e-4)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("mnasnet0_5", ".pt"),
        ("mnasnet0_5", ".safetensors"),
        ("googlenet", ".pt"),
        ("resnet18", ".safetensors"),
        pytest.param("vit_b_32", ".safetensors", marks=pytest.mark.slow),
        pytest.param("maxvit_t", ".pt", marks=pytest.mark.slow),
    ],
)
def test_the_script_of_a_state_dict_needs_torchvision_only(
    name, suffix, tmp_path, pictures, predictions_here
):
    # the families that need more than the tensors
    path = save_network(tmp_path / "model.safetensors", name)
    done = export(path, output=tmp_path / f"out{suffix}")
    assert "tlcli" not in done.script.read_text()
    agree(predictions_here(done.script, pictures[0]), path, pictures[:1], 1e-5)


@pytest.mark.parametrize("to", FORMATS)
def test_dropped_stages(to, tmp_path, pictures, predictions_here):
    path = save_network(
        tmp_path / "model.safetensors", "efficientnet_lite0", cut="features.2", dropped=True
    )
    done = export(path, to=to)
    assert done.parity.difference < 1e-3
    agree(predictions_here(done.script, *pictures), path, pictures, 1e-3)


OLD_SCRIPT = Path(__file__).with_name("old_script.txt").read_text()
"""A truncated network's script, as it was written when scripts still named inner modules."""
OLD_SETUP_OF_OWN_MODEL = """\
from tlcli.backbones.build import build

FILE = Path(__file__).with_name('sd.safetensors')
STATE = safetensors.torch.load_file(FILE)
MODEL = build('lenet5', n_classes=5, resolution=32).model
MODEL.load_state_dict(STATE)
MODEL.eval()
"""


def test_scripts_of_earlier_versions_still_run(tmp_path, pictures, predictions_here):
    path = save_network(
        tmp_path / "model.safetensors",
        "efficientnet_lite0",
        cut="features.6",
        dropped=True,
        classes=tuple("abcde"),
    )
    done = export(path, output=tmp_path / "sd.safetensors")
    done.script.write_text(OLD_SCRIPT)
    agree(predictions_here(done.script, *pictures), path, pictures, 1e-4)


def test_scripts_of_earlier_versions_for_models_of_tlcli_still_run(
    small, tmp_path, pictures, predictions_here
):
    done = export(small, output=tmp_path / "sd.safetensors")
    head, rest = OLD_SCRIPT.split("from tlcli", 1)
    _, tail = rest.split("MODEL = NETWORK.whole.eval()\n")
    done.script.write_text(head + OLD_SETUP_OF_OWN_MODEL + tail)
    agree(predictions_here(done.script, *pictures), small, pictures, 1e-4)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dropped", [False, True])
def test_new_scripts_name_public_functions_only(tmp_path, suffix, dropped):
    path = save_network(
        tmp_path / "model.safetensors",
        "efficientnet_lite0",
        cut="features.2",
        dropped=dropped,
    )
    script = export(path, output=tmp_path / f"out{suffix}").script.read_text()
    assert "import tlcli\n" in script
    assert "from tlcli" not in script
    assert set(re.findall(r"tlcli\.(\w+)", script)) == {"create_model"} < set(package.__all__)


def test_onnx_is_run_without_torch(small, pictures, tmp_path):
    done = export(small, output=tmp_path / "model.onnx")
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0]);"
        "assert not {'torch', 'torchvision', 'tlcli'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, done.script, pictures[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"]
    assert done.stderr == ""


def test_scripts_read_what_tlcli_reads(small, tmp_path, predictions_here):
    """Turned by EXIF, transparent, palette, grey."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("L").save(tmp_path / "grey.png")
    image.putalpha(image.convert("L"))
    image.save(tmp_path / "clear.png")
    images = sorted(tmp_path.iterdir())
    done = export(small, output=tmp_path / "model.onnx")
    agree(predictions_here(done.script, *images), small, images, 0.01)


def test_labels_and_preprocessing_travel_along(small, tmp_path):
    _, meta = open_bundle(small)
    program = export(small, output=tmp_path / "model.pt2").file
    files = {ABOUT: ""}
    torch.export.load(program, extra_files=files)
    state = export(small, output=tmp_path / "state.pt").file
    onnx = export(small, output=tmp_path / "model.onnx").file
    session = onnxruntime.InferenceSession(onnx)
    stored = session.get_modelmeta().custom_metadata_map
    assert [i.shape for i in session.get_inputs()] == [["batch", "height", "width", 3]]
    for about in (
        json.loads(files[ABOUT]),
        json.loads(state.with_name("state.pt.json").read_text()),
        {name: json.loads(value) for name, value in stored.items()},
    ):
        assert about["classes"] == list(meta.classes)
        assert Preprocessing.from_dict(about["preprocessing"]) == meta.preprocessing
        assert about["backbone"] == "lenet5"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_in_the_graph_is_pillows(interpolation, flowers):
    pre = Preprocessing(64, 56, interpolation, (0.5,) * 3, (0.5,) * 3)
    source = Image.open(next(flowers.glob("*/*.jpg")))
    sizes = [(1, 1), (3, 200), (200, 3), (64, 64), (56, 90), (128, 96), (33, 47), (255, 141)]
    for size in sizes:
        image = source.resize(size)
        expected = pre.to_pixels(image).float()
        gap = (resize_and_crop(to_tensor(image)[None].float(), pre)[0] - expected).abs()
        # Pillow's weights are rounded to fixed point, so a tie can fall on the other side
        assert gap.max() <= 2, size
        assert (gap > 0).float().mean() < 0.005, size


def test_an_export_that_differs_is_an_error_and_leaves_nothing(tlcli, small, tmp_path, monkeypatch):
    honest = FORMATS["onnx"]

    def write(source, path):
        pre = replace(source.meta.preprocessing, mean=(9.0, 9.0, 9.0))
        honest.write(replace(source, meta=replace(source.meta, preprocessing=pre)), path)

    monkeypatch.setitem(FORMATS, "onnx", replace(honest, write=write))
    result = tlcli("export", small, "--output", tmp_path / "model.onnx")
    assert result.exit_code == 1
    assert "does not predict as the bundle does" in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_answers_that_are_no_numbers_never_pass(small):
    network, meta = open_bundle(small)
    source = ExportSource(meta, network, "pixels")
    side = meta.preprocessing.crop
    batches = [torch.zeros(n, side, side, 3, dtype=torch.uint8) for n in (1, 3)]
    honest = source.graph

    def broken_at_three(batch):
        return honest(batch) * (float("nan") if len(batch) == 3 else 1)

    assert not compare(source, broken_at_three, batches).difference <= 1e9
    assert not compare(source, broken_at_three, batches[::-1]).difference <= 1e9


def test_a_temperature_is_in_the_export(small, tmp_path, pictures, predictions_here):
    network, meta = open_bundle(small)
    warm = tmp_path / "warm.safetensors"
    with torch.no_grad():
        for parameter in network.final_layer.parameters():
            parameter.div_(3.0)  # as finetune does
    bundle.save(warm, network.tensors(), replace(meta, calibration=Calibration(3.0)))
    files = ((small, "a.onnx"), (warm, "b.onnx"), (warm, "b.pt"))
    scripts = [export(model, output=tmp_path / name).script for model, name in files]
    plain, heated, state = (predictions_here(s, pictures[0])[0] for s in scripts)
    assert plain["label"] == heated["label"] == state["label"]
    assert heated["probability"] < plain["probability"] - 0.001
    assert heated["probability"] == pytest.approx(state["probability"], abs=1e-3)


def test_the_comparison_is_made_on_the_training_images(small, flowers, tmp_path):
    heard = RecordingReporter()
    found = find_images_to_compare(
        None, read_training_data(small.parent), bundle.read_meta(small).classes, heard
    )
    assert len(found) == N_IMAGES
    assert heard.notes == []
    real = [Image.open(p).convert("RGB").tobytes() for p in flowers.glob("*/*.jpg")]
    assert all(picture.tobytes() in real for picture in found)
    # gone: drawn ones serve, of different sizes
    drawn = find_images_to_compare(None, read_training_data(tmp_path), ("a",), heard)
    assert len({picture.size for picture in drawn}) == N_IMAGES
    assert "drawn flowers" in heard.notes[0]
    (tmp_path / "run.json").write_text(json.dumps({"dataset": {"root": "/nowhere/at/all"}}))
    find_images_to_compare(None, read_training_data(tmp_path), ("a",), heard)
    assert "/nowhere/at/all" in heard.notes[1]


def test_training_images_that_changed_are_passed_over(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"no picture")
    Image.new("RGB", (9, 8), "red").save(tmp_path / "train" / "a" / "2.png")
    (tmp_path / "run.json").write_text(json.dumps({"dataset": {"root": str(tmp_path)}}))
    heard = RecordingReporter()
    found = find_images_to_compare(None, read_training_data(tmp_path), ("a", "gone"), heard)
    assert [picture.size for picture in found] == [(9, 8)] * N_IMAGES
    assert heard.notes == []


def test_images_may_be_named(tmp_path):
    with pytest.raises(UserError, match="no readable image"):
        find_images_to_compare(tmp_path, None, (), RecordingReporter())
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    Image.new("RGB", (9, 8), "red").save(tmp_path / "b.png")
    found = find_images_to_compare(tmp_path, None, (), RecordingReporter())
    assert [picture.size for picture in found] == [(9, 8)] * N_IMAGES


@pytest.mark.parametrize("there", ["out.pt", "out.pt.py", "out.pt.json"])
def test_nothing_is_overwritten(tlcli, small, tmp_path, there):
    (tmp_path / there).write_text("mine")
    result = tlcli("export", small, "--output", tmp_path / "out.pt")
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_an_edited_card_stays(tlcli, small, tmp_path):
    first = tlcli("export", small, "--output", tmp_path / "a.pt")
    assert "MODEL_CARD" not in first.stderr
    again = tlcli("export", small, "--output", tmp_path / "b.pt")
    assert "MODEL_CARD" not in again.stderr
    (tmp_path / "MODEL_CARD.md").write_text("mine")
    third = tlcli("export", small, "--output", tmp_path / "c.pt")
    assert third.exit_code == 0
    assert "was not changed" in third.stderr
    assert (tmp_path / "MODEL_CARD.md").read_text() == "mine"


def test_tensors_of_another_network_are_refused(tlcli, small, tmp_path):
    tensors = bundle.read_tensors(small)
    del tensors["classifier.4.bias"]
    path = tmp_path / "model.safetensors"
    bundle.save(path, tensors, bundle.read_meta(small))
    result = tlcli("export", path)
    assert result.exit_code == 1
    assert "classifier.4.bias" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_card_tells_what_is_known(trained):
    meta = bundle.read_meta(trained.bundle)
    run = json.loads((trained.folder / "run.json").read_text())
    text = model_card(meta, read_training_data(trained.folder))
    low, high = meta.metrics.top1_low, meta.metrics.top1_high
    assert f"95% Wilson interval {low:.1%} to {high:.1%}, n = {meta.metrics.n}" in text
    assert "# flowers: efficientnet_lite0" in text
    assert str(trained.folder) not in text
    assert run["dataset"]["root"] not in text
    for name in meta.classes:
        counts = run["dataset"]["classes"][name]
        assert f"| {name} | {counts['train']} | {counts['val']} | 0 |" in text
    assert "Apache License 2.0" in text
    assert escape_markdown(meta.plan["why"]) in text


def test_the_card_without_anything_known_says_so(tmp_path):
    path = save_network(tmp_path / "model.safetensors", "lenet5", classes=HOSTILE)
    meta = bundle.read_meta(path)
    for run in ({}, {"dataset": 3}, {"dataset": {"root": 1, "classes": []}}):
        (tmp_path / "run.json").write_text(json.dumps(run))
        text = model_card(meta, read_training_data(tmp_path))
        assert "nothing is measured" in text
        assert "unknown" in text
    damaged = replace(
        meta, metrics=Metrics.from_dict({"top1": 0.5, "per_class": {"a": 1}}), plan={"trained": 1}
    )
    assert "50.0%" in model_card(damaged, None)


def test_names_in_the_card_are_data(tmp_path):
    path = save_network(tmp_path / "model.safetensors", "lenet5", classes=HOSTILE)
    counts = {name: {"train": 1, "val": 0, "test": 0} for name in HOSTILE}
    data = TrainingData(Path("/x/<b>bold<b>"), counts)
    per_class = {name: ClassMetrics(1, precision=1.0) for name in HOSTILE}
    metrics = Metrics(n=3, top1=1.0, per_class=per_class)
    meta = replace(bundle.read_meta(path), metrics=metrics)
    text = model_card(meta, data)
    assert "<" not in text
    assert "\x1b" not in text
    assert "\n# h" not in text
    assert r"a\|b \`c\` \*d\* \[e\](http\://f)" in text
    assert escape_markdown("www.a.com") == r"www\.a.com"


def test_hostile_names_come_out_of_the_script_as_data(tmp_path, pictures, predictions_here):
    path = save_network(tmp_path / "model.safetensors", "lenet5", classes=HOSTILE)
    done = export(path, output=tmp_path / "model.onnx")
    assert predictions_here(done.script, pictures[0])[0]["label"] in HOSTILE


def test_a_missing_package_is_told(small, tmp_path, monkeypatch):
    monkeypatch.setattr(format, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UserError, match="onnxscript") as caught:
        export(small, output=tmp_path / "model.onnx")
    assert "tlcli[onnx]" in caught.value.hint


def test_more_weights_than_an_onnx_file_holds(small, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(UserError, match="2 GiB"):
        export(small, output=tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "label", "known"),
    [
        ("efficientnet_lite0", "efficientnet-lite0-57934424.pth", "Apache License 2.0"),
        ("efficientnet_lite0", "mine.pth", "Unknown"),
        ("resnet18", "IMAGENET1K_V1", "Unknown: torchvision"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", "facebookresearch/SWAG"),
        ("vgg16", "mine.safetensors", "came from a file"),
        ("lenet5", "none", "No pretrained weights"),
        ("lenet5", "mine.pth", "came from a file"),
    ],
)
def test_licenses_of_weights(name, label, known):
    assert known in weights_license(name, label)


def test_from_python(small, tmp_path):
    done = package.export(small.parent, to="state-dict", output=tmp_path / "x.pth")
    assert isinstance(done, package.Export)
    assert done.file.is_file()
    assert done.parity.difference == 0
