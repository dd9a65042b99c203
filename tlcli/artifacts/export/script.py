"""The script that is stored beside an export: how to use it, ready to run, without tlcli's code."""

from pathlib import Path

from tlcli.artifacts.export.formats import ABOUT, PIXELS, Subject
from tlcli.backbones.families import find_family

_SCRIPT = '''\
"""Names the class of each image that is given, a JSON object a line.

Needs {needs}.
"""

import json
import sys
from pathlib import Path

{imports}

FILE = Path(__file__).with_name({file!r})
{setup}

def pixels(path):
    """The image as uint8 [1, height, width, 3]."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
{fit}    return np.array(image)[None]


for path in sys.argv[1:]:
{run}
    best = int(probabilities.argmax())
    answer = {{"label": ABOUT["classes"][best], "probability": float(probabilities[best])}}
    print(json.dumps({{"path": path, **answer}}))
'''

_FIT = """\
    pre = ABOUT["preprocessing"]
    size = [pre["resize"] * side // min(image.size) for side in image.size]
    image = image.resize(size, Image.Resampling[pre["interpolation"].upper()])
    left, top = (round((side - pre["crop"]) / 2) for side in size)
    image = image.crop((left, top, left + pre["crop"], top + pre["crop"]))
"""

_PIL = "from PIL import Image, ImageOps"

_ONNX_SETUP = """\
MODEL = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
METADATA = MODEL.get_modelmeta().custom_metadata_map
ABOUT = {name: json.loads(METADATA[name]) for name in ("classes", "preprocessing")}
"""
_ONNX_RUN = """\
    probabilities = MODEL.run(None, {"image": pixels(path)})[0][0]"""

_PROGRAM_SETUP = f"""\
FILES = {{{ABOUT!r}: ""}}
MODEL = torch.export.load(FILE, extra_files=FILES).module()
ABOUT = json.loads(FILES[{ABOUT!r}])
"""
_PROGRAM_RUN = """\
    with torch.no_grad():
        probabilities = MODEL(torch.from_numpy(pixels(path)))[0]"""

_STATE_RUN = """\
    batch = torch.from_numpy(pixels(path)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(ABOUT["preprocessing"][k])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        probabilities = MODEL((batch - mean) / std).softmax(1)[0]"""

_PARTS = {
    "onnx": (
        "onnxruntime, numpy and Pillow",
        ["import numpy as np", "import onnxruntime", _PIL],
        _ONNX_SETUP,
        _ONNX_RUN,
    ),
    "exported-program": (
        "torch, numpy and Pillow",
        ["import numpy as np", "import torch", _PIL],
        _PROGRAM_SETUP,
        _PROGRAM_RUN,
    ),
}


def run_script(subject: Subject, to: str, file: Path) -> str:
    """The script for an export in format `to` at `file`, beside which it is to lie."""
    needs, imports, setup, run = _PARTS[to] if to in _PARTS else _state_dict(subject, file)
    return _SCRIPT.format(
        needs=needs,
        imports="\n".join(imports),
        file=file.name,
        setup=setup,
        fit=_FIT if subject.input == PIXELS else "",
        run=run,
    )


def _state_dict(subject: Subject, file: Path) -> tuple[str, list[str], str, str]:
    """The parts of a state dict's script: the network is built, the tensors loaded into it."""
    meta = subject.meta
    family = find_family(meta.backbone)
    imports = ["import numpy as np", "import torch"]
    if file.suffix == ".safetensors":
        imports.insert(1, "import safetensors.torch")
        lines = ["STATE = safetensors.torch.load_file(FILE)"]
        if family.state_version is not None:
            imports.insert(0, "from collections import OrderedDict\n")
            version = f'{{"": {{"version": {family.state_version}}}}}'
            lines += ["STATE = OrderedDict(STATE)", f"STATE._metadata = {version}"]
    else:
        lines = ["STATE = torch.load(FILE, weights_only=True)"]
    own = meta.dropped or meta.backbone in family.own
    if own:
        imports += [_PIL, "", "from tlcli.backbones.build import build"]
    else:
        imports += ["import torchvision", _PIL]
    classes, crop = len(meta.classes), meta.preprocessing.crop
    built = f"build({meta.backbone!r}, n_classes={classes}, resolution={crop})"
    if meta.dropped:
        imports.append("from tlcli.backbones.network import build_network")
        lines += [
            "NETWORK = build_network(",
            f"    {built},",
            f"    cut={meta.truncated_after!r},",
            "    dropped=True,",
            f"    n_classes={classes},",
            ")",
            "with torch.no_grad():",
            "    for name, tensor in NETWORK.tensors().items():",
            "        tensor.copy_(STATE[name])",
            "MODEL = NETWORK.model.eval()",
        ]
    else:
        lines.append(f"MODEL = {built}.model" if own else f"MODEL = {_torchvision(subject)}")
        lines += ["MODEL.load_state_dict(STATE)", "MODEL.eval()"]
    lines.append('ABOUT = json.loads(FILE.with_name(FILE.name + ".json").read_text())')
    needs = f"torch, {'tlcli' if own else 'torchvision'}, numpy and Pillow"
    return needs, imports, "\n".join(lines) + "\n", _STATE_RUN


def _torchvision(subject: Subject) -> str:
    """The call that builds the network in plain torchvision."""
    meta = subject.meta
    family = find_family(meta.backbone)
    crop = meta.preprocessing.crop
    arguments = {"num_classes": len(meta.classes), **family.builder_arguments(crop)}
    listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"torchvision.models.{meta.backbone}({listed})"
