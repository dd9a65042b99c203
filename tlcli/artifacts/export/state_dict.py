"""The format `state-dict`: the tensors under torchvision's own names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tlcli.artifacts.export.format import Format

if TYPE_CHECKING:
    from torch import Tensor

    from tlcli.artifacts.bundle import BundleMeta
    from tlcli.artifacts.export.script import ScriptParts
    from tlcli.artifacts.export.source import ExportSource

_PREDICT = """\
    batch = torch.from_numpy(pixels(path)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(ABOUT["preprocessing"][k])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        probabilities = MODEL((batch - mean) / std).softmax(1)[0]"""


def _write(source: ExportSource, path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from tlcli.backbones.families import find_family
    from tlcli.backbones.state_dict import with_version

    tensors = {k: v.detach().contiguous() for k, v in source.network.tensors().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(with_version(tensors, find_family(source.meta.backbone)), path)


def _open(source: ExportSource, path: Path) -> Callable[[Tensor], Tensor]:
    """Load the file into a newly built model."""
    import torch
    from safetensors.torch import load_file

    from tlcli.backbones.create import create_model
    from tlcli.backbones.families import find_family
    from tlcli.backbones.state_dict import with_version

    meta = source.meta
    if path.suffix == ".safetensors":
        state = with_version(load_file(path), find_family(meta.backbone))
    else:
        state = torch.load(path, weights_only=True)
    model = create_model(
        meta.backbone,
        n_classes=len(meta.classes),
        resolution=meta.preprocessing.crop,
        truncated_after=meta.truncated_after,
    )
    model.load_state_dict(state)
    return source.graph_of(model)


def _script_parts(source: ExportSource, path: Path) -> ScriptParts:
    """Make a script that builds the model and loads the tensors into it.

    It needs tlcli only where torchvision has no such model.
    """
    from tlcli.artifacts.export.script import ScriptParts
    from tlcli.backbones.families import find_family

    meta = source.meta
    family = find_family(meta.backbone)
    needs_tlcli = meta.dropped or meta.backbone in family.own
    imports = ["import numpy as np", "import torch"]
    lines = ["STATE = torch.load(FILE, weights_only=True)"]
    if path.suffix == ".safetensors":
        imports.insert(1, "import safetensors.torch")
        lines = ["STATE = safetensors.torch.load_file(FILE)"]
        if family.state_version is not None and not needs_tlcli:
            imports.insert(0, "from collections import OrderedDict\n")
            version = f'{{"": {{"version": {family.state_version}}}}}'
            lines += ["STATE = OrderedDict(STATE)", f"STATE._metadata = {version}"]
    if needs_tlcli:
        imports += ["from PIL import Image, ImageOps", "", "import tlcli"]
    else:
        imports += ["import torchvision", "from PIL import Image, ImageOps"]
    lines += [
        f"MODEL = {_tlcli_call(meta) if needs_tlcli else _torchvision_call(meta)}",
        "MODEL.load_state_dict(STATE)",
        "MODEL.eval()",
        'ABOUT = json.loads(FILE.with_name(FILE.name + ".json").read_text())',
    ]
    needs = f"torch, {'tlcli' if needs_tlcli else 'torchvision'}, numpy"
    return ScriptParts(needs, imports, "\n".join(lines) + "\n", _PREDICT)


def _tlcli_call(meta: BundleMeta) -> str:
    """Return the call that builds the model with tlcli."""
    arguments = [f"n_classes={len(meta.classes)}", f"resolution={meta.preprocessing.crop}"]
    if meta.dropped:
        arguments.append(f"truncated_after={meta.truncated_after!r}")
    return f"tlcli.create_model({meta.backbone!r}, {', '.join(arguments)})"


def _torchvision_call(meta: BundleMeta) -> str:
    """Return the call that builds the model in plain torchvision."""
    from tlcli.backbones.families import find_family

    family = find_family(meta.backbone)
    arguments = {
        "num_classes": len(meta.classes),
        **family.builder_arguments(meta.preprocessing.crop),
    }
    listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"torchvision.models.{meta.backbone}({listed})"


STATE_DICT = Format(
    name="state-dict",
    help="the tensors, for torchvision",
    suffixes=(".pt", ".pth", ".safetensors"),
    stem="state-dict",
    write=_write,
    open=_open,
    script_parts=_script_parts,
    has_graph=False,
    has_sidecar=True,
)
