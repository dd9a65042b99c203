"""A classifier: one trained network, or an ensemble of several, as a function of images."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tlcli.data.decode import ImageSource, Unreadable
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.stream import NamedImage, StreamBatch, stream_batches
from tlcli.data.tta import count_views
from tlcli.errors import UsageError, UserError
from tlcli.features.extractor import FeatureExtractor
from tlcli.inference.prediction import UNKNOWN, Prediction, PredictionBatch
from tlcli.metrics.metrics import Agreement
from tlcli.metrics.ood import OodDetector
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute

NOT_FINITE = "the model's probabilities are not finite numbers; is the model file damaged?"


@dataclass(frozen=True)
class Member:
    """One network of a classifier.

    Attributes:
        source: the bundle's path or the backbone's name.
        classes: names in the order of the network's outputs.
        stages: all stages but the last, from float32 [n, 3, h, w], normalized, to features
            [n, ...].
        head: the last stage, from features to logits [n, classes].
        ood_detector: measures how unlike the training images features are; None where the bundle
            has none.
        temperature: the temperature that the bundle's final layer was divided by; 1 where it was
            not calibrated.
        agreement: how many validation predictions were the same in mixed precision as in fp32, as
            the bundle records it.
    """

    source: str
    classes: tuple[str, ...]
    stages: nn.Sequential
    head: nn.Module
    preprocessing: Preprocessing
    ood_detector: OodDetector | None = None
    temperature: float = 1.0
    agreement: Agreement | None = None


@dataclass(frozen=True)
class _Network:
    """A member made ready to compute.

    Attributes:
        extractor: the member's stages as one fast function.
        pixels_index: position of the member's preprocessing among those of all members.
        class_order: for each class of the classifier its position among the member's outputs.
    """

    member: Member
    extractor: FeatureExtractor
    pixels_index: int
    class_order: list[int]


@dataclass(frozen=True)
class Classifier:
    """A loaded bundle, a backbone with its ImageNet classes, or several as an ensemble.

    Attributes:
        source: the member's source; of an ensemble, all joined by " + ".
        classes: names in the order of the probabilities.
        members: the networks, whose probabilities are averaged.
        tta: the views of each image whose probabilities are averaged, a key of
            `tlcli.data.tta.TTA_VIEWS`.
    """

    source: str
    classes: tuple[str, ...]
    members: tuple[Member, ...]
    compute: Compute
    reporter: Reporter
    tta: str = "none"

    @property
    def has_ood(self) -> bool:
        """Whether predictions measure how unlike the training images an image is."""
        return all(member.ood_detector is not None for member in self.members)

    @property
    def temperature(self) -> float:
        """The temperature of a single network; 1 for an ensemble, which averages probabilities."""
        return self.members[0].temperature if len(self.members) == 1 else 1.0

    def predict(
        self, images: Any, *, top: int = 1, threshold: float = 0.0, reject: bool = False
    ) -> list[Prediction]:
        """Predict the class of each image, in the order of `images`.

        An image that cannot be read gets a prediction with an error and no label.

        Args:
            images: paths, PIL images, encoded bytes, or uint8 arrays [h, w], [h, w, 3] or
                [h, w, 4]; a single image needs no list.
            top: how many of the most probable classes each prediction lists.
            threshold: label images "unknown" whose probability is below it.
            reject: label images "unknown" whose `ood` is above 1.

        Raises:
            UsageError: an argument is out of range, or the model cannot measure `ood`.
            UserError: an array is not an image.
        """
        single = isinstance(images, str | Path | bytes | Image.Image) or hasattr(images, "shape")
        several = [images] if single else images
        return list(self.stream(several, top=top, threshold=threshold, reject=reject))

    def stream(
        self,
        images: Iterable[Any],
        *,
        top: int = 1,
        threshold: float = 0.0,
        reject: bool = False,
    ) -> Iterator[Prediction]:
        """Predict as `predict` does, but yield one prediction after the other, in constant memory.

        While `images` waits for its next one, those that have arrived are predicted.
        """
        if top < 1:
            raise UsageError(f"top is {top}", "it must be 1 or more")
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold}", "it is a probability, from 0 to 1")
        if reject and not self.has_ood:
            raise UsageError(
                f"{self.source} cannot measure how unlike its training images an image is, "
                "so it cannot reject any",
                "bundles trained on enough images can: see docs/predict.md",
            )
        return self._stream(images, min(top, len(self.classes)), threshold, reject)

    def _stream(
        self, images: Iterable[Any], top: int, threshold: float, reject: bool
    ) -> Iterator[Prediction]:
        """Yield predictions; a generator of its own, so that `stream` checks arguments at once."""
        for batch in self.batches(images):
            best = batch.probabilities.topk(top, dim=1)
            oods = [None] * len(batch.paths) if batch.ood is None else batch.ood.tolist()
            for path, problem, values, indices, ood in zip(
                batch.paths, batch.problems, best.values.tolist(), best.indices.tolist(), oods,
                strict=True,
            ):  # fmt: skip
                if problem is not None:
                    yield Prediction(path, None, None, problem, None, ())
                    continue
                named = tuple((self.classes[i], p) for i, p in zip(indices, values, strict=True))
                label, probability = named[0]
                if probability < threshold or (reject and ood > 1):
                    label = UNKNOWN
                yield Prediction(path, label, probability, None, ood, named)

    def batches(self, images: Iterable[Any]) -> Iterator[PredictionBatch]:
        """Yield probabilities batch by batch, in the order of `images`."""
        preprocessings = list(dict.fromkeys(member.preprocessing for member in self.members))
        # Several views per image must not mean more pixels at once.
        size = max(1, self.compute.batch_size // count_views(self.tta))
        groups = stream_batches(map(_named, images), preprocessings, batch_size=size, tta=self.tta)
        first = next(groups, None)
        if first is None:
            return
        # A single batch takes less time, on all cores together, than folding BatchNorm would.
        networks = [
            self._network(member, preprocessings, fold=not first.is_last) for member in self.members
        ]
        if first.is_last or self.compute.workers == 1:
            yield from (self._predict_group(group, networks) for group in chain([first], groups))
            return
        set_threads = partial(torch.set_num_threads, self.compute.threads)
        pool = ThreadPoolExecutor(self.compute.workers, "tlcli", set_threads)
        pending: deque[Future[PredictionBatch]] = deque()
        try:
            for group in chain([first], groups):
                pending.append(pool.submit(self._predict_group, group, networks))
                # Finished predictions must not wait for images that have not arrived yet.
                while len(pending) > (self.compute.workers if group.more_ready else 0):
                    yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _network(
        self, member: Member, preprocessings: Sequence[Preprocessing], fold: bool
    ) -> _Network:
        """Make a member ready; `fold` says whether making it fast is worth its time."""
        member.head.eval().to(self.compute.device)
        position = {name: i for i, name in enumerate(member.classes)}
        return _Network(
            member,
            FeatureExtractor(
                member.stages, member.preprocessing, self.compute, self.reporter, optimize=fold
            ),
            preprocessings.index(member.preprocessing),
            [position[name] for name in self.classes],
        )

    @torch.inference_mode()
    def _predict_group(self, group: StreamBatch, networks: Sequence[_Network]) -> PredictionBatch:
        """Average the probabilities of all networks and views for a group of decoded images."""
        n = len(group.names)
        total = torch.zeros(n, len(self.classes))
        oods: list[Tensor] = []
        for network in networks:
            pixels = group.pixels[network.pixels_index]
            features = network.extractor(pixels.flatten(0, 1))
            with self.compute.autocast():
                logits = network.member.head(features)
            views = logits.float().softmax(1).cpu().unflatten(0, pixels.shape[:2])
            total += views.mean(1)[:n, network.class_order]
            if network.member.ood_detector is not None:
                # The detector was fitted on plain views, which come first.
                plain = features[:: pixels.shape[1]][:n]
                oods.append(network.member.ood_detector.score(plain.float().cpu()))
        probabilities = total / len(networks)
        finite = probabilities.isfinite().all(1).tolist()
        problems = [_problem_text(p, good) for p, good in zip(group.problems, finite, strict=True)]
        ood = torch.stack(oods).mean(0) if self.has_ood else None
        return PredictionBatch(group.names, probabilities, ood, problems)


def _problem_text(problem: Unreadable | None, finite: bool) -> str | None:
    if problem is not None:
        return problem.reason
    return None if finite else NOT_FINITE


def _named(image: Any) -> NamedImage:
    """Return the image with its name, as `stream_batches` takes them."""
    name = str(image) if isinstance(image, str | Path) else None
    return name, _image_source(image)


def _image_source(image: Any) -> ImageSource:
    if isinstance(image, str):
        return Path(image)
    if not hasattr(image, "shape") or isinstance(image, Image.Image):
        return image
    shape = tuple(image.shape)
    image_like = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if not image_like or 0 in shape or not str(image.dtype).endswith("uint8"):
        raise UserError(
            f"an array of shape {shape} and type {image.dtype} is not an image",
            "give uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    import numpy

    return Image.fromarray(numpy.asarray(image))
