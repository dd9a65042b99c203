"""A contact sheet: pictures in rows, each row with a name, as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from tlcli.text import printable

TILE, GAP, MARGIN = 144, 6, 14
TEXT, SMALL, LINE = 15, 12, 16
INK, PALE = (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class GridRow:
    """Pictures side by side below a name, each with the lines of its caption below it."""

    name: str
    pictures: Sequence[Image.Image]
    captions: Sequence[Sequence[str]] = ()

    def height(self, tile: int) -> int:
        """In pixels, with the gap to the next row."""
        lines = max(map(len, self.captions), default=0)
        return TEXT + 8 + tile + lines * LINE + GAP


def draw_grid(title: str, rows: Sequence[GridRow], tile: int = TILE) -> Image.Image:
    """The rows one below the other, every picture `tile` pixels a side, below a title.

    Names and captions may hold any characters; Pillow's own font draws Latin letters, and a box
    for others.
    """
    big, small = ImageFont.load_default(TEXT), ImageFont.load_default(SMALL)
    title, longest = printable(title), max(len(row.pictures) for row in rows)
    width = max(2 * MARGIN + longest * (tile + GAP) - GAP, int(small.getlength(title)) + 2 * MARGIN)
    height = 2 * MARGIN + SMALL + 10 + sum(row.height(tile) for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill=PALE, font=small)
    y = MARGIN + SMALL + 10
    for row in rows:
        pen.text((MARGIN, y), _fitting(row.name, big, width - 2 * MARGIN), fill=INK, font=big)
        for place, picture in enumerate(row.pictures):
            x = MARGIN + place * (tile + GAP)
            square = picture.resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(square, (x, y + TEXT + 8))
            for line, text in enumerate(row.captions[place] if row.captions else ()):
                below = (x, y + TEXT + 8 + tile + 2 + line * LINE)
                pen.text(below, _fitting(text, small, tile), fill=PALE, font=small)
        y += row.height(tile)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a text as fits into `width` pixels."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
