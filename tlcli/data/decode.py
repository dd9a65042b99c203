"""Decoding any image that Pillow reads into upright RGB; anything else is `Unreadable`."""

import math
import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from tlcli.text import printable

ImageSource = Path | bytes | BinaryIO | Image.Image

# Formats are listed one by one: among Pillow's others, EPS runs Ghostscript, some are only stubs,
# and some have so short a signature that they accept files of other kinds.
_WANTED_FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF",
    "ICO", "ICNS", "QOI", "SGI", "DDS",
)  # fmt: skip

Image.init()  # some builds of Pillow lack a codec, and naming that to `Image.open` is an error
IMAGE_FORMATS = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)
IMAGE_SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS
)

# Pillow itself refuses decompression bombs above twice its limit. Below that there are real
# photographs, and its warnings (about those, and about odd metadata) name no file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

EXIF_ORIENTATION = 0x0112
UPRIGHT_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that brings an image of each EXIF orientation upright."""

OTHER_SIGNATURES = (
    (4, b"ftyphei", "a HEIC photograph, which Pillow cannot read here; convert it to JPEG"),
    (4, b"ftypmif1", "a HEIF photograph, which Pillow cannot read here; convert it to JPEG"),
    (4, b"ftypavif", "an AVIF image, which this build of Pillow cannot read; convert it"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"<svg", "an SVG drawing; convert it to PNG"),
    (0, b"<", "text (HTML or XML), perhaps a web page saved instead of the image"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the image"),
)
"""Offset and bytes that identify other kinds of files, and the name of each kind."""


class Unreadable(Exception):
    """A source that cannot be decoded into an image.

    Attributes:
        path: the file; "-" for bytes, streams and images.
        reason: why, in one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = path
        self.reason = reason


class _NotAnImage(Exception):
    """Content that is not an image; the message says why, and `decode` adds the path."""


def decode(source: ImageSource, min_side: int | None = None) -> Image.Image:
    """Decode an image, from a file or opened with Pillow already, into RGB, 8 bits per channel.

    The image is rotated as its EXIF orientation says. Transparent parts are put on white. 16-bit
    and float grayscale is scaled to its range. Of several frames the first is taken.

    Args:
        min_side: pixels that the shorter side must keep. A JPEG file is decoded at a half, a
            quarter or an eighth of its size if that is enough, which is several times faster.
            None: full size.

    Raises:
        Unreadable: there is no such file, or it is empty, damaged, truncated, not an image, or so
            large that it may be a decompression bomb.
    """
    path = source if isinstance(source, Path) else Path("-")
    try:
        if isinstance(source, Image.Image):
            return _to_upright_rgb(source)
        with _open(source) as stream:
            return _decode_stream(stream, min_side)
    except _NotAnImage as error:
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


def _open(source: Path | bytes | BinaryIO) -> BinaryIO:
    """Open `source` as a seekable stream."""
    if isinstance(source, Path):
        stream = source.open("rb")
        if stream.seekable():
            return stream
        with stream:  # a named pipe or process substitution
            return BytesIO(stream.read())
    return BytesIO(source if isinstance(source, bytes) else source.read())


def _decode_stream(stream: BinaryIO, min_side: int | None) -> Image.Image:
    """Decode the image in `stream`; see `decode`.

    Raises:
        _NotAnImage: Pillow does not recognize it.
    """
    try:
        image = Image.open(stream, formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        stream.seek(0)
        raise _NotAnImage(_identify(stream.read(512))) from None
    if min_side is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (min_side, min_side))
    return _to_upright_rgb(image)


def _identify(start: bytes) -> str:
    """Return a few words on the kind of a file that begins with `start` and is not an image."""
    if not start:
        return "the file is empty"
    for offset, signature, kind in OTHER_SIGNATURES:
        if start.lstrip()[offset:].startswith(signature):
            return f"not an image but {kind}"
    if start.isascii() and b"\0" not in start:
        return "not an image but text"
    return "not an image that Pillow can read"


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    """Load an image and return it as RGB, rotated as its EXIF orientation says."""
    image.load()
    # read after `load`: Pillow itself rotates TIFFs there, and PNGs have their EXIF at the end
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation in UPRIGHT_TRANSPOSE:
        return rgb.transpose(UPRIGHT_TRANSPOSE[orientation])
    return rgb


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, which is upright, if there is none or it is damaged."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:
        return 1  # damaged metadata is no reason to lose an image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, with transparent parts on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # Pillow converts this to nothing else
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Convert a grayscale image of mode I;16*, I or F to mode L."""
    deep = image if image.mode == "F" else image.convert("I")
    low, high = _value_range(deep, sixteen=image.mode != "I" or image.format in ("PNG", "PPM"))
    scale = 255 / (high - low)
    gray = deep.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    if "transparency" in image.info:  # the value that a 16-bit PNG calls transparent
        gray.info["transparency"] = int(image.info["transparency"] * scale + 0.5)
    return gray


def _value_range(image: Image.Image, sixteen: bool) -> tuple[float, float]:
    """Return the values of black and white in an image of mode I or F.

    For modes that do not say so, this is the smallest usual range that contains all values, or
    else the range of the values.

    Args:
        sixteen: whether an image of mode I is known to have 16 bits.

    Raises:
        _NotAnImage: some values are not finite.
    """
    if image.mode == "I" and sixteen:
        return 0, 65535
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if not math.isfinite(low) or not math.isfinite(high):
        raise _NotAnImage("some of its values are not finite numbers")
    for usual in (1, 255, 65535) if image.mode == "F" else (255, 65535):
        if low >= 0 and high <= usual:
            return 0, usual
    return (low, high) if low < high else (low, low + 1)
