"""Writes `tlcli/backbones/catalogue.json` from torchvision's metadata and our own two models.

python -m tests.backbones.make_catalogue
"""

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tlcli.backbones import build

CATALOGUE = Path(__file__).parents[2] / "tlcli" / "backbones" / "catalogue.json"

# torchvision's modules, where a family goes by a shorter name here
SHORTER = {"swin_transformer": "swin", "vision_transformer": "vit"}

LITE0 = {
    "name": "efficientnet_lite0",
    "family": "efficientnet_lite",
    "top1": 75.1,  # tensorflow/tpu, models/official/efficientnet/lite/README.md
    "size_mb": 17.954,
    "resolution": 224,
    "file": "efficientnet-lite0-57934424.pth",
    "weights": None,
}
LENET5 = {
    "name": "lenet5",
    "family": "lenet",
    "top1": None,
    "size_mb": None,
    "resolution": 32,
    "file": None,
    "weights": None,
}


def rows() -> list[dict[str, Any]]:
    """The catalogue's rows by name, each with the fields of `catalogue.Entry`."""
    names = torchvision.models.list_models(module=torchvision.models)
    every = [torchvision_row(name) for name in names] + [measured(LITE0), measured(LENET5)]
    return sorted(every, key=lambda row: row["name"])


def torchvision_row(name: str) -> dict[str, Any]:
    """What torchvision says of the model and of the weights it recommends."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
    meta = weights.meta
    return {
        "name": name,
        "family": SHORTER.get(module, module),
        "parameters": meta["num_params"] - auxiliary(name),
        "gflops": meta["_ops"],
        "top1": meta["_metrics"]["ImageNet-1K"]["acc@1"],
        "size_mb": meta["_file_size"],
        "resolution": weights.transforms().crop_size[0],
        "file": weights.url.rpartition("/")[2],
        "weights": weights.name,
    }


def auxiliary(name: str) -> int:
    """Parameters of the auxiliary head that torchvision's count for Inception v3 includes."""
    if name != "inception_v3":
        return 0
    with torch.device("meta"):
        model = torchvision.models.inception_v3(init_weights=False)
    return count(model.AuxLogits)


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with what is counted: parameters, and multiply-adds as torchvision counts them."""
    side = row["resolution"]
    classes = 10 if row["name"] == "lenet5" else 1000
    with torch.device("meta"):
        model = build.construct(row["name"], row["family"], classes, side).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side))
    gflops = round(counter.get_total_flops() / 2e9, 3)
    # in the order of the other rows
    counted = {"parameters": count(model), "gflops": gflops}
    return {"name": row["name"], "family": row["family"]} | counted | row


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(row) for row in rows())
    CATALOGUE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
