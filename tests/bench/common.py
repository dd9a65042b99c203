"""The data, the weights and the small measuring tools that several benchmarks share."""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn

from tests.paths import ROOT, WEIGHTS
from tlcli.backbones import build
from tlcli.backbones.backbone import Backbone
from tlcli.features.extractor import FeatureExtractor
from tlcli.runtime.device import Compute

MEASURED = ROOT / "docs" / "measured"
MOBILENET = WEIGHTS / "mobilenet_v2-tf-imagenet.pth"
SETS = ("caltech", "eurosat", "digits", "flowers")

# The weight file of each backbone; None where the package brings its own.
WEIGHT_FILES = {
    "squeezenet1_1": WEIGHTS / "squeezenet1_1-caffe-imagenet.pth",
    "mobilenet_v2": MOBILENET,
    "efficientnet_lite0": None,
    "vgg16": WEIGHTS / "vgg16_features-keras-imagenet.pth",
}

# VGG16's file has no classifier, and its forward pass is slow.
WITH_CLASSIFIER = ("squeezenet1_1", "mobilenet_v2", "efficientnet_lite0")


def weights_option(backbone: str) -> str:
    """Return what `--weights` takes for a backbone."""
    return str(WEIGHT_FILES[backbone] or "auto")


def load_pretrained(name: str) -> Backbone:
    """Load a backbone with its weights from `WEIGHT_FILES`."""
    return build.load_backbone(name, weights_option(name))


def make_extractor(backbone: Backbone, compute: Compute) -> FeatureExtractor:
    """Build the frozen forward pass up to the features of the last stage."""
    stages = nn.Sequential(*backbone.stages[:-1])
    return FeatureExtractor(stages, backbone.preprocessing, compute)


def seconds_of(job: Callable[[], object]) -> float:
    """Run `job` and return the seconds that it took."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def environment() -> str:
    """Describe the machine and the versions for a page's first paragraph."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__})"
    )


def make_parser(doc: str | None, only: str = "") -> argparse.ArgumentParser:
    """Build a parser that shows the module's docstring; `only`: help text of `--only WORD`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if only:
        parser.add_argument("--only", metavar="WORD", default="", help=only)
    return parser


def write_page(name: str, text: str) -> Path:
    """Write a page of docs/measured and return its path."""
    path = MEASURED / name
    path.write_text(text.rstrip("\n") + "\n")
    return path
