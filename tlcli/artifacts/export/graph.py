"""The graph that exports hold: from uint8 pixels to probabilities, the preprocessing inside.

Resizing is written out as Pillow's own arithmetic, two products with matrices of filter weights,
because the resizing operators of torch and of ONNX each differ from Pillow and from one another.
"""

import torch
from torch import Tensor, nn

from tlcli.data.preprocessing import MAX_ASPECT_RATIO, Preprocessing


class ExportGraph(nn.Module):
    """uint8 [n, h, w, 3], red, green, blue, to probabilities float32 [n, classes].

    A temperature is in the final layer's tensors already. With `resizing`, h and w are any size
    and the images are resized and cropped; without, they are the network's own size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, pre: Preprocessing, *, resizing: bool) -> None:
        super().__init__()
        self.model = model
        self.pre = pre
        self.resizing = resizing
        self.register_buffer("mean", torch.tensor(pre.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(pre.std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)
        if self.resizing:
            pixels = resize_and_crop(pixels, self.pre)
        logits = self.model((pixels / 255 - self.mean) / self.std)
        probabilities: Tensor = logits.softmax(1)
        return probabilities


def resize_and_crop(pixels: Tensor, pre: Preprocessing) -> Tensor:
    """Compute `Preprocessing.to_pixels` as tensor arithmetic, for any height and width.

    Args:
        pixels: float32 [n, 3, h, w], whole numbers from 0 to 255.

    Returns:
        float32 [n, 3, crop, crop], whole numbers from 0 to 255.
    """
    height, width = pixels.shape[2:]
    across = _resize_weights(width, height, pre)
    down = _resize_weights(height, width, pre)
    # Pillow goes across first, and rounds in between.
    return _round_to_uint8(down @ _round_to_uint8(pixels @ across.T))


def _round_to_uint8(values: Tensor) -> Tensor:
    """Round to the numbers that uint8 holds, halves up."""
    return (values + 0.5).floor().clamp(0, 255)


def _resize_weights(length: int, other: int, pre: Preprocessing) -> Tensor:
    """Make the matrix that resizes and crops along one side of an image.

    Args:
        length: the side, in pixels.
        other: the other side.

    Returns:
        float32 [crop, length].
    """
    # Tensors, not numbers, so that a traced graph does not depend on the image's size.
    full, side = (torch.scalar_tensor(n, dtype=torch.int64) for n in (length, other))
    shorter = torch.minimum(full, side)
    start = (full - MAX_ASPECT_RATIO * shorter).clamp(min=0) // 2
    old = full - 2 * start
    new = pre.resize * old // shorter
    first = ((new - pre.crop) / 2).round().to(torch.int64)  # halves to even, as Python does
    to = (torch.arange(pre.crop) + first)[:, None]
    at = torch.arange(length)[None] - start
    # The distance from center to center, in whole numbers as long as possible.
    distance = (2 * at + 1) * new - (2 * to + 1) * old
    weights = _FILTERS[pre.interpolation](distance.abs() / (2 * torch.maximum(old, new)))
    weights = weights * ((at >= 0) & (at < old))
    return weights / weights.sum(1, keepdim=True)


def _bilinear(x: Tensor) -> Tensor:
    """Compute the triangle filter."""
    return (1 - x).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    """Compute the filter of Keys (1981) with a = -0.5, as Pillow does."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}
