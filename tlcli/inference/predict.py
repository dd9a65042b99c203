"""A trained network as a function from images to answers."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tlcli.artifacts import bundle, run
from tlcli.backbones import build, catalogue
from tlcli.data.decode import Source
from tlcli.data.load import load_batches
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UsageError, UserError, did_you_mean
from tlcli.events import Reporter
from tlcli.transfer import device
from tlcli.transfer.features import FrozenForward
from tlcli.transfer.network import Network, build_network

FOLD_FROM = 64
"""From so many images on, folding BatchNorm pays for itself."""


@dataclass(frozen=True)
class Answer:
    """What the network says of one image.

    Attributes:
        path: as it was given; None for an image that came without one.
        label: the likeliest class; None where the image cannot be read.
        probability: of that class, in [0, 1].
        error: why there is no answer.
        top: the likeliest classes with their probabilities, best first.
    """

    path: str | None
    label: str | None
    probability: float | None
    error: str | None
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Classifier:
    """A loaded bundle, or a backbone with ImageNet's own classes.

    Attributes:
        source: the bundle's path or the backbone's name.
        classes: the names, in the order of the outputs.
        stages: float32 [n, 3, h, w], normalised, to logits [n, classes].
    """

    source: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    stages: nn.Sequential
    compute: device.Compute
    reporter: Reporter

    def predict(self, images: Any, *, top: int = 1) -> list[Answer]:
        """Answers in the order of `images`: paths, PIL images or uint8 arrays [h, w(, 3)].

        A single image may stand for itself. An image that cannot be read gives an answer with
        an error and no label.
        """
        single = isinstance(images, str | Path | Image.Image) or hasattr(images, "shape")
        return list(self.stream([images] if single else images, top=top))

    def stream(self, images: Iterable[Any], *, top: int = 1) -> Iterator[Answer]:
        """The same as `predict`, one answer after the other, in constant memory."""
        if top < 1:
            raise UsageError(f"top is {top}", "it must be 1 or more")
        rest = iter(images)
        first = list(itertools.islice(rest, FOLD_FROM))
        if not first:
            return
        fold = len(first) == FOLD_FROM
        forward = FrozenForward(
            self.stages, self.preprocessing, self.compute, self.reporter, fold=fold
        )
        # The decoders run ahead of the network; the names wait here for their answers.
        waiting: deque[str | None] = deque()

        def sources() -> Iterator[Source]:
            for image in itertools.chain(first, rest):
                waiting.append(str(image) if isinstance(image, str | Path) else None)
                yield _source(image)

        batch = min(self.compute.batch_size, len(first))
        for pixels, problems in load_batches(sources(), self.preprocessing, batch=batch):
            probabilities = forward(pixels)[: len(problems)].softmax(1).cpu()
            best = probabilities.topk(min(top, len(self.classes)), dim=1)
            for problem, values, indices in zip(problems, *best, strict=True):
                path = waiting.popleft()
                why = None if problem is None else problem.why
                if why is None and not values.isfinite().all():
                    why = "the model's answer is no number; is it damaged?"
                if why is not None:
                    yield Answer(path, None, None, why, ())
                    continue
                named = tuple(
                    (self.classes[i], p)
                    for i, p in zip(indices.tolist(), values.tolist(), strict=True)
                )
                yield Answer(path, *named[0], None, named)


def _source(image: Any) -> Source:
    """What `decode` takes."""
    if isinstance(image, str):
        return Path(image)
    if hasattr(image, "shape"):
        if 0 in image.shape:
            raise UserError(f"an array of shape {image.shape} is no image", "give [h, w, 3]")
        return Image.fromarray(image)
    return image


def load(
    model: str | Path | None = None,
    *,
    weights: str = "auto",
    device_name: str = "auto",
    reporter: Reporter | None = None,
) -> Classifier:
    """Open a bundle, a run folder, or a backbone with its ImageNet classes.

    Args:
        model: None takes the newest finished run below ./runs. A backbone's name is taken as
            such; write ./NAME for a folder that is called like one.
        weights: of a backbone: "auto", a file, or the name of one of torchvision's weights.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    reporter = reporter or Reporter()
    compute = device.choose(device_name, "fp32")
    if model is None:
        model = run.newest_run()
    if str(model) in catalogue.catalogue():
        return _load_backbone(str(model), weights, compute, reporter)
    if weights != "auto":
        raise UsageError(f"--weights is for a backbone's name, and {model} is a bundle")
    known = Path(model)
    if not known.exists() and len(known.parts) == 1 and not known.suffix:
        hint = did_you_mean(str(model), catalogue.catalogue())
        raise UsageError(
            f"--model {model}: neither a bundle, nor a run folder, nor a backbone's name",
            hint or "tlcli models lists the backbones",
        )
    path = run.find_bundle(model)
    network, meta = open_bundle(path)
    return Classifier(str(path), meta.classes, meta.preprocessing, network.whole, compute, reporter)


def _load_backbone(
    name: str, weights: str, compute: device.Compute, reporter: Reporter
) -> Classifier:
    backbone = build.load(name, weights, reporter)
    if backbone.categories is None:
        raise UserError(
            f"{name} has no pretrained classifier with these weights, so it has no classes yet",
            f"train one: tlcli finetune DIR --model {name}",
        )
    return Classifier(
        name,
        backbone.categories,
        backbone.preprocessing,
        nn.Sequential(*backbone.stages),
        compute,
        reporter,
    )


def open_bundle(path: Path) -> tuple[Network, bundle.BundleMeta]:
    """The network that a bundle holds, and its description.

    Raises:
        UserError: the bundle is damaged: its tensors are not those of its backbone.
    """
    meta = bundle.read_meta(path)
    tensors = bundle.read_tensors(path)
    n = len(meta.classes)
    backbone = build.build(meta.backbone, n_classes=n, resolution=meta.preprocessing.crop)
    backbone.preprocessing = meta.preprocessing
    if meta.cut != "none" and meta.cut not in [s.name for s in backbone.stages]:
        raise UserError(f"{path}: {meta.backbone} has no stage {meta.cut!r}", "train it anew")
    network = build_network(backbone, cut=meta.cut, dropped=meta.dropped, n_classes=n)
    _fill(network.tensors(), tensors, path)
    return network, meta


@torch.no_grad()
def _fill(into: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    def shapes(named: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
        return {k: (v.dtype, *v.shape) for k, v in named.items()}

    if shapes(into) != shapes(tensors):
        differing = dict(shapes(into).items() ^ shapes(tensors).items())
        first = ", ".join(sorted(differing)[:3])
        raise UserError(
            f"{path}: {len(differing)} tensors are not those of its backbone, such as {first}",
            "the file is damaged or was changed; train it anew",
        )
    for name, tensor in into.items():
        tensor.copy_(tensors[name])
