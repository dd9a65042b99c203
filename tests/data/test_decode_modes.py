"""Decoding: every Pillow mode, on files that Pillow itself wrote."""

import io
import struct

import pytest
from PIL import Image, ImageCms

from tests.data.encoded_images import BLUE, GREEN, RED, WHITE, encode_image, near_color
from tlcli.data.decode import Unreadable, decode

# pytest shows every warning; those that tlcli lets through are tested in a process of its own
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def gradient(mode: str, values: list[float]) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def gray_values(image: Image.Image) -> list[int]:
    pixels = [image.getpixel((x, 0)) for x in range(image.width)]
    assert all(r == g == b for r, g, b in pixels), pixels
    return [r for r, _, _ in pixels]


def test_mode_1_and_l() -> None:
    assert gray_values(decode(encode_image(gradient("1", [0, 255]), "PNG"))) == [0, 255]
    assert gray_values(decode(encode_image(gradient("L", [0, 7, 255]), "PNG"))) == [0, 7, 255]


def test_mode_la_is_put_on_white() -> None:
    image = Image.new("LA", (3, 1))
    for x, pixel in enumerate([(40, 255), (40, 0), (0, 128)]):
        image.putpixel((x, 0), pixel)
    assert gray_values(decode(encode_image(image, "PNG"))) == [40, 255, 127]


def test_mode_rgba_is_put_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert [decode(encode_image(image, "PNG")).getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    return image


def test_mode_p_without_and_with_transparency() -> None:
    plain = decode(encode_image(palette(), "PNG"))
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]
    index = decode(encode_image(palette(), "GIF", transparency=1))
    assert [index.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    alphas = decode(encode_image(palette(), "PNG", transparency=bytes([0, 255])))
    assert [alphas.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_mode_pa(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("PA", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (1, 0))
    rgb = as_if_opened(image, monkeypatch)
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_color_named_transparent_becomes_white(mode: str) -> None:
    black = 0 if mode == "L" else (0, 0, 0)
    image = Image.new(mode, (2, 1), "grey")
    image.putpixel((0, 0), black)
    rgb = decode(encode_image(image, "PNG", transparency=black))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (128, 128, 128)]


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")])
def test_color_modes(mode: str, kind: str) -> None:
    for color in (RED, GREEN, BLUE, WHITE, (0, 0, 0)):
        data = encode_image(Image.new("RGB", (8, 8), color).convert(mode), kind)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.mode == mode
        assert near_color(decode(data).getpixel((3, 3)), color)


def test_mode_cmyk_in_a_jpeg() -> None:
    for color in (RED, WHITE, (0, 0, 0)):
        data = encode_image(Image.new("RGB", (16, 16), color).convert("CMYK"), "JPEG", quality=95)
        assert near_color(decode(data).getpixel((8, 8)), color)


def test_mode_lab() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    for color in (RED, (120, 90, 30), WHITE):
        image = ImageCms.applyTransform(Image.new("RGB", (4, 4), color), to_lab)
        data = encode_image(image, "TIFF")
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.mode == "LAB"
        assert near_color(decode(data).getpixel((0, 0)), color, by=6)


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "RGBa", "La"])
def test_modes_that_only_plugins_return(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gray = (90, 90, 90)
    source = Image.new("LA" if mode == "La" else "RGB", (2, 2), (90, 255) if mode == "La" else gray)
    if mode == "RGBa":
        source = source.convert("RGBA")
    assert as_if_opened(source.convert(mode), monkeypatch).getpixel((1, 1)) == gray


def as_if_opened(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """Decode an image of a mode that Pillow reads from some files but cannot write."""
    monkeypatch.setattr(Image, "open", lambda *_args, **_kwargs: image)
    return decode(b"any")


SIXTEEN = [0, 128, 129, 257, 32896, 65535]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grayscale_uses_the_full_range(kind: str) -> None:
    assert gray_values(decode(encode_image(gradient("I;16", SIXTEEN), kind))) == [
        0,
        0,
        1,
        1,
        128,
        255,
    ]


def test_big_endian_sixteen_bit_grayscale() -> None:
    pixels = struct.pack(">3H", 0, 32896, 65535)
    header = b"MM\0*" + struct.pack(">I", 8)
    tags = [
        (256, 3, 1, 3 << 16), (257, 3, 1, 1 << 16), (258, 3, 1, 16 << 16), (259, 3, 1, 1 << 16),
        (262, 3, 1, 1 << 16), (273, 4, 1, 122), (277, 3, 1, 1 << 16), (278, 3, 1, 1 << 16),
        (279, 4, 1, 6),
    ]  # fmt: skip
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", *t) for t in tags)
    data = header + directory + b"\0\0\0\0" + pixels
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "I;16B"
    assert gray_values(decode(data)) == [0, 128, 255]


def test_a_dark_sixteen_bit_image_stays_dark() -> None:
    assert gray_values(decode(encode_image(gradient("I;16", [0, 100, 200]), "PNG"))) == [0, 0, 1]
    assert gray_values(decode(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 100, 200))) == [0, 0, 1]


@pytest.mark.parametrize("level", [0, 30_000])
def test_a_sixteen_bit_gray_named_transparent_becomes_white(level: int) -> None:
    data = encode_image(gradient("I;16", [level, 20_000]), "PNG", transparency=level)
    assert gray_values(decode(data)) == [255, 78]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([-100, 0, 300], [0, 64, 255]),
        ([0, 1 << 20, 1 << 22], [0, 64, 255]),
        ([0, 0, 0], [0, 0, 0]),
        ([-5, -5, -5], [0, 0, 0]),
    ],
)
def test_thirty_two_bit_grayscale_takes_the_smallest_usual_range(
    values: list[float], expected: list[int]
) -> None:
    assert gray_values(decode(encode_image(gradient("I", values), "TIFF"))) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1.0], [0, 128, 255]),
        ([0, 99.6, 255], [0, 100, 255]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([-1, 0, 3], [0, 64, 255]),
    ],
)
def test_float_grayscale_takes_the_smallest_usual_range(
    values: list[float], expected: list[int]
) -> None:
    assert gray_values(decode(encode_image(gradient("F", values), "TIFF"))) == expected


def test_floats_that_are_not_finite_are_unreadable() -> None:
    with pytest.raises(Unreadable, match="finite"):
        decode(encode_image(gradient("F", [1, float("inf")]), "TIFF"))
