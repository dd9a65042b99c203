"""A grid of images in one image: rows of tiles, each row with a name and captions."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from tlcli.text import printable

TILE, GAP, MARGIN = 144, 6, 14
"""Pixels of a tile's side, between tiles, and around the grid."""
NAME_SIZE, CAPTION_SIZE, CAPTION_HEIGHT = 15, 12, 16
"""Pixels of the letters of a name and of a caption, and of a caption's line."""
NAME_COLOR, CAPTION_COLOR = (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class GridRow:
    """One row of the grid.

    Attributes:
        name: is written above the row.
        images: the tiles, side by side.
        captions: lines of text below each image; empty for none at all.
    """

    name: str
    images: Sequence[Image.Image]
    captions: Sequence[Sequence[str]] = ()

    def height(self, tile: int) -> int:
        """Return the row's height in pixels, with the gap to the next row."""
        lines = max(map(len, self.captions), default=0)
        return NAME_SIZE + 8 + tile + lines * CAPTION_HEIGHT + GAP


def draw_grid(title: str, rows: Sequence[GridRow], tile: int = TILE) -> Image.Image:
    """Draw the rows below a title, each image scaled to `tile` pixels a side.

    Names and captions may hold any characters. Pillow's own font draws Latin letters, and a box
    for others.
    """
    name_font, small_font = ImageFont.load_default(NAME_SIZE), ImageFont.load_default(CAPTION_SIZE)
    title, n_columns = printable(title), max(len(row.images) for row in rows)
    width = max(n_columns * (tile + GAP) - GAP, int(small_font.getlength(title))) + 2 * MARGIN
    top = MARGIN + CAPTION_SIZE + 10
    sheet = Image.new("RGB", (width, top + MARGIN + sum(row.height(tile) for row in rows)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill=CAPTION_COLOR, font=small_font)
    for row in rows:
        name = _shorten_to_width(row.name, name_font, width - 2 * MARGIN)
        pen.text((MARGIN, top), name, fill=NAME_COLOR, font=name_font)
        y = top + NAME_SIZE + 8
        for column, image in enumerate(row.images):
            x = MARGIN + column * (tile + GAP)
            sheet.paste(image.resize((tile, tile), Image.Resampling.LANCZOS), (x, y))
            for line, text in enumerate(row.captions[column] if row.captions else ()):
                caption = _shorten_to_width(text, small_font, tile)
                position = (x, y + tile + 2 + line * CAPTION_HEIGHT)
                pen.text(position, caption, fill=CAPTION_COLOR, font=small_font)
        top += row.height(tile)
    return sheet


def _shorten_to_width(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """Cut `text` so that it fits into `width` pixels."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
