"""Training configurations to start from, by what a plan trains and by the number of images."""

from collections.abc import Mapping
from typing import Any

from tlcli.planning.training_config import TrainingConfig

TRAINING_PRESETS: Mapping[str, TrainingConfig] = {
    "solve": TrainingConfig("lbfgs"),
    "head": TrainingConfig(patience=8),
    "part": TrainingConfig(lr=1e-4, epochs=12, patience=5),
    # A solved head fits the statistics that the weights came with, so those stay frozen. The images
    # are cropped about as far as the images that the weights were trained on.
    "all": TrainingConfig(
        lr=3e-4,
        epochs=8,
        patience=4,
        layer_decay=0.8,
        head_first=True,
        batchnorm="frozen",
        augment="flip,crop=0.15",
    ),
    # Images of another kind may not be mirrored: many show writing, or something that has a left
    # and a right.
    "reinit": TrainingConfig(
        lr=1e-3, epochs=15, patience=5, layer_decay=0.9, augment="crop=0.7,rotate=10"
    ),
    "scratch": TrainingConfig(lr=1e-3, epochs=30, patience=10),
}
"""The configuration with the optimizer that each preset prefers."""

_FEW_IMAGES: Mapping[str, Any] = {"batch_size": 16}
"""Changes for fewer than 500 images, so that an epoch has some tens of steps."""

SIZE_ADJUSTMENTS: Mapping[str, tuple[tuple[int, Mapping[str, Any]], ...]] = {
    "solve": (),
    "head": (
        (0, _FEW_IMAGES),
        (500, {}),
        (50_000, {"epochs": 10, "patience": 3, "batch_size": 128}),
    ),
    "part": ((0, _FEW_IMAGES), (500, {}), (20_000, {"epochs": 8}), (100_000, {"epochs": 5})),
    "all": ((0, _FEW_IMAGES), (500, {}), (20_000, {"epochs": 6}), (100_000, {"epochs": 4})),
    "reinit": ((0, _FEW_IMAGES), (500, {}), (20_000, {"epochs": 12}), (100_000, {"epochs": 8})),
    "scratch": ((0, _FEW_IMAGES), (500, {}), (200_000, {"epochs": 20})),
}
"""Changes to each preset from a number of training images on; the last that applies counts.

An epoch over many images takes more steps, so fewer epochs come to as much training.
"""
