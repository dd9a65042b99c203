"""Measure the cost of planning: `python -m tests.bench.plan`.

Times, in alternation, one frozen forward pass over the 1,000 training images of the shared flowers,
`tlcli.plan` on the same images with nothing cached, and the linear probes of nine stages alone.
Writes docs/measured/plan.md.
"""

import statistics

import torch

import tlcli
from tests.bench.common import (
    environment,
    load_pretrained,
    make_extractor,
    make_parser,
    seconds_of,
    write_page,
)
from tests.paths import FLOWERS
from tlcli.data.dataset import scan
from tlcli.features.extract import extract_features
from tlcli.metrics.linear_models import FOLDS, deal_folds
from tlcli.planning.linear_probe import cross_validate
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device
from tlcli.runtime.workers import torch_threads

N_ROUNDS = 3
STAGE_WIDTHS = (32, 16, 24, 40, 80, 112, 192, 320, 1280)


def forward_pass() -> None:
    """Load the backbone, decode the images and compute their features."""
    samples = scan(FLOWERS).train
    extractor = make_extractor(load_pretrained("efficientnet_lite0"), choose_device("cpu"))
    extract_features(samples, extractor, task="pass", reporter=Reporter())


def plan() -> None:
    """Make the whole plan."""
    tlcli.plan(FLOWERS, cache=False)


def probe_seconds() -> float:
    """Time the linear probes of nine stages on 1,000 images in five classes."""
    labels = torch.arange(1000) % 5
    folds = deal_folds(labels, FOLDS, 0)
    stages = [
        torch.randn(1000, d, generator=torch.Generator().manual_seed(d)) for d in STAGE_WIDTHS
    ]
    with torch_threads(1):  # as the plan does
        return seconds_of(lambda: [cross_validate(features, labels, folds) for features in stages])


def main() -> None:
    make_parser(__doc__).parse_args()
    forward_pass()  # the first one decodes into a cold page cache
    rounds = [
        (seconds_of(forward_pass), seconds_of(plan), probe_seconds()) for _ in range(N_ROUNDS)
    ]
    passes, plans, probes = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b, _ in rounds)
    text = (
        "# What measuring a folder costs\n\n"
        f"Made by `python -m tests.bench.plan` on {environment()}: medians of {N_ROUNDS} rounds, "
        "each part once per round, on a machine that is shared and noisy.\n\n"
        "| what | seconds | target |\n|---|---|---|\n"
        f"| one frozen forward pass over 1,000 flowers | {passes:.1f} | |\n"
        f"| `tlcli.plan` on the same, nothing cached | {plans:.1f} | |\n"
        f"| plan / pass, median of the rounds' ratios | **{ratio:.2f}** | 1.3 |\n"
        f"| probes of nine stages, 1,000 images | {probes:.1f} | 3 |\n"
    )
    write_page("plan.md", text)
    print(text)


if __name__ == "__main__":
    main()
