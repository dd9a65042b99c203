"""The comparison of an export with its bundle: the written file is run on images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from tlcli.artifacts.export.inputs import IMAGE, PIXELS
from tlcli.artifacts.export.source import ExportSource
from tlcli.data.preprocessing import to_tensor
from tlcli.errors import UserError

MAX_DIFFERENCE = {PIXELS: 1e-3, IMAGE: 0.02}
"""Largest difference of a probability that passes. Resizing can round a pixel the other way."""
N_IMAGES = 4
"""Images that are compared: one alone, then the other three at once."""


@dataclass(frozen=True)
class Parity:
    """How close an export's predictions are to the bundle's.

    Attributes:
        difference: the largest difference of a probability.
        same: inputs with the same predicted class.
        n: inputs.
    """

    difference: float
    same: int
    n: int


def compare(
    source: ExportSource, run: Callable[[Tensor], Tensor], batches: Sequence[Tensor]
) -> Parity:
    """Run an export and the bundle's own network on the same batches, uint8 [n, h, w, 3]."""
    with torch.no_grad():
        exported = torch.cat([run(batch) for batch in batches])
        expected = torch.cat([reference_probabilities(source, batch) for batch in batches])
    # torch's max, because Python's can lose a NaN.
    difference = (exported - expected).abs().max().item()
    same = int((exported.argmax(1) == expected.argmax(1)).sum())
    return Parity(difference, same, len(expected))


def check_parity(
    source: ExportSource, run: Callable[[Tensor], Tensor], images: Sequence[Image.Image]
) -> Parity:
    """Compare an export with the bundle on `N_IMAGES` RGB images.

    Raises:
        UserError: the difference is above the limit.
    """
    parity = compare(source, run, parity_batches(source, images))
    limit = MAX_DIFFERENCE[source.input]
    if not parity.difference <= limit:
        raise UserError(
            f"the export does not predict as the bundle does: probabilities differ by up to "
            f"{parity.difference:.2g} (limit {limit:g}), so it was not kept",
            "try another format, or other versions of torch and onnxruntime",
        )
    return parity


def parity_batches(source: ExportSource, images: Sequence[Image.Image]) -> list[Tensor]:
    """Make the inputs that are compared from `N_IMAGES` RGB images: one, and three together.

    Where the input may have any size, also each image as it is, a part of the first, and the
    other three cropped to one size.
    """
    if source.input == PIXELS:
        fitted = [source.meta.preprocessing.to_pixels(image) for image in images]
        pixels = torch.stack(fitted).permute(0, 2, 3, 1).contiguous()
        return [pixels[:1], pixels[1:]]
    width, height = (min(sides) for sides in zip(*(i.size for i in images), strict=True))
    first = images[0]
    part = first.crop((0, 0, max(1, first.width * 2 // 3), first.height))
    alone = [_batch([image]) for image in (*images, part)]
    return [*alone, _batch([image.crop((0, 0, width, height)) for image in images[1:]])]


def reference_probabilities(source: ExportSource, batch: Tensor) -> Tensor:
    """Compute the bundle's own probabilities in fp32, with Pillow's resizing."""
    pre = source.meta.preprocessing
    pixels = batch.permute(0, 3, 1, 2)
    if source.input == IMAGE:
        pixels = torch.stack([pre.to_pixels(Image.fromarray(image.numpy())) for image in batch])
    logits: Tensor = source.network.model.eval()(pre.normalize(pixels))
    return logits.softmax(1)


def _batch(images: Sequence[Image.Image]) -> Tensor:
    """Stack images of one size to uint8 [n, h, w, 3]."""
    return torch.stack([to_tensor(image).permute(1, 2, 0) for image in images]).contiguous()
