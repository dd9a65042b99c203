"""The format `onnx`: the graph for onnxruntime and others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tlcli.artifacts.export.format import Format
from tlcli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from tlcli.artifacts.export.script import ScriptParts
    from tlcli.artifacts.export.source import ExportSource

MAX_WEIGHT_BYTES = 2**31 - 2**24
"""Bytes of weights that fit: a protobuf file ends at 2 GiB, and the graph needs some of it."""

_SETUP = """\
MODEL = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
METADATA = MODEL.get_modelmeta().custom_metadata_map
ABOUT = {name: json.loads(METADATA[name]) for name in ("classes", "preprocessing")}
"""
_PREDICT = """\
    probabilities = MODEL.run(None, {"image": pixels(path)})[0][0]"""


def _write(source: ExportSource, path: Path) -> None:
    """Write the graph, with each entry of `source.about` in the metadata as JSON."""
    import json  # --help imports this module, and needs no JSON

    import torch

    size = sum(t.numel() * t.element_size() for t in source.network.tensors().values())
    if size > MAX_WEIGHT_BYTES:
        raise UserError(
            f"{source.meta.backbone} has {size / 2**30:.1f} GiB of weights, and an ONNX file "
            "holds 2 GiB at most",
            "use --to exported-program",
        )
    program = source.program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts about each other
        exported = torch.onnx.export(
            program,
            (),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=source.dynamic_shapes,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    about = {name: json.dumps(value) for name, value in source.about.items()}
    exported.model.metadata_props.update(about)
    exported.save(path)


def _open(_: ExportSource, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _script_parts(_: ExportSource, __: Path) -> ScriptParts:
    from tlcli.artifacts.export.script import ScriptParts

    imports = ["import numpy as np", "import onnxruntime", "from PIL import Image, ImageOps"]
    return ScriptParts("onnxruntime, numpy", imports, _SETUP, _PREDICT)


ONNX = Format(
    name="onnx",
    help="for onnxruntime and others",
    suffixes=(".onnx",),
    stem="model",
    write=_write,
    open=_open,
    script_parts=_script_parts,
    packages=("onnx", "onnxscript", "onnxruntime"),
    extra="onnx",
)
