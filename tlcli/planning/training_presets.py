"""TODO"""

from collections.abc import Mapping
from typing import Any

from tlcli.planning.training_config import TrainingConfig

# A name, the schedule with AdamW, and the learning rate that SGD with momentum takes instead.
TRAINING_PRESETS: Mapping[str, tuple[TrainingConfig, float]] = {
    "solve": (TrainingConfig("lbfgs"), 0.01),
    "head": (TrainingConfig(patience=8), 0.01),
    "part": (TrainingConfig(lr=1e-4, epochs=12, patience=5), 1e-3),
    # A head solved first fits the statistics that the weights came with, so those stay. The images
    # are cropped about as far as those were that the weights were trained on.
    "all": (
        TrainingConfig(
            lr=3e-4,
            epochs=8,
            patience=4,
            layer_decay=0.8,
            head_first=True,
            batchnorm="frozen",
            augment="flip,crop=0.15",
        ),
        5e-3,
    ),
    # Images of another kind may not be mirrored: many are of writing, or of something that has a
    # left and a right.
    "reinit": (
        TrainingConfig(
            lr=1e-3, epochs=15, patience=5, layer_decay=0.9, augment="crop=0.7,rotate=10"
        ),
        1e-2,
    ),
    "scratch": (TrainingConfig(lr=1e-3, epochs=30, patience=10), 1e-2),
}


FEW: Mapping[str, Any] = {"batch_size": 16}
"""For fewer than 500 images: an epoch should hold some tens of steps."""


# From so many training images on (the last that applies), what differs from the above: each pass
# over many images takes more steps, so fewer passes come to as much training.
SIZES: Mapping[str, tuple[tuple[int, Mapping[str, Any]], ...]] = {
    "solve": (),
    "head": ((0, FEW), (500, {}), (50_000, {"epochs": 10, "patience": 3, "batch_size": 128})),
    "part": ((0, FEW), (500, {}), (20_000, {"epochs": 8}), (100_000, {"epochs": 5})),
    "all": ((0, FEW), (500, {}), (20_000, {"epochs": 6}), (100_000, {"epochs": 4})),
    "reinit": ((0, FEW), (500, {}), (20_000, {"epochs": 12}), (100_000, {"epochs": 8})),
    "scratch": ((0, FEW), (500, {}), (200_000, {"epochs": 20})),
}


WARMUPS: Mapping[str, float] = {"one-cycle": 0.3, "constant": 0.0}
"""Share of all epochs in which the rate rises; the others have `TrainingConfig.warmup`."""
