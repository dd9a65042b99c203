"""Train fastai on a folder of images, for comparison.

`PYTHON tests/bench/fastai_contender.py DIR --weights FILE`, with the Python of an environment of
its own that has torch, torchvision and fastai: nothing of tlcli is imported. A `vision_learner` on
torchvision's mobilenet_v2 with the weights of FILE, and with fastai's own head, loaders, batch
size, learning rates and schedules; random resized crops and `aug_transforms` as in its tutorials.
`--mode frozen` trains the head by one-cycle epochs; `--mode fine_tune` is fastai's `fine_tune`: one
frozen epoch, then `--epochs` of full training. Predictions are those of the last epoch. `--test
PART` adds the predictions for the images of DIR/PART, by file name. Prints JSON on stdout.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import fastai  # noqa: E402
import torch  # noqa: E402
from fastai.vision.all import (  # noqa: E402
    ImageDataLoaders,
    RandomResizedCrop,
    accuracy,
    aug_transforms,
    default_split,
    get_image_files,
    imagenet_stats,
    vision_learner,
)
from fastai.vision.learner import model_meta  # noqa: E402
from torchvision.models import mobilenet_v2  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--mode", choices=("frozen", "fine_tune"), default="frozen")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--test", help="a third part, whose predictions are printed")
    options = parser.parse_args()

    def arch(pretrained: bool = True) -> torch.nn.Module:
        model = mobilenet_v2()
        if pretrained:
            model.load_state_dict(torch.load(options.weights, weights_only=True))
        return model

    # fastai knows the cut and the pixel statistics only of the networks in this table
    model_meta[arch] = {"cut": -1, "split": default_split, "stats": imagenet_stats}
    torch.manual_seed(0)
    loaders = ImageDataLoaders.from_folder(
        options.data,
        train="train",
        valid="val",
        seed=0,
        item_tfms=RandomResizedCrop(224, min_scale=0.5),
        batch_tfms=aug_transforms(),
    )
    learner = vision_learner(loaders, arch, metrics=accuracy)
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        if options.mode == "frozen":
            learner.fit_one_cycle(options.epochs)
        else:
            learner.fine_tune(options.epochs)
    fit_s = time.perf_counter() - started
    n = len(loaders.valid_ds)
    # the recorder remembers only the second of fine_tune's two fits
    found = {
        "fit_s": round(fit_s, 2),
        "epochs": [round(row[-1] * n) for row in learner.recorder.values],
        "right": round(learner.recorder.values[-1][-1] * n),
        "n": n,
        "fastai": fastai.__version__,
        "torch": torch.__version__,
    }
    if options.test:
        paths = sorted(get_image_files(options.data / options.test))
        with learner.no_bar():
            probabilities, _ = learner.get_preds(dl=loaders.test_dl(paths))
        names = [loaders.vocab[i] for i in probabilities.argmax(1).tolist()]
        found["predictions"] = {path.name: name for path, name in zip(paths, names, strict=True)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
