"""Images as encoded files, and colors that survive a JPEG."""

import io

from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode_image(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image as a file of some format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def near_color(pixel: object, color: tuple[int, int, int], by: int = 3) -> bool:
    """Tell whether no channel of a pixel differs by more than `by`."""
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= by for a, b in zip(pixel, color, strict=True))
