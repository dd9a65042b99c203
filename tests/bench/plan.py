"""What measuring a folder costs: `python -m tests.bench.plan`.

Times, in turn and several times over, one frozen forward pass over the 1,000 training images of the
shared flowers, and `tlcli.plan` on the same images with nothing cached; and the probes of nine
stages alone. Writes docs/measured/plan.md.
"""

import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import tlcli
from tests.bench.regret import SHARED
from tlcli.backbones import build
from tlcli.data.dataset import scan
from tlcli.features.extract import FeatureExtractor, extract_features
from tlcli.planning import linear_probe as probe
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device, torch_threads

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 3
WIDTHS = (32, 16, 24, 40, 80, 112, 192, 320, 1280)


def forward_pass() -> float:
    """Seconds of one pass over the images: loading the backbone, decoding, forward."""
    started = time.perf_counter()
    samples = scan(SHARED / "data" / "flowers").train
    backbone = build.load_backbone("efficientnet_lite0")
    stages = nn.Sequential(*backbone.stages)
    forward = FeatureExtractor(stages, backbone.preprocessing, choose_device("cpu"))
    extract_features(samples, forward, task="pass", reporter=Reporter())
    return time.perf_counter() - started


def plan() -> float:
    """Seconds of the whole plan."""
    started = time.perf_counter()
    tlcli.plan(SHARED / "data" / "flowers", cache=False)
    return time.perf_counter() - started


def probes() -> float:
    """Seconds of the probes of nine stages, 1,000 images in five classes."""
    labels = torch.arange(1000) % 5
    fold = probe.deal_folds(labels, 0)
    stages = [torch.randn(1000, d, generator=torch.Generator().manual_seed(d)) for d in WIDTHS]
    started = time.perf_counter()
    with torch_threads(1):  # as the survey does
        for codes in stages:
            probe.probe(codes, labels, fold)
    return time.perf_counter() - started


def main() -> None:
    forward_pass()  # the first decodes into a cold page cache
    rounds = [(forward_pass(), plan(), probes()) for _ in range(ROUNDS)]
    passes, plans, probed = zip(*rounds, strict=True)
    ratio = statistics.median(b / a for a, b, _ in rounds)
    text = (
        "# What measuring a folder costs\n\n"
        f"Made by `python -m tests.bench.plan` on {os.cpu_count()} cores ({platform.machine()}, "
        f"torch {torch.__version__}): medians of {ROUNDS} rounds, each part once per round, on a "
        "shared and noisy machine.\n\n"
        "| what | seconds | target |\n|---|---|---|\n"
        f"| one frozen forward pass over 1,000 flowers | {statistics.median(passes):.1f} | |\n"
        f"| `tlcli.plan` on the same, nothing cached | {statistics.median(plans):.1f} | |\n"
        f"| plan / pass, median of the rounds' ratios | **{ratio:.2f}** | 1.3 |\n"
        f"| probes of nine stages, 1,000 images | {statistics.median(probed):.1f} | 3 |\n"
    )
    (ROOT / "docs" / "measured" / "plan.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
