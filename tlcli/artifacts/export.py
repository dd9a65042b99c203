"""Exports: the weights in other tools' clothes."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tlcli.artifacts import bundle
from tlcli.artifacts.files import write_json, write_whole
from tlcli.backbones import catalogue
from tlcli.backbones.checkpoint import versioned
from tlcli.backbones.families import FAMILIES
from tlcli.errors import UsageError, UserError

FORMATS = ("state-dict",)
SUFFIXES = (".pt", ".pth", ".safetensors")


def export_state_dict(path: Path, output: Path | None) -> tuple[Path, str]:
    """Write a bundle's tensors under torchvision's names.

    Args:
        path: the bundle.
        output: .pt or .pth (read it with `torch.load(..., weights_only=True)`) or .safetensors;
            classes and preprocessing go beside it, with .json added to the name. None:
            state-dict.pt beside the bundle.

    Returns:
        The file, and Python lines that load it in plain torchvision.

    Raises:
        UsageError: another extension.
        UserError: the file is there already, or cannot be written.
    """
    output = output or path.with_name("state-dict.pt")
    if output.suffix not in SUFFIXES:
        raise UsageError(
            f"--output {output}: a state dict is one of {', '.join(SUFFIXES)}, "
            f"not {output.suffix or 'a file without extension'}"
        )
    described = output.with_name(output.name + ".json")
    for file in (output, described):
        if file.exists():
            raise UserError(f"{file} is there already, and it is not overwritten", "use --output")
    meta = bundle.read_meta(path)
    tensors = bundle.read_tensors(path)
    if output.suffix == ".safetensors":
        write_whole(output, lambda p: save_file(tensors, p))
        read = f"safetensors.torch.load_file({str(output)!r})"
    else:
        if meta.backbone.startswith("mnasnet"):
            tensors = versioned(tensors)
        write_whole(output, lambda p: torch.save(tensors, p))
        read = f"torch.load({str(output)!r}, weights_only=True)"
    write_json(
        described,
        {
            "backbone": meta.backbone,
            "classes": list(meta.classes),
            "preprocessing": meta.preprocessing.to_dict(),
        },
    )
    return output, _snippet(meta, read)


def _snippet(meta: bundle.BundleMeta, read: str) -> str:
    if meta.dropped:
        return (
            f"# {meta.backbone} up to {meta.cut}, then new_head: stages were dropped, so plain\n"
            "# torchvision cannot hold it; tlcli.load() and tlcli predict can."
        )
    if meta.backbone in ("efficientnet_lite0", "lenet5"):
        lines = [
            "from tlcli.backbones.build import build",
            f"model = build({meta.backbone!r}, n_classes={len(meta.classes)}).model",
        ]
    else:
        arguments = [f"num_classes={len(meta.classes)}"]
        family = FAMILIES[catalogue.find(meta.backbone).family]
        arguments += [f"{name}={value}" for name, value in family.arguments.items()]
        if meta.backbone.startswith("vit_"):
            arguments.append(f"image_size={meta.preprocessing.crop}")
        call = f"torchvision.models.{meta.backbone}({', '.join(arguments)})"
        lines = ["import torchvision", f"model = {call}"]
    module = read.split(".load", maxsplit=1)[0]
    lines = [f"import {module}", *lines, f"state = {read}"]
    if meta.backbone.startswith("mnasnet") and "safetensors" in read:
        lines += [
            "from collections import OrderedDict",
            "state = OrderedDict(state)",
            'state._metadata = {"": {"version": 2}}',
        ]
    lines += ["model.load_state_dict(state)", "model.eval()"]
    normalised = json.dumps(meta.preprocessing.to_dict())
    return "\n".join([*lines, f"# preprocessing: {normalised}"])
