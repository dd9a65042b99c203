"""The blurred backgrounds of the drawn flowers."""

import random

from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

GREENS = ((46, 92, 40), (84, 130, 62), (120, 150, 84), (36, 70, 46), (140, 160, 90))
SKIES = ((120, 170, 220), (170, 200, 226), (206, 214, 220), (226, 196, 170))
EARTHS = ((94, 70, 50), (120, 96, 72), (70, 56, 46), (150, 130, 104))
WALLS = ((214, 204, 190), (180, 196, 204), (110, 104, 120), (226, 214, 170), (60, 62, 70))
LIGHTS = ((240, 220, 120), (236, 140, 150), (250, 250, 245), (150, 120, 200), (120, 180, 90))


def shade(color: Color, factor: float) -> Color:
    """Return `color` with every channel multiplied by `factor`."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in color)
    return red, green, blue


def draw_background(side: int, rng: random.Random) -> Image.Image:
    """Draw a blurred scene of `side` x `side` pixels.

    It is a meadow, a field under the sky, soil, a wall or lights.
    """
    small = side // 4  # the scene is blurred in the end, so it can be drawn small
    scene = rng.choice((_meadow, _field, _soil, _wall, _lights))(small, rng)
    blurred = scene.filter(ImageFilter.GaussianBlur(small / rng.uniform(30, 70)))
    return blurred.resize((side, side), Image.Resampling.BICUBIC)


def _fade(side: int, top: Color, bottom: Color) -> Image.Image:
    """Draw a vertical gradient."""
    mask = Image.linear_gradient("L").resize((side, side))
    return Image.composite(
        Image.new("RGB", (side, side), bottom), Image.new("RGB", (side, side), top), mask
    )


def _meadow(side: int, rng: random.Random) -> Image.Image:
    color = rng.choice(GREENS)
    scene = _fade(side, shade(color, rng.uniform(0.9, 1.4)), shade(color, 0.7))
    draw = ImageDraw.Draw(scene)
    for _ in range(90):
        x, y, slope = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(-0.15, 0.15)
        blade = shade(rng.choice(GREENS), rng.uniform(0.7, 1.2))
        draw.line([(x, y), (x + slope * side, y - side * rng.uniform(0.1, 0.35))], blade, 2)
    _draw_spots(draw, side, rng, rng.randint(0, 6))
    return scene


def _field(side: int, rng: random.Random) -> Image.Image:
    sky, green = rng.choice(SKIES), rng.choice(GREENS)
    scene = _fade(side, sky, shade(sky, 1.15))
    horizon = round(side * rng.uniform(0.35, 0.75))
    scene.paste(_fade(side, green, shade(green, 0.75)), (0, horizon))
    draw = ImageDraw.Draw(scene)
    for _ in range(rng.randint(3, 9)):
        x, size = rng.uniform(0, side), side * rng.uniform(0.04, 0.16)
        draw.ellipse((x - size, horizon - size, x + size, horizon + size / 3), shade(green, 0.6))
    return scene


def _soil(side: int, rng: random.Random) -> Image.Image:
    earth = rng.choice(EARTHS)
    scene = _fade(side, earth, shade(earth, rng.uniform(0.6, 1.2)))
    draw = ImageDraw.Draw(scene)
    for _ in range(130):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), side * rng.uniform(0.01, 0.04)
        draw.ellipse((x - r, y - r, x + r, y + r), shade(earth, rng.uniform(0.6, 1.35)))
    return scene


def _wall(side: int, rng: random.Random) -> Image.Image:
    wall = rng.choice(WALLS)
    scene = _fade(side, shade(wall, rng.uniform(0.85, 1.1)), shade(wall, rng.uniform(0.6, 0.9)))
    return scene.rotate(rng.choice((0, 90, 180, 270)))


def _lights(side: int, rng: random.Random) -> Image.Image:
    dark = shade(rng.choice((*GREENS, *WALLS)), 0.5)
    scene = _fade(side, dark, shade(dark, 1.5))
    _draw_spots(ImageDraw.Draw(scene), side, rng, rng.randint(8, 18))
    return scene


def _draw_spots(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, count: int) -> None:
    """Draw spots in the flowers' colors, so that color alone does not reveal the class."""
    for _ in range(count):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), side * rng.uniform(0.03, 0.09)
        spot = shade(rng.choice(LIGHTS), rng.uniform(0.6, 1))
        draw.ellipse((x - r, y - r, x + r, y + r), spot)
