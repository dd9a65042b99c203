"""The five kinds of flowers that `tlcli sample` draws, as polygons with random variation."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw

from tlcli.data.drawings.scenery import Color, shade

Points = list[tuple[float, float]]

WHITES = ((250, 248, 240), (244, 232, 238), (246, 240, 210), (238, 205, 220))
YELLOWS = ((247, 196, 28), (240, 166, 20), (252, 214, 70), (226, 138, 22))
REDS = ((200, 26, 44), (226, 74, 106), (238, 150, 170), (245, 222, 214), (240, 190, 90))
TULIPS = ((214, 36, 40), (244, 190, 40), (226, 100, 150), (122, 48, 140), (240, 226, 220))
VIOLETS = ((122, 92, 190), (96, 80, 176), (152, 116, 200), (130, 110, 210), (170, 140, 196))


@dataclass(frozen=True)
class Frame:
    """The coordinate system of a flower in the image.

    Its unit is the flower's radius, its origin the flower's center, and y points down.

    Attributes:
        draw: the drawing.
        x, y, radius: center and radius, in pixels of the drawing.
        squeeze: height over width of a flower seen at a slant, up to 1.
        rotation: direction of the slant, in radians.
    """

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    radius: float
    squeeze: float = 1.0
    rotation: float = 0.0

    def polygon(self, points: Points, fill: Color) -> None:
        """Fill the polygon `points`, given in this coordinate system."""
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        squeezed = [(x * self.radius, y * self.radius * self.squeeze) for x, y in points]
        self.draw.polygon(
            [(self.x + x * cos - y * sin, self.y + x * sin + y * cos) for x, y in squeezed], fill
        )

    def disc(self, x: float, y: float, radius: float, fill: Color) -> None:
        """Fill a circle."""
        around = (math.tau * step / 24 for step in range(24))
        self.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in around], fill)

    def petal(
        self, angle: float, start: float, length: float, width: float, tip: float, fill: Color
    ) -> None:
        """Draw a petal that starts at a distance from the center and points to `angle`.

        Args:
            angle: in radians.
            tip: shape of the end: 0.5 is round, 1 and above is pointed.
        """
        cos, sin = math.cos(angle), math.sin(angle)
        steps = [step / 10 for step in range(11)]
        edge = [(start + length * t, width * math.sin(math.pi * t**1.3) ** tip) for t in steps]
        outline = edge + [(along, -across) for along, across in reversed(edge)]
        self.polygon([(x * cos - y * sin, x * sin + y * cos) for x, y in outline], fill)


def daisy(frame: Frame, rng: random.Random) -> None:
    """Draw many narrow pale petals around a small yellow center."""
    color, count = rng.choice(WHITES), rng.randint(13, 22)
    draw_stem(frame, rng, 0.07)
    draw_petal_ring(frame, rng, count, (0.2, 0.8, rng.uniform(0.1, 0.15), 0.55), shade(color, 0.88))
    draw_petal_ring(frame, rng, count, (0.2, 0.76, 0.09, 0.55), color)
    center = rng.uniform(0.24, 0.32)
    frame.disc(0, 0.02, center, (190, 126, 16))
    draw_seeds(frame, rng, center, 60, ((246, 200, 40), (232, 172, 24)))


def sunflower(frame: Frame, rng: random.Random) -> None:
    """Draw two rings of pointed yellow petals around a large brown center."""
    color, count = rng.choice(YELLOWS), rng.randint(15, 22)
    draw_stem(frame, rng, 0.12)
    draw_petal_ring(frame, rng, count, (0.35, 0.68, 0.14, 1.0), shade(color, 0.8))
    draw_petal_ring(frame, rng, count, (0.35, 0.58, 0.12, 1.0), color)
    center = rng.uniform(0.42, 0.54)
    frame.disc(0, 0, center, (66, 38, 18))
    draw_seeds(frame, rng, center, 150, ((98, 60, 26), (48, 28, 16), (130, 84, 34)))


def rose(frame: Frame, rng: random.Random) -> None:
    """Draw broad petals folded over each other in a spiral, darker towards the center."""
    color = rng.choice(REDS)
    draw_stem(frame, rng, 0.08)
    for layer in range(6):
        out = 0.62 * (1 - layer / 6)
        count = 6 - layer // 2
        first = rng.uniform(0, math.tau)
        for petal in range(count):
            angle = first + math.tau * petal / count
            x, y = out * math.cos(angle), out * math.sin(angle)
            size = 0.42 * (1 - layer / 7.5)
            frame.disc(x, y, size, shade(color, 0.62 + 0.03 * layer))
            light = shade(color, rng.uniform(0.95, 1.08) - 0.07 * layer)
            frame.disc(x * 0.95, y * 0.95, size * 0.91, light)
    turns = [step / 22 for step in range(45)]
    curl = [(0.17 * t / 2 * math.cos(6 * t), 0.17 * t / 2 * math.sin(6 * t)) for t in turns]
    for x, y in curl:
        frame.disc(x, y, 0.03, shade(color, 0.45))


def tulip(frame: Frame, rng: random.Random) -> None:
    """Draw a cup from the side, on a stem with long pointed leaves."""
    color = rng.choice(TULIPS)
    draw_stem(frame, rng, 0.09)
    for side in (-1, 1):
        green = rng.choice(((58, 122, 52), (78, 138, 66), (92, 142, 84)))
        angle = math.pi / 2 + side * rng.uniform(-2.75, -2.45)
        foot = Frame(frame.draw, frame.x, frame.y + 3.1 * frame.radius, frame.radius)
        foot.petal(angle, 0, rng.uniform(1.7, 2.5), 0.2, 0.9, green)
    spread = rng.uniform(0.16, 0.34)
    up = -math.pi / 2
    base = Frame(frame.draw, frame.x, frame.y + 0.8 * frame.radius, frame.radius, 1, frame.rotation)
    petals = (
        (0.0, 1.75, 0.46, 0.7), (-spread, 1.75, 0.48, 0.84), (spread, 1.75, 0.48, 0.78),
        (-0.08, 1.5, 0.42, 1.0), (0.05, 1.46, 0.3, 1.08),
    )  # fmt: skip
    for tilt, length, width, light in petals:
        base.petal(up + tilt, -0.08, length, width, 0.75, shade(color, light))


def lavender(frame: Frame, rng: random.Random) -> None:
    """Draw spikes of small violet blossoms on thin stems."""
    for _ in range(rng.randint(3, 6)):
        color = rng.choice(VIOLETS)
        x = frame.x + frame.radius * rng.uniform(-1, 1)
        y = frame.y + frame.radius * rng.uniform(-0.2, 0.3)
        tilt = rng.uniform(-0.25, 0.25)
        spike = Frame(frame.draw, x, y, frame.radius, 1, tilt)
        draw_stem(spike, rng, 0.035, leaves=False)
        for step in range(11):
            up = 1 - 2 * step / 10
            half_width = 0.21 * (1 - 0.65 * step / 10)
            for _ in range(4):
                across, light = rng.uniform(-half_width, half_width), rng.uniform(0.75, 1.2)
                spike.disc(across, up, rng.uniform(0.06, 0.1), shade(color, light))


FLOWERS: dict[str, Callable[[Frame, random.Random], None]] = {
    "daisy": daisy,
    "lavender": lavender,
    "rose": rose,
    "sunflower": sunflower,
    "tulip": tulip,
}


def draw_stem(frame: Frame, rng: random.Random, half_width: float, leaves: bool = True) -> None:
    """Draw a bent stem from the flower down out of the image."""
    green = rng.choice(((52, 104, 42), (74, 128, 58), (96, 140, 70)))
    bend, foot = (
        rng.uniform(-0.4, 0.4),
        10,
    )  # in radii: even the smallest flower's stem ends below the image
    line = [(bend * (t / 10) ** 2, foot * t / 10) for t in range(11)]
    upright = Frame(frame.draw, frame.x, frame.y, frame.radius)
    edges = [(x - half_width, y) for x, y in line] + [
        (x + half_width, y) for x, y in reversed(line)
    ]
    upright.polygon(edges, green)
    for side in (-1, 1) if leaves else ():
        leaf = Frame(
            frame.draw, frame.x, frame.y + frame.radius * rng.uniform(1.3, 2), frame.radius
        )
        angle = math.pi / 2 + side * rng.uniform(-1.9, -1.1)
        leaf.petal(angle, 0, rng.uniform(0.5, 0.9), 0.16, 1.0, shade(green, rng.uniform(0.9, 1.2)))


def draw_petal_ring(
    frame: Frame,
    rng: random.Random,
    count: int,
    petal: tuple[float, float, float, float],
    color: Color,
) -> None:
    """Draw `count` slightly different petals (start, length, width, tip) all around."""
    start, length, width, tip = petal
    first = rng.uniform(0, math.tau)
    for index in range(count):
        angle = first + math.tau * (index + rng.uniform(-0.2, 0.2)) / count
        fill = shade(color, rng.uniform(0.9, 1.06))
        frame.petal(angle, start, length * rng.uniform(0.88, 1.08), width, tip, fill)


def draw_seeds(
    frame: Frame, rng: random.Random, radius: float, count: int, colors: tuple[Color, ...]
) -> None:
    """Draw dots in the spirals of Vogel's model (1979), which are a golden angle apart."""
    for index in range(count):
        out = radius * 0.94 * math.sqrt((index + 0.5) / count)
        angle = index * math.pi * (3 - math.sqrt(5))
        x, y = out * math.cos(angle), out * math.sin(angle)
        frame.disc(x, y, radius * 0.75 / math.sqrt(count), rng.choice(colors))
