"""Decoding: orientation, sources, names and every kind of damage."""

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
from PIL import Image

from tests.data.encoded_images import BLUE, GREEN, RED, WHITE, encode_image, near_color
from tlcli.data.decode import Unreadable, decode

# pytest shows every warning; those that tlcli lets through are tested in a process of its own
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


DAMAGED_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03"


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
    rgb = decode(encode_image(stored, kind, exif=exif, **options))
    assert rgb.size == (32, 16)
    corners = {(8, 4): RED, (24, 4): GREEN, (8, 12): BLUE, (24, 12): WHITE}
    assert all(near_color(rgb.getpixel(at), color, by=6) for at, color in corners.items())


def test_an_image_with_damaged_exif_is_read() -> None:
    image = Image.new("RGB", (8, 8), RED)
    data = encode_image(image, "PNG", exif=DAMAGED_EXIF)
    assert decode(data).getpixel((0, 0)) == RED
    words = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0"
    assert decode(encode_image(image, "PNG", exif=words)).size == (8, 8)
    exif = Image.Exif()
    exif[0x0112] = 99
    assert decode(encode_image(image, "PNG", exif=exif)).size == (8, 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode_image(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3
    assert decode(data).getpixel((4, 4)) == RED


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
        path.write_bytes(encode_image(Image.new("RGB", (2, 2), RED), "PNG"))
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
    for data, expected in (
        (encode_image(Image.new("L", (5, 4)), "PNG"), "RGB"),
        (b"hello", "text"),
    ):
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
        data = encode_image(noise.convert("L"), kind)
        assert reason_for(data[: len(data) // 2]), kind
    data = encode_image(noise, "JPEG")
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
    content = bytearray(encode_image(Image.new("1", (1, 1)), "PNG"))
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
        intact = encode_image(noise, kind)
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
