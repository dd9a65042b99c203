"""Exports: a trained network in other tools' clothes, one entry of `FORMATS` each."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import Dim

from tlcli.artifacts.bundle import BundleMeta
from tlcli.artifacts.export.graph import Graph
from tlcli.backbones.build import build
from tlcli.backbones.families import find_family
from tlcli.backbones.network import Network, build_network
from tlcli.backbones.state_dict import with_version
from tlcli.errors import UsageError, UserError, choice

IMAGE, PIXELS = "image", "pixels"
INPUTS = (IMAGE, PIXELS)
"""What a graph takes: an image of any size, or one resized and cut to the network's size."""

ABOUT = "tlcli.json"
"""The exported program's extra file that says what `about` does."""
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
ONNX_LIMIT = 2**31 - 2**24
"""Bytes of weights: a protobuf file ends at 2 GiB, and the graph needs some room too."""

Runner = Callable[[Tensor], Tensor]
"""uint8 [n, h, w, 3] to probabilities float32 [n, classes]."""


@dataclass(frozen=True)
class Subject:
    """What is exported: a bundle's network in eval mode, and which input its graph takes."""

    meta: BundleMeta
    network: Network
    input: str

    @property
    def graph(self) -> Graph:
        """The whole function, from uint8 to probabilities."""
        return _graph(self, self.network)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The graph, traced; made once, as it takes seconds."""
        side = self.meta.preprocessing.crop
        # different sizes, lest the tracer takes two of them for one
        shape = (2, side + 1, side + 2, 3) if self.input == IMAGE else (2, side, side, 3)
        example = torch.zeros(shape, dtype=torch.uint8)
        with torch.no_grad():
            return torch.export.export(self.graph, (example,), dynamic_shapes=self.sizes)

    @property
    def sizes(self) -> tuple[dict[int, Any]]:
        """The axes of the input that may have any length."""
        free = ("batch", "height", "width") if self.input == IMAGE else ("batch",)
        return ({axis: Dim(name, min=1) for axis, name in enumerate(free)},)

    @property
    def about(self) -> dict[str, Any]:
        """What a program that uses the export has to know."""
        return {
            "backbone": self.meta.backbone,
            "classes": list(self.meta.classes),
            "preprocessing": self.meta.preprocessing.to_dict(),
            "input": self.input,
        }


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffixes: its extensions, the usual one first.
        stem: of its file where none is named.
        write: fills the file.
        open: the written file again, run by its own runtime.
        graph: whether it holds the graph, so that there is a choice of `INPUTS`.
    """

    suffixes: tuple[str, ...]
    stem: str
    write: Callable[[Subject, Path], object]
    open: Callable[[Subject, Path], Runner]
    graph: bool = True


def choose_format(
    to: str | None, output: Path | None, input_name: str | None, folder: Path
) -> tuple[str, str, Path]:
    """The format, the input and the file that `--to`, `--input` and `--output` come to.

    Args:
        to: None takes the format of `output`'s extension, else a state dict.
        folder: where the file goes if `output` names none.

    Raises:
        UsageError: they are unknown, or contradict each other.
    """
    if to is None:
        suffix = output.suffix if output else ".pt"
        to = next((name for name, f in FORMATS.items() if suffix in f.suffixes), None)
    if to is None:
        known = ", ".join(suffix for f in FORMATS.values() for suffix in f.suffixes)
        raise UsageError(f"--output {output}: no format has that extension", f"one of: {known}")
    wanted = FORMATS[choice("--to", to, FORMATS)]
    if input_name is not None and choice("--input", input_name, INPUTS) and not wanted.graph:
        raise UsageError(
            f"--input {input_name} is about a graph, and a {to} holds tensors only",
            "leave it out, or take --to onnx or --to exported-program",
        )
    chosen = input_name or (IMAGE if wanted.graph else PIXELS)
    if output is None:
        tail = f"-{PIXELS}" if chosen == PIXELS and wanted.graph else ""
        output = folder / f"{wanted.stem}{tail}{wanted.suffixes[0]}"
    if output.suffix not in wanted.suffixes:
        raise UsageError(
            f"--output {output}: --to {to} writes {' or '.join(wanted.suffixes)}, not "
            f"{output.suffix or 'a file without extension'}",
            "change one of the two",
        )
    return to, chosen, output


def check_installed(to: str) -> None:
    """Raises `UserError` if `to` needs a package that is not installed."""
    missing = [name for name in ONNX_NEEDS if find_spec(name) is None] if to == "onnx" else []
    if missing:
        raise UserError(
            f"--to onnx needs {', '.join(missing)}, not installed here", "pip install 'tlcli[onnx]'"
        )


def _graph(subject: Subject, network: Network) -> Graph:
    stages = network.model.eval().requires_grad_(False)
    return Graph(stages, subject.meta.preprocessing, resizing=subject.input == IMAGE)


# The state dict


def _write_state_dict(subject: Subject, path: Path) -> None:
    tensors = {k: v.detach().contiguous() for k, v in subject.network.tensors().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(with_version(tensors, find_family(subject.meta.backbone)), path)


def _open_state_dict(subject: Subject, path: Path) -> Runner:
    """The file's tensors in a newly built network."""
    meta, classes = subject.meta, len(subject.meta.classes)
    if path.suffix == ".safetensors":
        state = with_version(load_file(path), find_family(meta.backbone))
    else:
        state = torch.load(path, weights_only=True)
    backbone = build(meta.backbone, n_classes=classes, resolution=meta.preprocessing.crop)
    network = build_network(
        backbone, cut=meta.truncated_after or meta.cut, dropped=meta.dropped, n_classes=classes
    )
    if meta.dropped:
        with torch.no_grad():
            for name, tensor in network.tensors().items():
                tensor.copy_(state[name])
    else:
        backbone.model.load_state_dict(state)
    return _graph(subject, network)


# The exported program


def _write_program(subject: Subject, path: Path) -> None:
    torch.export.save(subject.program, path, extra_files={ABOUT: json.dumps(subject.about)})


def _open_program(_: Subject, path: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.11 about a buffer of its own
        runner: Runner = torch.export.load(path).module()
    return runner


# ONNX


def _write_onnx(subject: Subject, path: Path) -> None:
    """With `about` in the metadata, a JSON value under each of its names."""
    size = sum(t.numel() * t.element_size() for t in subject.network.tensors().values())
    if size > ONNX_LIMIT:
        raise UserError(
            f"{subject.meta.backbone} has {size / 2**30:.1f} GiB of weights, and an ONNX file "
            "holds 2 GiB at most",
            "use --to exported-program",
        )
    program = subject.program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts about each other
        exported = torch.onnx.export(
            program,
            (),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=subject.sizes,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    about = {name: json.dumps(value) for name, value in subject.about.items()}
    exported.model.metadata_props.update(about)
    exported.save(path)


def _open_onnx(_: Subject, path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


FORMATS = {
    "state-dict": Format(
        (".pt", ".pth", ".safetensors"),
        "state-dict",
        _write_state_dict,
        _open_state_dict,
        graph=False,
    ),
    "exported-program": Format((".pt2",), "model", _write_program, _open_program),
    "onnx": Format((".onnx",), "model", _write_onnx, _open_onnx),
}
