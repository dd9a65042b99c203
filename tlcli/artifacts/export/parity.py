"""Does an export answer as the bundle does? Asked of the written file, on pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from tlcli.artifacts.export.formats import IMAGE, PIXELS, Runner, Subject
from tlcli.data.preprocessing import to_tensor
from tlcli.errors import UserError

LIMITS = {PIXELS: 1e-3, IMAGE: 0.02}
"""Largest difference of a probability that passes. Resizing can round a pixel the other way."""
PICTURES = 4
"""How many are looked at: one alone, then three at once."""


@dataclass(frozen=True)
class Parity:
    """What the comparison came to: the largest difference of a probability, answers the same."""

    difference: float
    same: int
    n: int


def compare(subject: Subject, runner: Runner, batches: Sequence[Tensor]) -> Parity:
    """Run an export and the bundle's own network on the same batches, uint8 [n, h, w, 3]."""
    with torch.no_grad():
        theirs = torch.cat([runner(batch) for batch in batches])
        ours = torch.cat([reference(subject, batch) for batch in batches])
    # torch's max, not Python's, which can lose a NaN
    difference = (theirs - ours).abs().max().item()
    return Parity(difference, int((theirs.argmax(1) == ours.argmax(1)).sum()), len(ours))


def check(subject: Subject, runner: Runner, pictures: Sequence[Image.Image]) -> Parity:
    """`compare` on the `batches` of `pictures`.

    Raises:
        UserError: the difference is past the limit.
    """
    parity = compare(subject, runner, batches(subject, pictures))
    limit = LIMITS[subject.input]
    if not parity.difference <= limit:
        raise UserError(
            f"the export does not answer as the bundle does: probabilities differ by up to "
            f"{parity.difference:.2g} (limit {limit:g}), so it was not kept",
            "try another format, or other versions of torch and onnxruntime",
        )
    return parity


def batches(subject: Subject, pictures: Sequence[Image.Image]) -> list[Tensor]:
    """`PICTURES` RGB pictures as the inputs of an export: one, and three together.

    For the any-size input also each as it is, a piece of the first, and three cut to one size.
    """
    if subject.input == PIXELS:
        fitted = [subject.meta.preprocessing.to_pixels(picture) for picture in pictures]
        pixels = torch.stack(fitted).permute(0, 2, 3, 1).contiguous()
        return [pixels[:1], pixels[1:]]
    width, height = (min(sides) for sides in zip(*(p.size for p in pictures), strict=True))
    first = pictures[0]
    piece = first.crop((0, 0, max(1, first.width * 2 // 3), first.height))
    alone = [_batch([picture]) for picture in (*pictures, piece)]
    return [*alone, _batch([p.crop((0, 0, width, height)) for p in pictures[1:]])]


def reference(subject: Subject, batch: Tensor) -> Tensor:
    """What the bundle itself says in fp32: Pillow's resizing, then the plain network."""
    pre = subject.meta.preprocessing
    pixels = batch.permute(0, 3, 1, 2)
    if subject.input == IMAGE:
        pixels = torch.stack([pre.to_pixels(Image.fromarray(image.numpy())) for image in batch])
    logits: Tensor = subject.network.model.eval()(pre.normalize(pixels))
    return logits.softmax(1)


def _batch(pictures: Sequence[Image.Image]) -> Tensor:
    return torch.stack([to_tensor(p).permute(1, 2, 0) for p in pictures]).contiguous()
