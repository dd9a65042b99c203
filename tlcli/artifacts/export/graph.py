"""The graph that exports hold: from uint8 pixels to probabilities, the preprocessing inside.

Resizing is written out as Pillow's own arithmetic, two products with matrices of filter weights,
because the resizing operators of torch and of ONNX each differ from Pillow and from one another.
"""

import torch
from torch import Tensor, nn

from tlcli.data.preprocessing import MAX_ASPECT_RATIO, Preprocessing


class Graph(nn.Module):
    """uint8 [n, h, w, 3], red, green, blue, to probabilities float32 [n, classes].

    A temperature is in the final layer's tensors already. With `resizing`, h and w are any size
    and the images are resized and cut; without, they are the network's own size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: nn.Module, pre: Preprocessing, *, resizing: bool) -> None:
        super().__init__()
        self.stages = stages
        self.pre = pre
        self.resizing = resizing
        self.register_buffer("mean", torch.tensor(pre.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(pre.std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)
        if self.resizing:
            pixels = fitted(pixels, self.pre)
        logits = self.stages((pixels / 255 - self.mean) / self.std)
        probabilities: Tensor = logits.softmax(1)
        return probabilities


def fitted(pixels: Tensor, pre: Preprocessing) -> Tensor:
    """What `Preprocessing.to_pixels` does, as tensor arithmetic of any height and width.

    Args:
        pixels: float32 [n, 3, h, w], whole numbers from 0 to 255.

    Returns:
        float32 [n, 3, crop, crop], whole numbers from 0 to 255.
    """
    height, width = pixels.shape[2:]
    across = _weights(width, height, pre)
    down = _weights(height, width, pre)
    # Pillow goes across first, and rounds in between
    return _whole(down @ _whole(pixels @ across.T))


def _whole(values: Tensor) -> Tensor:
    """As uint8 has them, halves rounded up."""
    return (values + 0.5).floor().clamp(0, 255)


def _weights(length: int, other: int, pre: Preprocessing) -> Tensor:
    """Resizing and cutting along one side of an image, as a matrix float32 [crop, length]."""
    # tensors, not numbers: a traced graph then asks nothing of the image's size
    full, side = (torch.scalar_tensor(n, dtype=torch.int64) for n in (length, other))
    shorter = torch.minimum(full, side)
    start = (full - MAX_ASPECT_RATIO * shorter).clamp(min=0) // 2
    old = full - 2 * start
    new = pre.resize * old // shorter
    first = ((new - pre.crop) / 2).round().to(torch.int64)  # halves to even, as Python does
    to = (torch.arange(pre.crop) + first)[:, None]
    at = torch.arange(length)[None] - start
    # the distance from centre to centre, in whole numbers as long as it can be
    distance = (2 * at + 1) * new - (2 * to + 1) * old
    weights = _FILTERS[pre.interpolation](distance.abs() / (2 * torch.maximum(old, new)))
    weights = weights * ((at >= 0) & (at < old))
    return weights / weights.sum(1, keepdim=True)


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    """Keys (1981) with a = -0.5, as Pillow has it."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}
