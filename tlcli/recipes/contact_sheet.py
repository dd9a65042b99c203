"""A contact sheet: some training images under an augmentation, to look at before training."""

import random
from collections import defaultdict
from collections.abc import Sequence
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

MAX_ROWS = 6
"""Images on a sheet, the same number of each class."""
N_VIEWS = 6
"""Augmented views per image."""
MIN_SHOWN_SHARE = 0.005
"""Smallest share of a class that the caption of a mixed image shows."""


def contact_sheet(
    data: str | Path,
    output: str | Path = "augmented.png",
    *,
    augment: str = DEFAULT_PRESET,
    model: str = catalogue.DEFAULT_MODEL,
    views: int = N_VIEWS,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Path:
    """Write a PNG with some training images, each as it is and in augmented views.

    The views are the ones that training draws for the same `seed`, at the backbone's resolution.
    If images are mixed, a last row shows mixed images with the shares of their classes.

    Args:
        data, augment, model, seed: as for `tlcli.finetune`.
        views: augmented views per image.

    Returns:
        `output`.

    Raises:
        UserError: the data cannot be used, or `output` already exists.
    """
    output, transforms = Path(output), parse_augment(augment)
    _check_output(output)
    pre = native_preprocessing(catalogue.find_entry(model))
    dataset = scan(Path(data), seed=seed, reporter=reporter or Reporter())
    augmentation, mixing = fit_augmentation(transforms, dataset.train), make_mixing(transforms)
    rows: list[GridRow] = []
    augmented: list[Tensor] = []
    labels: list[int] = []
    for sample, image in _choose_images(dataset, pre.min_side):
        pictures = [pre.resize_and_crop(image)]
        for view in range(1, views + 1):
            rng = random.Random(f"{seed}:{sample.digest}:{view}")
            pixels = (
                augment_image(image, pre, augmentation, rng)
                if augmentation
                else pre.to_pixels(image)
            )
            pictures.append(picture(pixels))
            augmented.append(pixels)
            labels.append(sample.label)
        rows.append(GridRow(dataset.classes[sample.label], pictures))
    if mixing:
        batch = torch.stack(augmented), torch.tensor(labels)
        rows.append(mixed_row(*batch, dataset.classes, mixing, seed, views + 1))
    strengths = ", ".join(f"{name} {value:g}" for name, value in transforms.items())
    title = f"{augment}: {strengths or 'nothing'}; the original image, then {views} views"
    sheet = draw_grid(title, rows)
    write_atomic(output, lambda beside: sheet.save(beside, "PNG"))
    return output


def _check_output(output: Path) -> None:
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: the sheet is a PNG", "end the name in .png")
    if output.exists() or output.is_symlink():
        raise UserError(
            f"{output} already exists and will not be overwritten",
            "name another file with --output, or remove this one first",
        )


def _choose_images(dataset: Dataset, min_side: int) -> list[tuple[Sample, Image.Image]]:
    """Choose readable training images by their hashes, the same number of each class."""
    n_classes = len(dataset.classes)
    wanted = max(1, MAX_ROWS // n_classes) * min(MAX_ROWS, n_classes)
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in sorted(dataset.train, key=lambda s: s.digest):
        by_class[sample.label].append(sample)
    order = [
        samples[turn]
        for turn in range(MAX_ROWS)
        for _, samples in sorted(by_class.items())
        if turn < len(samples)
    ]
    chosen = []
    for sample in order:
        try:
            chosen.append((sample, decode(sample.path, min_side)))
        except Unreadable:
            continue
        if len(chosen) == wanted:
            break
    if not chosen:
        raise UserError(f"{printable(dataset.root)}: none of the training images can be read")
    return sorted(chosen, key=lambda pair: pair[0].label)


def picture(pixels: Tensor) -> Image.Image:
    """Convert pixels, uint8 [3, h, w], to a Pillow image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def mixed_row(
    images: Tensor, labels: Tensor, classes: Sequence[str], mixing: Mixing, seed: int, n: int
) -> GridRow:
    """Mix `images` in `n` batches, each with a share of its own, and show one image of each.

    Args:
        images: uint8 [m, 3, h, w].
        labels: int64 [m].
    """
    pictures, captions = [], []
    for turn in range(n):
        rng = random.Random(f"{seed}:{turn}")
        mixed, shares = mix_batch(images, labels, len(classes), mixing, rng)
        index = turn * len(images) // n
        pictures.append(picture(mixed[index]))
        named = zip(shares[index].tolist(), classes, strict=True)
        shown = sorted((pair for pair in named if pair[0] > MIN_SHOWN_SHARE), reverse=True)
        captions.append([f"{share:.0%} {name}" for share, name in shown])
    return GridRow("mixed", pictures, captions)
