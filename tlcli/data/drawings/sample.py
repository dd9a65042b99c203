"""A folder of drawn flowers to try tlcli on, the same every time."""

import math
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tlcli.data.drawings.flowers import FLOWERS, Frame
from tlcli.data.drawings.scenery import draw_background
from tlcli.errors import UserError
from tlcli.text import printable

SUPERSAMPLING = 2
"""Factor by which images are drawn larger and then reduced; Pillow has no antialiasing."""
README = """\
These images are drawings made by tlcli (`tlcli sample`), not photographs: five kinds of flowers
drawn by a program, so that tlcli can be tried without a download. Expect higher accuracy on them
than on photographs, and draw no conclusions about real flowers from them.
"""


def draw_flower(name: str, size: int, rng: random.Random) -> Image.Image:
    """Draw an image of `size` x `size` pixels: one to three flowers in front of a background."""
    side = size * SUPERSAMPLING
    image = draw_background(side, rng)
    draw = ImageDraw.Draw(image)
    count = rng.choice((1, 1, 1, 2, 3))
    for _ in range(count):
        radius = side * rng.uniform(0.17, 0.32) * (1 if count == 1 else 0.72)
        if name == "tulip":
            radius *= 0.8  # its cup is twice as high as its radius
        x, y = side * rng.uniform(0.28, 0.72), side * rng.uniform(0.26, 0.62)
        upright = name in ("tulip", "lavender")
        rotation = rng.uniform(-0.25, 0.25) if upright else rng.uniform(0, math.pi)
        squeeze = 1.0 if upright else rng.uniform(0.62, 1)
        FLOWERS[name](Frame(draw, x, y, radius, squeeze, rotation), rng)
    return _degrade(image.resize((size, size), Image.Resampling.BOX), rng)


def _degrade(image: Image.Image, rng: random.Random) -> Image.Image:
    """Change exposure, focus and noise, differently for each image, as in photographs."""
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.1)))
    gains = [rng.uniform(0.78, 1.12) * rng.uniform(0.95, 1.05) for _ in range(3)]
    image = image.point([min(255, round(value * gain)) for gain in gains for value in range(256)])
    noise = Image.frombytes("RGB", image.size, rng.randbytes(3 * image.width * image.height))
    strength = rng.uniform(0.02, 0.12)
    return ImageChops.add(
        image, noise.point(lambda value: value * strength), 1, round(-127 * strength)
    )


def draw_sample(
    directory: Path, *, per_class: int = 40, size: int = 256, seed: int = 0
) -> list[str]:
    """Draw `per_class` JPEG images of each kind of flower into `directory`/<class>/.

    A README.txt beside them says what they are. The same arguments give the same images.

    Args:
        size: side of the images, in pixels.

    Returns:
        The classes, sorted.

    Raises:
        UserError: `directory` is not empty, or cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UserError(f"{printable(directory)} is not empty", "name a new folder")
        (directory / "README.txt").write_text(README, encoding="utf-8")
        for name in FLOWERS:
            (directory / name).mkdir()
            for index in range(per_class):
                image = draw_flower(name, size, random.Random(f"{seed}/{name}/{index}"))
                image.save(directory / name / f"{name}-{index + 1:03}.jpg", quality=88)
    except OSError as error:
        raise UserError(
            f"{printable(directory)} cannot be written: {error.strerror}", "name another folder"
        ) from error
    return sorted(FLOWERS)
