"""Decoding: every mode, orientation and kind of damage, on files that Pillow itself wrote."""

import io
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from tlcli.data.decode import Unreadable, decode

# pytest shows all warnings anew; what the tool itself lets through is tested in a process apart
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

DAMAGED_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient(mode: str, values: list[float]) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def gray_values(image: Image.Image) -> list[int]:
    pixels = [image.getpixel((x, 0)) for x in range(image.width)]
    assert all(r == g == b for r, g, b in pixels), pixels
    return [r for r, _, _ in pixels]


def near(pixel: object, color: tuple[int, int, int], by: int = 3) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= by for a, b in zip(pixel, color, strict=True))


# --- modes


def test_mode_1_and_l() -> None:
    assert gray_values(decode(saved(gradient("1", [0, 255]), "PNG"))) == [0, 255]
    assert gray_values(decode(saved(gradient("L", [0, 7, 255]), "PNG"))) == [0, 7, 255]


def test_mode_la_is_put_on_white() -> None:
    image = Image.new("LA", (3, 1))
    for x, pixel in enumerate([(40, 255), (40, 0), (0, 128)]):
        image.putpixel((x, 0), pixel)
    assert gray_values(decode(saved(image, "PNG"))) == [40, 255, 127]


def test_mode_rgba_is_put_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert [decode(saved(image, "PNG")).getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    return image


def test_mode_p_without_and_with_transparency() -> None:
    plain = decode(saved(palette(), "PNG"))
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]
    index = decode(saved(palette(), "GIF", transparency=1))
    assert [index.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    alphas = decode(saved(palette(), "PNG", transparency=bytes([0, 255])))
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
    rgb = decode(saved(image, "PNG", transparency=black))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (128, 128, 128)]


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")])
def test_color_modes(mode: str, kind: str) -> None:
    for color in (RED, GREEN, BLUE, WHITE, (0, 0, 0)):
        data = saved(Image.new("RGB", (8, 8), color).convert(mode), kind)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.mode == mode
        assert near(decode(data).getpixel((3, 3)), color)


def test_mode_cmyk_in_a_jpeg() -> None:
    for color in (RED, WHITE, (0, 0, 0)):
        data = saved(Image.new("RGB", (16, 16), color).convert("CMYK"), "JPEG", quality=95)
        assert near(decode(data).getpixel((8, 8)), color)


def test_mode_lab() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    for color in (RED, (120, 90, 30), WHITE):
        image = ImageCms.applyTransform(Image.new("RGB", (4, 4), color), to_lab)
        data = saved(image, "TIFF")
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.mode == "LAB"
        assert near(decode(data).getpixel((0, 0)), color, by=6)


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
    assert gray_values(decode(saved(gradient("I;16", SIXTEEN), kind))) == [0, 0, 1, 1, 128, 255]


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
    assert gray_values(decode(saved(gradient("I;16", [0, 100, 200]), "PNG"))) == [0, 0, 1]
    assert gray_values(decode(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 100, 200))) == [0, 0, 1]


@pytest.mark.parametrize("level", [0, 30_000])
def test_a_sixteen_bit_gray_named_transparent_becomes_white(level: int) -> None:
    data = saved(gradient("I;16", [level, 20_000]), "PNG", transparency=level)
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
    assert gray_values(decode(saved(gradient("I", values), "TIFF"))) == expected


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
    assert gray_values(decode(saved(gradient("F", values), "TIFF"))) == expected


def test_floats_that_are_not_finite_are_unreadable() -> None:
    with pytest.raises(Unreadable, match="finite"):
        decode(saved(gradient("F", [1, float("inf")]), "TIFF"))


# --- orientation and frames


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_orientation_ends_upright(orientation: int, kind: str) -> None:
    upright = Image.new("RGB", (32, 16), WHITE)
    upright.paste(RED, (0, 0, 16, 8))
    upright.paste(GREEN, (16, 0, 32, 8))
    upright.paste(BLUE, (0, 8, 16, 16))
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0}
    rgb = decode(saved(stored, kind, exif=exif, **options))
    assert rgb.size == (32, 16)
    corners = {(8, 4): RED, (24, 4): GREEN, (8, 12): BLUE, (24, 12): WHITE}
    assert all(near(rgb.getpixel(at), color, by=6) for at, color in corners.items())


def test_an_image_with_damaged_exif_is_read() -> None:
    image = Image.new("RGB", (8, 8), RED)
    data = saved(image, "PNG", exif=DAMAGED_EXIF)
    assert decode(data).getpixel((0, 0)) == RED
    words = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0"
    assert decode(saved(image, "PNG", exif=words)).size == (8, 8)
    exif = Image.Exif()
    exif[0x0112] = 99
    assert decode(saved(image, "PNG", exif=exif)).size == (8, 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3
    assert decode(data).getpixel((4, 4)) == RED


# --- sources and damage


def test_a_path_bytes_and_a_stream_give_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2), GREEN).save(path)
    from_path, from_bytes = decode(path), decode(path.read_bytes())
    with path.open("rb") as stream:
        assert decode(stream).tobytes() == from_bytes.tobytes() == from_path.tobytes()
    assert from_path.mode == "RGB"


def test_any_file_name(tmp_path: Path) -> None:
    for name in (b"\xff\xfe.png", b"two\nlines.png", "日本 🌷.png".encode()):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(saved(Image.new("RGB", (2, 2), RED), "PNG"))
        assert decode(path).size == (2, 2)
        path.write_bytes(b"")
        with pytest.raises(Unreadable) as caught:
            decode(path)
        assert caught.value.path == path
        str(caught.value).encode("utf-8")  # escaped: a message can always be printed
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a thing of Unix")
def test_a_named_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for data, expected in ((saved(Image.new("L", (5, 4)), "PNG"), "RGB"), (b"hello", "text")):
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        assert expected in decode_or_reason(pipe)
        writer.join()


def reason_for(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(data)
    assert str(caught.value) == f"-: {caught.value.reason}"
    return caught.value.reason


def test_a_truncated_file_is_unreadable() -> None:
    noise = Image.effect_noise((200, 200), 90)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP"):
        data = saved(noise.convert("L"), kind)
        assert reason_for(data[: len(data) // 2]), kind
    data = saved(noise, "JPEG")
    assert "truncated" in reason_for(data[: len(data) // 2])


def test_files_that_are_not_images_are_identified() -> None:
    assert reason_for(b"") == "the file is empty"
    assert "text" in reason_for(b"this is a note, called photo.jpg\n")
    assert "web page" in reason_for(b"\n<!DOCTYPE html><html>404</html>")
    assert "HEIC" in reason_for(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "PDF" in reason_for(b"%PDF-1.7\n%\xe2\xe3")
    assert "lfs pull" in reason_for(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "Pillow" in reason_for(bytes(range(128, 256)))


def test_not_an_image_and_no_file(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.jpg", "No such file"), (tmp_path, "directory")):
        with pytest.raises(Unreadable, match=reason) as caught:
            decode(path)
        assert caught.value.path == path


def test_postscript_is_never_run() -> None:
    assert "Pillow" in reason_for(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\xff showpage\n"
    )


def png_header(width: int, height: int) -> bytes:
    """Return the first bytes of a PNG file that claims to be of this size."""
    content = bytearray(saved(Image.new("1", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_decompression_bomb_is_unreadable() -> None:
    assert reason_for(png_header(60_000, 60_000)).startswith(
        "too large, perhaps a decompression bomb"
    )


def test_108_megapixels_and_odd_metadata_are_read_without_a_warning(tmp_path: Path) -> None:
    """Pillow warns about both without naming a file."""
    Image.new("1", (12_000, 9_000), 1).save(tmp_path / "1.png")
    Image.new("L", (3, 3)).save(tmp_path / "2.png", exif=DAMAGED_EXIF)
    code = "import sys; from pathlib import Path; from tlcli.data.decode import decode\n"
    code += "print(*(decode(Path(name)).size for name in sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "1.png", tmp_path / "2.png"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout == "(12000, 9000) (3, 3)\n"
    assert run.stderr == ""


def test_a_file_damaged_anywhere_is_unreadable_or_an_image() -> None:
    """No exception of Pillow's escapes, whichever bytes are damaged."""
    rng, seen = random.Random(0), set()
    noise = Image.effect_noise((40, 40), 90)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO", "JPEG2000"):
        intact = saved(noise, kind)
        for _ in range(25):
            data = bytearray(intact)
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
            outcome = decode_or_reason(bytes(data))
            assert outcome == "RGB" or "\n" not in outcome
            seen.add(outcome == "RGB")
    assert seen == {True, False}


def decode_or_reason(source: bytes | Path) -> str:
    try:
        return decode(source).mode
    except Unreadable as error:
        return error.reason
