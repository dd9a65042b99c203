"""Write `tlcli/backbones/catalogue.json` from torchvision's metadata and the table of families.

python -m tests.backbones.make_catalogue
"""

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tlcli.backbones.build import build_model
from tlcli.backbones.catalogue import local_file
from tlcli.backbones.families import FAMILIES
from tlcli.backbones.family import OwnModel

CATALOGUE = Path(__file__).parents[2] / "tlcli" / "backbones" / "catalogue.json"

SHORTER_NAMES = {"swin_transformer": "swin", "vision_transformer": "vit"}
"""torchvision's module names for families that have a shorter name here."""


def rows() -> list[dict[str, Any]]:
    """Return the catalogue's rows by name, with the fields of `catalogue.CatalogueEntry`."""
    names = torchvision.models.list_models(module=torchvision.models)
    found = [torchvision_row(name) for name in names]
    for family, entry in FAMILIES.items():
        found += [own_row(name, family, model) for name, model in entry.own.items()]
    return sorted(found, key=lambda row: row["name"])


def torchvision_row(name: str) -> dict[str, Any]:
    """Return the row for a model of torchvision and the weights that it recommends."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
    meta = weights.meta
    return {
        "name": name,
        "family": SHORTER_NAMES.get(module, module),
        "parameters": meta["num_params"] - auxiliary_parameters(name),
        "gflops": meta["_ops"],
        "top1": meta["_metrics"]["ImageNet-1K"]["acc@1"],
        "size_mb": meta["_file_size"],
        "resolution": weights.transforms().crop_size[0],
        "file": weights.url.rpartition("/")[2],
        "weights": weights.name,
    }


def auxiliary_parameters(name: str) -> int:
    """Count Inception v3's auxiliary parameters, which torchvision's figure includes."""
    if name != "inception_v3":
        return 0
    with torch.device("meta"):
        model = torchvision.models.inception_v3(init_weights=False)
    return count_parameters(model.AuxLogits)


def own_row(name: str, family: str, own: OwnModel) -> dict[str, Any]:
    """Return the row for a model that tlcli builds itself, whose weights are installed.

    Multiply-adds are counted as torchvision counts them.
    """
    side = own.preprocessing.crop
    with torch.device("meta"):
        model = build_model(name, FAMILIES[family], own.n_classes, side).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side))
    file = local_file(own.weights.file, own.weights.package) if own.weights else None
    return {
        "name": name,
        "family": family,
        "parameters": count_parameters(model),
        "gflops": round(counter.get_total_flops() / 2e9, 3),
        "top1": own.top1,
        "size_mb": round(file.stat().st_size / 2**20, 3) if file else None,
        "resolution": side,
        "file": own.weights.file if own.weights else None,
        "weights": None,
        "package": own.weights.package if own.weights else None,
    }


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(row) for row in rows())
    CATALOGUE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
