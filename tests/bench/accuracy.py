"""Measure the accuracy of the main job on real photographs: `python -m tests.bench.accuracy`.

Runs whole commands on the data and weights in ../shared and writes docs/measured/accuracy.md: one
row per command, with its target.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torchvision

from tests.bench.common import environment, make_parser, write_page
from tests.paths import SHARED
from tlcli.metrics.intervals import wilson_interval


@dataclass(frozen=True)
class Row:
    """A command, and the accuracy that it is expected to reach."""

    name: str
    command: str
    target: float


ROWS = (
    Row(
        "head on the last features, default backbone",
        "finetune {shared}/data/flowers --case small-similar",
        0.88,
    ),
    Row(
        "head on the last features, MobileNetV2",
        "finetune {shared}/data/flowers --case small-similar --model mobilenet_v2 "
        "--weights {shared}/weights/mobilenet_v2-tf-imagenet.pth",
        0.825,
    ),
    Row(
        "digits, head on a middle stage",
        "finetune {shared}/data/digits --case small-different",
        0.90,
    ),
    Row(
        "VGG16, features frozen",
        "finetune {shared}/data/flowers --model vgg16 --freeze features --optimizer sgd --lr 0.001 "
        "--no-calibrate "
        "--weights {shared}/weights/vgg16_features-keras-imagenet.pth",
        0.80,
    ),
    Row(
        "ImageNet's own classes",
        "predict {shared}/data/imagenet-samples --model efficientnet_lite0 --format json",
        0.78,
    ),
)


def measure(row: Row) -> tuple[int, int, float]:
    """Run a command; return the correct predictions, all predictions and the seconds it took."""
    arguments = shlex.split(row.command.format(shared=SHARED))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tlcli", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        if arguments[0] == "finetune":
            bundle = Path(folder, done.stdout.strip())
            metrics = json.loads((bundle.parent / "metrics.json").read_text())
            return round(metrics["top1"] * metrics["n"]), metrics["n"], seconds
    predictions = sorted(json.loads(done.stdout), key=lambda prediction: prediction["path"])
    # The samples sort by file name into the order of the classes, one each.
    names = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    correct = sum(p["label"] == name for p, name in zip(predictions, names, strict=True))
    return correct, len(predictions), seconds


def main() -> None:
    parser = make_parser(__doc__, only="run the rows whose name contains WORD, and only print them")
    only = parser.parse_args().only
    lines = [
        "| what | command | accuracy | 95% interval | target | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        if only in row.name:
            correct, n, seconds = measure(row)
            low, high = wilson_interval(correct, n)
            command = row.command.format(shared="../shared")
            lines.append(
                f"| {row.name} | `tlcli {command}` | **{correct / n:.1%}** of {n} "
                f"| {low:.1%} to {high:.1%} | {row.target:.1%} | {seconds:.0f} |"
            )
            print(lines[-1], flush=True)
    if not only:
        text = (
            "# Accuracy on real photographs\n\n"
            "Made by `python -m tests.bench.accuracy`. Seconds are for the whole command, "
            f"Python's start included, on {environment()}; the machine is shared and noisy, so "
            "take them as an order of magnitude.\n\n"
        )
        write_page("accuracy.md", text + "\n".join(lines))


if __name__ == "__main__":
    main()
