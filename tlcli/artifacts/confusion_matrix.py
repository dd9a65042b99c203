"""The confusion matrix as a file: CSV for programs, PNG for the eye."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tlcli.artifacts.atomic import write_atomic, write_text
from tlcli.errors import UsageError, UserError
from tlcli.text import printable

SUFFIXES = (".csv", ".png")
CELL, MARGIN, TEXT = 44, 12, 14
MOST_WITH_COUNTS = 40
"""Above this many classes cells are too small for their counts, and are drawn smaller."""
SMALL_CELL, SMALL_TEXT = 14, 10
LONGEST_NAME = 28
RIGHT, WRONG = (42, 111, 151), (200, 60, 40)


def check_file(file: Path) -> None:
    """Raises `UsageError` for another extension, `UserError` where there is something already."""
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--confusion {file}: it ends in one of {', '.join(SUFFIXES)}")
    if file.exists() or file.is_symlink():
        raise UserError(
            f"--confusion {file}: it is there already, and it is not overwritten",
            "name another file, or remove this one first",
        )


def write(file: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
    """Write it; a row for each true class, a column for each answer."""
    check_file(file)
    if file.suffix.lower() == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, confusion, strict=True))
        write_text(file, text.getvalue())
    else:
        picture = draw(classes, confusion)
        write_atomic(file, lambda beside: picture.save(beside, "PNG"))


def draw(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Image.Image:
    """The matrix with names beside it; the deeper the colour, the larger the share of the row."""
    n = len(classes)
    cell = CELL if n <= MOST_WITH_COUNTS else SMALL_CELL
    size = TEXT if cell == CELL else SMALL_TEXT
    font = ImageFont.load_default(size)
    names = [printable(name)[:LONGEST_NAME] for name in classes]
    side = int(max(font.getlength(name) for name in names)) + 2 * MARGIN
    picture = Image.new("RGB", (side + n * cell + MARGIN, side + n * cell + MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    for i, name in enumerate(names):
        middle = side + i * cell + cell / 2
        pen.text((side - MARGIN / 2, middle), name, fill="black", font=font, anchor="rm")
        strip = Image.new("L", (int(font.getlength(name)) + 2, size + size // 2))
        ImageDraw.Draw(strip).text((0, strip.height / 2), name, fill=255, font=font, anchor="lm")
        upwards = strip.transpose(Image.Transpose.ROTATE_90)
        place = (int(middle - upwards.width / 2), side - MARGIN // 2 - upwards.height)
        picture.paste("black", (*place, place[0] + upwards.width, side - MARGIN // 2), upwards)
    for i, row in enumerate(confusion):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            x, y = side + j * cell, side + i * cell
            pen.rectangle(
                (x, y, x + cell - 2, y + cell - 2),
                _shade(RIGHT if i == j else WRONG, count / total),
            )
            if count and cell == CELL:
                ink = "white" if count / total > 0.5 else "black"
                center = (x + cell / 2 - 1, y + cell / 2 - 1)
                pen.text(center, str(count), fill=ink, font=font, anchor="mm")
    return picture


def _shade(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
    pale = 0.04
    weight = pale + (1 - pale) * share
    return tuple(round(255 + (c - 255) * weight) for c in colour)
