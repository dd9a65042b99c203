"""The confusion matrix as a file: CSV for programs, PNG to look at."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tlcli.artifacts.atomic import write_atomic, write_text
from tlcli.errors import UsageError, UserError
from tlcli.text import printable

SUFFIXES = (".csv", ".png")
MAX_CLASSES_WITH_COUNTS = 40
"""Above this many classes the cells are drawn smaller, without their counts."""
CELL, TEXT = 44, 14
"""Pixels of a cell and of its text."""
SMALL_CELL, SMALL_TEXT = 14, 10
"""Pixels of a cell and of the names, without counts."""
MARGIN = 12
"""Pixels around the matrix and its names."""
MAX_NAME_LENGTH = 28
"""Characters of a class name that are drawn."""
CORRECT_COLOR, WRONG_COLOR = (42, 111, 151), (200, 60, 40)
MIN_SHADE = 0.04
"""Share of the color that an empty cell has."""


def check_file(file: Path) -> None:
    """Check that the matrix can be written to `file`.

    Raises:
        UsageError: it has another extension than `SUFFIXES`.
        UserError: it already exists.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--confusion {file}: the extension must be {' or '.join(SUFFIXES)}")
    if file.exists() or file.is_symlink():
        raise UserError(
            f"--confusion {file} already exists and will not be overwritten",
            "name another file, or remove this one first",
        )


def write_confusion_matrix(
    file: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]]
) -> None:
    """Write the matrix: one row per true class, one column per predicted class.

    Raises:
        UsageError, UserError: see `check_file`.
    """
    check_file(file)
    if file.suffix.lower() == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, confusion, strict=True))
        write_text(file, text.getvalue())
    else:
        image = draw_confusion_matrix(classes, confusion)
        write_atomic(file, lambda part: image.save(part, "PNG"))


def draw_confusion_matrix(
    classes: Sequence[str], confusion: Sequence[Sequence[int]]
) -> Image.Image:
    """Draw the matrix with names beside it; deeper color for a larger share of the row."""
    n = len(classes)
    with_counts = n <= MAX_CLASSES_WITH_COUNTS
    cell, size = (CELL, TEXT) if with_counts else (SMALL_CELL, SMALL_TEXT)
    font = ImageFont.load_default(size)
    names = [printable(name)[:MAX_NAME_LENGTH] for name in classes]
    start = int(max(font.getlength(name) for name in names)) + 2 * MARGIN
    side = start + n * cell + MARGIN
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for i, name in enumerate(names):
        middle = start + i * cell + cell / 2
        pen.text((start - MARGIN / 2, middle), name, fill="black", font=font, anchor="rm")
        strip = Image.new("L", (int(font.getlength(name)) + 2, size + size // 2))
        ImageDraw.Draw(strip).text((0, strip.height / 2), name, fill=255, font=font, anchor="lm")
        upright = strip.transpose(Image.Transpose.ROTATE_90)
        left, bottom = int(middle - upright.width / 2), start - MARGIN // 2
        box = (left, bottom - upright.height, left + upright.width, bottom)
        image.paste("black", box, upright)
    for i, row in enumerate(confusion):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            x, y, share = start + j * cell, start + i * cell, count / total
            color = _shade(CORRECT_COLOR if i == j else WRONG_COLOR, share)
            pen.rectangle((x, y, x + cell - 2, y + cell - 2), color)
            if count and with_counts:
                ink = "white" if share > 0.5 else "black"
                center = (x + cell / 2 - 1, y + cell / 2 - 1)
                pen.text(center, str(count), fill=ink, font=font, anchor="mm")
    return image


def _shade(color: tuple[int, int, int], share: float) -> tuple[int, ...]:
    """Mix `color` with white."""
    weight = MIN_SHADE + (1 - MIN_SHADE) * share
    return tuple(round(255 + (channel - 255) * weight) for channel in color)
