"""The scripts beside exports, each run by itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlcli as package
from tests.artifacts.exported import HOSTILE, agree, predictions_of, save_network
from tlcli.artifacts.export.formats import FORMATS
from tlcli.recipes.export import export


@pytest.mark.parametrize("to", FORMATS)
def test_the_scripts_run_on_pixels(small, pictures, tmp_path, to):
    input_name = "pixels" if FORMATS[to].has_graph else None
    suffix = FORMATS[to].suffixes[-1]
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


def test_hostile_names_come_out_of_the_script_as_data(tmp_path, pictures, predictions_here):
    path = save_network(tmp_path / "model.safetensors", "lenet5", classes=HOSTILE)
    done = export(path, output=tmp_path / "model.onnx")
    assert predictions_here(done.script, pictures[0])[0]["label"] in HOSTILE
