"""What stands behind the drawn flowers of `sample`."""

import random

from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]

GREENS = ((46, 92, 40), (84, 130, 62), (120, 150, 84), (36, 70, 46), (140, 160, 90))
SKIES = ((120, 170, 220), (170, 200, 226), (206, 214, 220), (226, 196, 170))
EARTHS = ((94, 70, 50), (120, 96, 72), (70, 56, 46), (150, 130, 104))
WALLS = ((214, 204, 190), (180, 196, 204), (110, 104, 120), (226, 214, 170), (60, 62, 70))
LIGHTS = ((240, 220, 120), (236, 140, 150), (250, 250, 245), (150, 120, 200), (120, 180, 90))


def shade(colour: Color, light: float) -> Color:
    """`colour` with every channel times `light`."""
    red, green, blue = (min(255, max(0, round(channel * light))) for channel in colour)
    return red, green, blue


def background(side: int, rng: random.Random) -> Image.Image:
    """A blurred scene of `side` x `side` pixels: meadow, sky over a field, soil, wall or lights."""
    small = side // 4  # it ends blurred, so it can be drawn small
    scene = rng.choice((_meadow, _field, _soil, _wall, _lights))(small, rng)
    blurred = scene.filter(ImageFilter.GaussianBlur(small / rng.uniform(30, 70)))
    return blurred.resize((side, side), Image.Resampling.BICUBIC)


def _fade(side: int, top: Color, bottom: Color) -> Image.Image:
    mask = Image.linear_gradient("L").resize((side, side))
    return Image.composite(
        Image.new("RGB", (side, side), bottom), Image.new("RGB", (side, side), top), mask
    )


def _meadow(side: int, rng: random.Random) -> Image.Image:
    colour = rng.choice(GREENS)
    scene = _fade(side, shade(colour, rng.uniform(0.9, 1.4)), shade(colour, 0.7))
    draw = ImageDraw.Draw(scene)
    for _ in range(90):
        x, y, lean = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(-0.15, 0.15)
        blade = shade(rng.choice(GREENS), rng.uniform(0.7, 1.2))
        draw.line([(x, y), (x + lean * side, y - side * rng.uniform(0.1, 0.35))], blade, 2)
    _blossoms(draw, side, rng, rng.randint(0, 6))
    return scene


def _field(side: int, rng: random.Random) -> Image.Image:
    sky, green = rng.choice(SKIES), rng.choice(GREENS)
    scene = _fade(side, sky, shade(sky, 1.15))
    horizon = round(side * rng.uniform(0.35, 0.75))
    scene.paste(_fade(side, green, shade(green, 0.75)), (0, horizon))
    draw = ImageDraw.Draw(scene)
    for _ in range(rng.randint(3, 9)):
        x, tall = rng.uniform(0, side), side * rng.uniform(0.04, 0.16)
        draw.ellipse((x - tall, horizon - tall, x + tall, horizon + tall / 3), shade(green, 0.6))
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
    _blossoms(ImageDraw.Draw(scene), side, rng, rng.randint(8, 18))
    return scene


def _blossoms(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, count: int) -> None:
    """Soft spots of colour, so that colour alone does not tell the class."""
    for _ in range(count):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), side * rng.uniform(0.03, 0.09)
        spot = shade(rng.choice(LIGHTS), rng.uniform(0.6, 1))
        draw.ellipse((x - r, y - r, x + r, y + r), spot)
