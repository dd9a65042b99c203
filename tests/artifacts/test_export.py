"""Exports of real bundles: every file is run by its own runtime, and its script by itself."""

import json
from dataclasses import replace

import onnxruntime
import pytest
import torch
from PIL import Image

import tlcli as package
from tests.artifacts.exported import agree, predictions_of
from tests.fakes import RecordingReporter
from tlcli.artifacts import bundle
from tlcli.artifacts.export import format, onnx_file
from tlcli.artifacts.export.exported_program import ABOUT
from tlcli.artifacts.export.formats import FORMATS
from tlcli.artifacts.export.graph import resize_and_crop
from tlcli.artifacts.export.inputs import INPUTS
from tlcli.artifacts.export.parity import N_IMAGES, compare
from tlcli.artifacts.export.source import ExportSource
from tlcli.artifacts.export.target import choose_target
from tlcli.artifacts.run_folder import read_training_data
from tlcli.data.preprocessing import Preprocessing, to_tensor
from tlcli.errors import UsageError, UserError
from tlcli.inference.load import open_bundle
from tlcli.metrics.metrics import Calibration
from tlcli.recipes.export import export, find_images_to_compare

SUFFIXES = [suffix for f in FORMATS.values() for suffix in f.suffixes]


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
    bundle.save_bundle(warm, network.tensors(), replace(meta, calibration=Calibration(3.0)))
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


def test_tensors_of_another_network_are_refused(tlcli, small, tmp_path):
    tensors = bundle.read_tensors(small)
    del tensors["classifier.4.bias"]
    path = tmp_path / "model.safetensors"
    bundle.save_bundle(path, tensors, bundle.read_meta(small))
    result = tlcli("export", path)
    assert result.exit_code == 1
    assert "classifier.4.bias" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


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


def test_from_python(small, tmp_path):
    done = package.export(small.parent, to="state-dict", output=tmp_path / "x.pth")
    assert isinstance(done, package.Export)
    assert done.file.is_file()
    assert done.parity.difference == 0
