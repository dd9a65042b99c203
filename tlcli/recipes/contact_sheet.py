"""What training images look like under an augmentation: to be looked at before training."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tlcli.artifacts.atomic import write_atomic
from tlcli.artifacts.image_grid import GridRow, draw_grid
from tlcli.backbones import catalogue
from tlcli.backbones.weights import native_preprocessing
from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.mixup import Mixing, make_mixing, mix_batch
from tlcli.data.augmentation.pca_color import fit_augmentation
from tlcli.data.augmentation.presets import DEFAULT_PRESET, parse_augment
from tlcli.data.dataset import Dataset, Sample, scan
from tlcli.data.decode import Unreadable, decode
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter
from tlcli.text import printable

IMAGES = 6
"""Rows of a sheet, at most; as many of each class."""
VIEWS = 6
"""Augmented views a row."""


def contact_sheet(
    data: str | Path,
    output: str | Path = "augmented.png",
    *,
    augment: str = DEFAULT_PRESET,
    model: str = catalogue.DEFAULT_MODEL,
    views: int = VIEWS,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Path:
    """Write a PNG of some training images, each plain and in augmented views.

    The views are drawn as training draws them for the same `seed`, at the backbone's resolution.
    Where images are mixed, a last row shows some with the shares of their classes.

    Args:
        data, augment, model, seed: as for `tlcli.finetune`.

    Returns:
        `output`.

    Raises:
        UserError: the data cannot be used, or `output` is there already.
    """
    output, transforms = Path(output), parse_augment(augment)
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: the sheet is a PNG", "end the name in .png")
    if output.exists() or output.is_symlink():
        raise UserError(
            f"{output} is there already, and it is not overwritten",
            "name another file with --output, or remove this one first",
        )
    pre = native_preprocessing(catalogue.find_entry(model))
    dataset = scan(Path(data), seed=seed, reporter=reporter or Reporter())
    augmentation, mixing = fit_augmentation(transforms, dataset.train), make_mixing(transforms)
    rows: list[GridRow] = []
    images: list[Tensor] = []
    labels: list[int] = []
    for sample, image in _chosen(dataset, pre.min_side):
        pictures = [pre.resize_and_crop(image)]
        for view in range(1, views + 1):
            rng = random.Random(f"{seed}:{sample.digest}:{view}")
            seen = (
                augment_image(image, pre, augmentation, rng)
                if augmentation
                else pre.to_pixels(image)
            )
            pictures.append(picture(seen))
            images.append(seen)
            labels.append(sample.label)
        rows.append(GridRow(dataset.classes[sample.label], pictures))
    if mixing:
        batch = torch.stack(images), torch.tensor(labels)
        rows.append(mixed_row(*batch, dataset.classes, mixing, seed, views + 1))
    told = ", ".join(f"{name} {value:g}" for name, value in transforms.items())
    sheet = draw_grid(
        f"{augment}: {told or 'nothing'}; the image as it is, then {views} views", rows
    )
    write_atomic(output, lambda beside: sheet.save(beside, "PNG"))
    return output


def _chosen(dataset: Dataset, least: int) -> Iterator[tuple[Sample, Image.Image]]:
    """Readable training images, as many of each class as fit: those of the lowest hashes."""
    wanted = max(1, IMAGES // len(dataset.classes)) * min(IMAGES, len(dataset.classes))
    ranked: dict[int, list[Sample]] = {}
    for sample in sorted(dataset.train, key=lambda s: s.digest):
        ranked.setdefault(sample.label, []).append(sample)
    order = [rest[turn] for turn in range(IMAGES) for _, rest in sorted(ranked.items())
             if turn < len(rest)]  # fmt: skip
    found = []
    for sample in order:
        try:
            found.append((sample, decode(sample.path, least)))
        except Unreadable:
            continue
        if len(found) == wanted:
            break
    if not found:
        raise UserError(f"{printable(dataset.root)}: none of the training images can be read")
    yield from sorted(found, key=lambda pair: pair[0].label)


def picture(pixels: Tensor) -> Image.Image:
    """uint8 [3, h, w] as a Pillow image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def mixed_row(
    images: Tensor, labels: Tensor, classes: Sequence[str], mixing: Mixing, seed: int, n: int
) -> GridRow:
    """One image of each of `n` batches, as each batch draws its own share."""
    pictures, captions = [], []
    for turn in range(n):
        mixed, shares = mix_batch(
            images, labels, len(classes), mixing, random.Random(f"{seed}:{turn}")
        )
        chosen = turn * len(images) // n
        pictures.append(picture(mixed[chosen]))
        named = zip(shares[chosen].tolist(), classes, strict=True)
        most = sorted((pair for pair in named if pair[0] > 0.005), reverse=True)
        captions.append([f"{share:.0%} {name}" for share, name in most])
    return GridRow("mixed", pictures, captions)
