"""Train with the usual loop, for comparison: `python -m tests.bench.tutorial DIR`.

PyTorch's "Transfer Learning for Computer Vision" tutorial, written out: an ImageFolder per part and
a loader with four worker processes and batches of four images, random resized crops and mirroring
for training, SGD with learning rate 0.001 and momentum 0.9, the rate divided by ten every seven
epochs, the state with the best validation accuracy kept in a file. Either all layers are trained,
or all but a new last one are frozen, though in train mode. Plain fp32, eager, nothing folded. The
network, its weights and its preprocessing are tlcli's. Prints JSON on stdout.
"""

import json
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

from tests.bench.common import make_parser
from tlcli.backbones import build
from tlcli.data.preprocessing import Preprocessing

BATCH_SIZE = 4
N_WORKERS = 4
PARTS = ("train", "val")


def loaders(data: Path, pre: Preprocessing, limit: int | None) -> dict[str, DataLoader]:
    """Make a loader for each part; `limit`: with this many images, drawn at random."""
    how = InterpolationMode(pre.interpolation)
    last = [ToTensor(), Normalize(pre.mean, pre.std)]
    first = {
        "train": [RandomResizedCrop(pre.crop, interpolation=how), RandomHorizontalFlip()],
        "val": [Resize(pre.resize, interpolation=how), CenterCrop(pre.crop)],
    }
    found = {}
    for part in PARTS:
        images = datasets.ImageFolder(str(data / part), Compose(first[part] + last))
        if limit:
            images = Subset(images, torch.randperm(len(images))[:limit].tolist())
        found[part] = DataLoader(images, batch_size=BATCH_SIZE, shuffle=True, num_workers=N_WORKERS)
    return found


def train_model(
    model: nn.Module,
    parts: dict[str, DataLoader],
    optimizer: torch.optim.Optimizer,
    scheduler: lr_scheduler.LRScheduler,
    epochs: int,
) -> list[dict[str, float]]:
    """Run the loop and return one row per epoch; the model ends in its best state."""
    criterion = nn.CrossEntropyLoss()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder, "best.pt")
        torch.save(model.state_dict(), best)
        best_right = 0
        for _ in range(epochs):
            row: dict[str, float] = {}
            for part in PARTS:
                started = time.perf_counter()
                training = part == "train"
                model.train(training)
                right = n = 0
                for inputs, labels in parts[part]:
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(training):
                        outputs = model(inputs)
                        predicted = outputs.argmax(1)
                        loss = criterion(outputs, labels)
                        if training:
                            loss.backward()
                            optimizer.step()
                    right += int((predicted == labels).sum())
                    n += len(labels)
                if training:
                    scheduler.step()
                row |= {
                    f"{part}_s": round(time.perf_counter() - started, 2),
                    f"{part}_n": n,
                    f"{part}_right": right,
                }
                if not training and right > best_right:
                    best_right = right
                    torch.save(model.state_dict(), best)
            rows.append(row)
        model.load_state_dict(torch.load(best, weights_only=True))
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--mode", choices=("frozen", "full"), default="frozen")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, help="only this many images of each part")
    options = parser.parse_args()

    torch.manual_seed(0)
    backbone = build.load_backbone(options.model, options.weights)
    parts = loaders(options.data, backbone.preprocessing, options.limit)
    model = backbone.model
    if options.mode == "frozen":
        for parameter in model.parameters():
            parameter.requires_grad = False
    build.replace_head(backbone, len(list((options.data / "train").iterdir())))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    rows = train_model(model, parts, optimizer, scheduler, options.epochs)
    best = max(rows, key=lambda row: row["val_right"])
    print(json.dumps({"right": best["val_right"], "n": best["val_n"], "epochs": rows}))


if __name__ == "__main__":
    main()
