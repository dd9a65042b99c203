"""Any picture that Pillow reads, as RGB the right way up; anything else is `Unreadable`."""

import math
import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from tlcli.text import printable

ImageSource = Path | bytes | BinaryIO | Image.Image

# Named one by one: among Pillow's other formats, EPS runs Ghostscript, some are only stubs, and
# some begin with so little of a signature that they take other files for theirs.
_WANTED = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF",
    "ICO", "ICNS", "QOI", "SGI", "DDS",
)  # fmt: skip

Image.init()  # some builds of Pillow lack a codec, and naming that to `Image.open` is an error
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS
)

# Pillow refuses bombs above twice its limit by itself; below that there are real photographs, and
# its warnings (about those, and about odd metadata) name no file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# (offset, bytes there, what such a file is)
SIGNATURES = (
    (4, b"ftyphei", "a HEIC photograph, which Pillow cannot read here; convert it to JPEG"),
    (4, b"ftypmif1", "a HEIF photograph, which Pillow cannot read here; convert it to JPEG"),
    (4, b"ftypavif", "an AVIF picture, which this build of Pillow cannot read; convert it"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"<svg", "an SVG drawing; convert it to PNG"),
    (0, b"<", "text (HTML or XML), perhaps a web page saved in place of the picture"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the picture"),
)


class _NoPicture(Exception):
    """Why the bytes at hand give no picture; `decode` knows whose they are."""


class Unreadable(Exception):
    """A file that gives no picture: `path` ("-" for bytes and streams) and `why`, one line."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{printable(path)}: {why}")
        self.path = path
        self.why = why


def decode(source: ImageSource, least: int | None = None) -> Image.Image:
    """The picture, in a file or opened with Pillow already, as RGB, 8 bits a channel.

    Turned as its EXIF orientation says; transparent parts over white; 16-bit and float greys
    scaled to their range; of several frames the first.

    Args:
        least: pixels that the shorter side must keep; a JPEG file is decoded to a half, a quarter
            or an eighth of its size where that is enough, several times faster. None: as it is.

    Raises:
        Unreadable: there is no such file, or it is empty, damaged, truncated, not a picture, or
            so large that it looks like a decompression bomb.
    """
    path = source if isinstance(source, Path) else Path("-")
    try:
        if isinstance(source, Image.Image):
            return _upright(source)
        with _stream(source) as stream:
            return _decoded(stream, least)
    except _NoPicture as error:
        raise Unreadable(path, str(error)) from None
    except Image.DecompressionBombError as error:
        raise Unreadable(path, f"too large, perhaps a decompression bomb: {error}") from error
    except MemoryError as error:
        raise Unreadable(path, "there is not enough memory to decode it") from error
    except OSError as error:
        raise Unreadable(path, printable(error.strerror or str(error))) from error
    except Exception as error:
        # Pillow's plugins raise nearly every kind of exception on damaged files
        raise Unreadable(
            path, f"damaged: {printable(str(error)) or type(error).__name__}"
        ) from error


def _stream(source: Path | bytes | BinaryIO) -> BinaryIO:
    if isinstance(source, Path):
        stream = source.open("rb")
        if stream.seekable():
            return stream
        with stream:  # a named pipe or process substitution
            return BytesIO(stream.read())
    return BytesIO(source if isinstance(source, bytes) else source.read())


def _decoded(stream: BinaryIO, least: int | None) -> Image.Image:
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        stream.seek(0)
        raise _NoPicture(_not_a_picture(stream.read(512))) from None
    if least is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (least, least))
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    # read after `load`: TIFFs are turned by Pillow itself there, PNGs have their EXIF at the end
    orientation = _orientation(image)
    rgb = _rgb(image)
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def _not_a_picture(head: bytes) -> str:
    if not head:
        return "the file is empty"
    for offset, mark, what in SIGNATURES:
        if head.lstrip()[offset:].startswith(mark):
            return f"not a picture but {what}"
    if head.isascii() and b"\0" not in head:
        return "not a picture but text"
    return "not a picture that Pillow can read"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1  # damaged metadata is no reason to lose a picture


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # Pillow converts this to nothing else
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """A grey picture of mode I;16*, I or F as mode L."""
    deep = image if image.mode == "F" else image.convert("I")
    low, high = _range(deep, sixteen=image.mode != "I" or image.format in ("PNG", "PPM"))
    scale = 255 / (high - low)
    grey = deep.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    if "transparency" in image.info:  # the level that a 16-bit PNG calls transparent
        grey.info["transparency"] = int(image.info["transparency"] * scale + 0.5)
    return grey


def _range(image: Image.Image, sixteen: bool) -> tuple[float, float]:
    """What is black and what is white in a picture of mode I or F.

    `sixteen`: an I picture known to be of 16 bits. Of the others the file does not say, so the
    smallest usual range that holds their values is taken, else the values' own.
    """
    if image.mode == "I" and sixteen:
        return 0, 65535
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if not math.isfinite(low) or not math.isfinite(high):
        raise _NoPicture("some of its values are not finite numbers")
    for usual in (1, 255, 65535) if image.mode == "F" else (255, 65535):
        if low >= 0 and high <= usual:
            return 0, usual
    return (low, high) if low < high else (low, low + 1)
