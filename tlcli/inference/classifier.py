"""A trained network, or several, as a function from images to answers."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
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
from tlcli.data.stream import Group, Job, stream_groups
from tlcli.data.tta import count
from tlcli.errors import UsageError, UserError
from tlcli.features.extractor import FeatureExtractor
from tlcli.inference.prediction import UNKNOWN, Prediction
from tlcli.metrics.ood import OodDetector
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute

DAMAGED = "the model's answer is no number; is it damaged?"


@dataclass(frozen=True)
class Member:
    """One network of a classifier.

    Attributes:
        source: the bundle's path or the backbone's name.
        body: float32 [n, 3, h, w], normalised, to codes [n, ...].
        head: codes to logits [n, classes].
        novelty: measures how unlike the training images codes are, if the bundle has it.
        temperature: what the bundle's logits were divided by; 1 where they were not calibrated.
        order: for each class of the classifier its place among this network's outputs.
        agreement: how many of the val answers were the same in other numbers as in fp32
            ("numbers", "n", "same"), as the bundle has it.
    """

    source: str
    body: nn.Sequential
    head: nn.Module
    preprocessing: Preprocessing
    novelty: OodDetector | None
    temperature: float
    order: tuple[int, ...]
    agreement: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PredictionBatch:
    """What the networks say of some images.

    Attributes:
        paths: of the n images; None for one that came without.
        probabilities: float32 [n, classes], on the CPU; of an unreadable image meaningless.
        ood: float32 [n], or None; see `Prediction`.
        problems: for each image None, or why there is no answer.
    """

    paths: list[str | None]
    probabilities: Tensor
    ood: Tensor | None
    problems: list[str | None]


@dataclass(frozen=True)
class Classifier:
    """A loaded bundle, a backbone with ImageNet's own classes, or several as an ensemble.

    Attributes:
        source: the member's; of several, joined by " + ".
        classes: the names, in the order of the probabilities.
        members: the networks; their probabilities are averaged.
        tta: which views of each image they see, whose probabilities are averaged too; a key of
            `tlcli.data.tta.VIEWS`.
    """

    source: str
    classes: tuple[str, ...]
    members: tuple[Member, ...]
    compute: Compute
    reporter: Reporter
    tta: str = "none"

    @property
    def has_ood(self) -> bool:
        """Whether answers say how unlike the training images an image is."""
        return all(member.novelty is not None for member in self.members)

    @property
    def temperature(self) -> float:
        """What the logits were divided by; of several networks 1, as they are averaged."""
        return self.members[0].temperature if len(self.members) == 1 else 1.0

    def predict(
        self, images: Any, *, top: int = 1, threshold: float = 0.0, reject: bool = False
    ) -> list[Prediction]:
        """Answers in the order of `images`.

        Args:
            images: paths, PIL images, encoded bytes, or uint8 arrays [h, w], [h, w, 3] or
                [h, w, 4]; a single one may stand for itself.
            top: how many of the likeliest classes each answer lists.
            threshold: the label is "unknown" where the probability is below it.
            reject: the label is "unknown" where `ood` is above 1.

        An image that cannot be read gives an answer with an error and no label.

        Raises:
            UsageError: an argument is out of range, or the model has no measure to reject by.
            UserError: an array is no image.
        """
        single = isinstance(images, str | Path | bytes | Image.Image) or hasattr(images, "shape")
        some = [images] if single else images
        return list(self.stream(some, top=top, threshold=threshold, reject=reject))

    def stream(
        self,
        images: Iterable[Any],
        *,
        top: int = 1,
        threshold: float = 0.0,
        reject: bool = False,
    ) -> Iterator[Prediction]:
        """The same as `predict`, one answer after the other, in constant memory.

        Where `images` waits for its next one, those that have come are answered.
        """
        if top < 1:
            raise UsageError(f"top is {top}", "it must be 1 or more")
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold}", "it is a probability, from 0 to 1")
        if reject and not self.has_ood:
            raise UsageError(
                f"{self.source} holds no measure of how unlike its training images an image is, "
                "so there is nothing to reject by",
                "bundles have one where there were enough images: see docs/predict.md",
            )
        return self._answers(images, min(top, len(self.classes)), threshold, reject)

    def _answers(
        self, images: Iterable[Any], top: int, threshold: float, reject: bool
    ) -> Iterator[Prediction]:
        for batch in self.batches(images):
            best = batch.probabilities.topk(top, dim=1)
            far = [None] * len(batch.paths) if batch.ood is None else batch.ood.tolist()
            for path, problem, values, indices, ood in zip(
                batch.paths, batch.problems, best.values.tolist(), best.indices.tolist(), far,
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
        """What the networks say, a batch at a time, in the order of `images`."""
        several = list(dict.fromkeys(member.preprocessing for member in self.members))
        # several views an image, not more pixels at once
        size = max(1, self.compute.batch_size // count(self.tta))
        groups = stream_groups(map(_job, images), several, batch=size, tta=self.tta)
        first = next(groups, None)
        if first is None:
            return
        # One batch is answered, by all cores together, before folding BatchNorm would be done.
        forwards = [self._forward(member, fold=not first.last) for member in self.members]
        if first.last or self.compute.workers == 1:
            yield from (self._batch(group, forwards, several) for group in chain([first], groups))
            return
        share = partial(torch.set_num_threads, self.compute.threads)
        pool = ThreadPoolExecutor(self.compute.workers, "tlcli", share)
        pending: deque[Future[PredictionBatch]] = deque()
        try:
            for group in chain([first], groups):
                pending.append(pool.submit(self._batch, group, forwards, several))
                # Nobody waits for images that are still to come.
                while len(pending) > (self.compute.workers if group.more else 0):
                    yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _forward(self, member: Member, fold: bool) -> FeatureExtractor:
        member.head.eval().to(self.compute.device)
        return FeatureExtractor(
            member.body, member.preprocessing, self.compute, self.reporter, fold=fold
        )

    @torch.inference_mode()
    def _batch(
        self, group: Group, forwards: list[FeatureExtractor], several: list[Preprocessing]
    ) -> PredictionBatch:
        n = len(group.names)
        total = torch.zeros(n, len(self.classes))
        far: list[Tensor] = []
        for member, forward in zip(self.members, forwards, strict=True):
            pixels = group.pixels[several.index(member.preprocessing)]
            codes = forward(pixels.flatten(0, 1))
            with self.compute.autocast():
                logits = member.head(codes)
            views = logits.float().softmax(1).cpu().unflatten(0, pixels.shape[:2])
            total += views.mean(1)[:n, list(member.order)]
            if member.novelty is not None:
                # what is usual was learnt on plain views, which come first
                plain = codes[:: pixels.shape[1]][:n]
                far.append(member.novelty.score(plain.float().cpu()))
        probabilities = total / len(self.members)
        finite = probabilities.isfinite().all(1).tolist()
        problems = [_why(p, good) for p, good in zip(group.problems, finite, strict=True)]
        ood = torch.stack(far).mean(0) if self.has_ood else None
        return PredictionBatch(group.names, probabilities, ood, problems)


def _why(problem: Unreadable | None, finite: bool) -> str | None:
    if problem is not None:
        return problem.why
    return None if finite else DAMAGED


def _job(image: Any) -> Job:
    """An image with its name, as `stream_groups` takes them."""
    name = str(image) if isinstance(image, str | Path) else None
    return name, _source(image)


def _source(image: Any) -> ImageSource:
    if isinstance(image, str):
        return Path(image)
    if not hasattr(image, "shape") or isinstance(image, Image.Image):
        return image
    shape = tuple(image.shape)
    flat = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if not flat or 0 in shape or not str(image.dtype).endswith("uint8"):
        raise UserError(
            f"an array of shape {shape} and type {image.dtype} is no image",
            "give uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    import numpy

    return Image.fromarray(numpy.asarray(image))
