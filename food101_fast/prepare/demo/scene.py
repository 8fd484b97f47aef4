"""What the pictures of the `demo:` source have in common: camera, light, table, plate and the look of a photograph.

A scene depends on nothing but its generator, and whole pictures are filtered by Pillow's integer arithmetic, so that
processors cannot round apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]
T = TypeVar("T")

SIZES = ((256, 192), (192, 256), (256, 256), (224, 256), (256, 224), (256, 171), (240, 180), (256, 208))
# Muted, and the same for every class, so that they neither drown the food nor give it away.
TABLES: tuple[Color, ...] = (
    (168, 146, 122), (112, 96, 84), (202, 188, 168), (200, 195, 186), (74, 72, 76), (118, 128, 142),
    (160, 154, 148), (184, 182, 188),
)  # fmt: skip
WARES: tuple[Color, ...] = (
    (214, 212, 207), (214, 212, 207), (202, 197, 188), (184, 190, 197), (66, 66, 70), (122, 134, 154)
)  # fmt: skip
SPRINKLES: tuple[Color, ...] = ((240, 80, 110), (90, 170, 230), (250, 220, 90), (250, 250, 250))
TURNS = tuple((math.cos(i * math.tau / 40), math.sin(i * math.tau / 40)) for i in range(40))


def _endless(rng: np.random.Generator) -> Iterator[float]:
    # A generator call per number would take longer than the drawing itself.
    while True:
        yield from rng.random(1024).tolist()


def shade(color: Color, factor: float) -> Color:
    """The color times a factor; above 1 brighter."""
    red, green, blue = color
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


def mix(a: Color, b: Color, share: float) -> Color:
    """A color between two; share 0 is `a`, 1 is `b`."""
    red, green, blue = (int(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


class Scene:
    """A canvas with a camera, a light and a supply of random numbers.

    Painters work in food coordinates: the food is about one unit in radius around (0, 0), and the scene
    turns, tilts, scales and moves that frame into the picture.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Choose the picture's size, camera and light, and lay the table."""
        self.rng = rng
        self._rolls = _endless(rng)
        self.size = self.pick(SIZES)
        width, height = self.size
        self.radius = min(width, height) * self.uniform(0.36, 0.46)
        self.x, self.y = width * self.uniform(0.43, 0.57), height * self.uniform(0.45, 0.56)
        self.squash = self.uniform(0.6, 0.97)
        self.lift = 0.0
        self.turn_to(self.uniform(0, math.tau))
        self.light = (self.uniform(-0.9, 0.9), self.uniform(-0.9, -0.3))
        self.ground = self.jitter(self.pick(TABLES), 9)
        self.image = _table(self)
        self.pen = ImageDraw.Draw(self.image)
        self.glaze = ImageDraw.Draw(self.image, "RGBA")

    def uniform(self, low: float, high: float) -> float:
        """Return a random number from low to high."""
        return low + (high - low) * next(self._rolls)

    def count(self, low: int, high: int) -> int:
        """Return a random whole number from low to high, both included."""
        return low + int(next(self._rolls) * (high - low + 1))

    def chance(self, share: float) -> bool:
        """Return True in the given share of calls."""
        return next(self._rolls) < share

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[int(next(self._rolls) * len(options))]

    def jitter(self, color: Color, spread: float) -> Color:
        """Return the color with its brightness and each of its channels moved a little."""
        common = self.uniform(-spread, spread)
        red, green, blue = (max(0, min(255, int(c + common + self.uniform(-spread, spread) / 2))) for c in color)
        return red, green, blue

    def turn_to(self, angle: float) -> None:
        """Turn the food frame to an angle."""
        self._cos, self._sin = math.cos(angle), math.sin(angle)

    def stand(self, height: float) -> None:
        """Switch from a food lying flat to one that stands upright, with its middle lifted off the plate."""
        self.turn_to(self.uniform(-0.16, 0.16))
        self.squash = 1.0
        self.lift = height

    def scatter(self, reach: float) -> Point:
        """Return a random point within reach of the center."""
        distance, angle = reach * math.sqrt(next(self._rolls)), self.uniform(0, math.tau)
        return distance * math.cos(angle), distance * math.sin(angle)

    def to_picture(self, points: Sequence[Point]) -> list[Point]:
        """Convert points from food coordinates to pixels of the picture."""
        r, flat, cos, sin = self.radius, self.radius * self.squash, self._cos, self._sin
        x, y = self.x, self.y - self.lift * r
        return [(x + r * (u * cos - v * sin), y + flat * (u * sin + v * cos)) for u, v in points]

    def outline(self, u: float, v: float, ru: float, rv: float, turn: float = 0.0, wobble: float = 0.0) -> list[Point]:
        """Return the outline, in the picture, of an ellipse with an unsteady rim."""
        extent = max(ru, rv) * self.radius
        step = 4 if extent < 18 else 2 if extent < 70 else 1
        cos, sin, rolls = math.cos(turn), math.sin(turn), self._rolls
        knots = [1 + wobble * (2 * next(rolls) - 1) for _ in range(10)]
        points = []
        for i in range(0, 40, step):
            between = (i % 4) / 4
            swell = knots[i // 4] * (1 - between) + knots[(i // 4 + 1) % 10] * between
            a, b = TURNS[i][0] * ru * swell, TURNS[i][1] * rv * swell
            points.append((u + a * cos - b * sin, v + a * sin + b * cos))
        return self.to_picture(points)

    def mold(self, points: Sequence[Point], color: Color, relief: float = 0.3, steps: int = 3) -> None:
        """Fill an outline as a rounded body: dark away from the light, brighter towards it."""
        xs, ys = zip(*points, strict=True)
        middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
        reach = max(max(xs) - middle_x, max(ys) - middle_y)
        for i in range(steps):
            height = i / (steps - 1)
            scale, shift = 1 - 0.55 * height, reach * 0.3 * height
            x, y = middle_x + self.light[0] * shift, middle_y + self.light[1] * shift
            layer = [(x + (px - middle_x) * scale, y + (py - middle_y) * scale) for px, py in points]
            self.pen.polygon(layer, fill=shade(color, 1 - relief + 1.5 * relief * height))

    def shadow(self, points: Sequence[Point], depth: float) -> None:
        """Darken the ground softly beside an outline, on the side away from the light."""
        for i in (1.0, 2.5):
            dx, dy = -self.light[0] * depth * i, -self.light[1] * depth * i
            self.glaze.polygon([(x + dx, y + dy) for x, y in points], fill=(15, 10, 5, 60))

    def lump(self, u: float, v: float, ru: float, rv: float, color: Color, *, turn: float = 0.0,
             wobble: float = 0.12, relief: float = 0.25, steps: int = 3) -> None:  # fmt: skip
        """Draw a rounded lump with a little shadow under it."""
        points = self.outline(u, v, ru, rv, turn, wobble)
        drop = 1 + 0.06 * self.radius * max(ru, rv)
        dx, dy = self.light[0] * drop, self.light[1] * drop
        self.glaze.polygon([(x - dx, y - dy) for x, y in points], fill=(20, 12, 5, 90))
        self.mold(points, color, relief, steps)

    def patch(self, u: float, v: float, ru: float, rv: float, color: tuple[int, ...], *,
              turn: float = 0.0, wobble: float = 0.1) -> None:  # fmt: skip
        """Draw a flat patch."""
        pen = self.pen if len(color) == 3 else self.glaze
        pen.polygon(self.outline(u, v, ru, rv, turn, wobble), fill=color)

    def stroke(self, points: Sequence[Point], width: float, color: Color, rim: float = 0.7) -> None:
        """Draw a rounded cord along points, its far side darker."""
        placed, pixels = self.to_picture(points), max(1, round(width * self.radius))
        below = [(x - self.light[0], y - self.light[1] + 1) for x, y in placed]
        self.pen.line(below, fill=shade(color, rim), width=pixels + 1)
        self.pen.line(placed, fill=color, width=pixels)

    def sprinkle(self, u: float, v: float, inner: float, outer: float, amount: int) -> None:
        """Scatter colored sprinkles over a ring."""
        for _ in range(amount):
            angle, lean = self.uniform(0, math.tau), self.uniform(0, math.tau)
            reach = self.uniform(inner, outer)
            x, y = u + reach * math.cos(angle), v + reach * math.sin(angle)
            dx, dy = 0.04 * math.cos(lean), 0.04 * math.sin(lean)
            self.stroke([(x - dx, y - dy), (x + dx, y + dy)], 0.025, self.pick(SPRINKLES))


def _table(s: Scene) -> Image.Image:
    # Half size: cheaper to draw, and enlarging it leaves the table softly out of focus behind the food.
    width, height = s.size[0] // 2, s.size[1] // 2
    image = Image.new("RGB", (width, height), s.ground)
    pen = ImageDraw.Draw(image, "RGBA")
    slope, pitch, style = s.uniform(-0.5, 0.5), s.uniform(12, 34), s.count(0, 3)
    if style == 1:
        for y in range(-width, height + width, 3):
            tint = shade(s.ground, s.uniform(0.88, 1.1))
            pen.line([(0, y), (width, y + slope * width)], fill=tint, width=s.count(1, 3))
    if style in (1, 2):
        for i in range(-12, 24):
            pen.line([(0, i * pitch), (width, i * pitch + slope * width)], fill=(30, 20, 15, 70), width=style)
    if style == 3:
        stripe = (*s.jitter(s.pick(TABLES), 30), 80)
        for i in range(-12, 24, 2):
            start = i * pitch / 2
            pen.line([(0, start), (width, start + slope * width)], fill=stripe, width=int(pitch / 2))
            pen.line([(start, 0), (start - slope * height, height)], fill=stripe, width=int(pitch / 2))
    for _ in range(s.pick((0, 0, 1, 1, 2))):
        _prop(s, pen, width, height)
    return image.resize(s.size, Image.Resampling.BILINEAR)


def _prop(s: Scene, pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    x, y = s.pick((0.04, 0.96)) * width, s.uniform(0, 1) * height
    if s.chance(0.5):
        color = s.jitter(s.pick(WARES), 20)
        for i, size in enumerate((26, 23, 20)):
            pen.ellipse([x - size, y - size, x + size, y + size], fill=shade(color, 0.8 + 0.12 * i))
    else:
        lean = s.uniform(-15, 15)
        napkin = [(x - 28, y - 25 + lean), (x + 28, y - 25), (x + 28 + lean, y + 28), (x - 25, y + 30)]
        pen.polygon(napkin, fill=s.jitter(s.pick(TABLES), 30))


def lay_plate(s: Scene) -> None:
    """Draw a round or square plate, or none."""
    kind, color, size = s.uniform(0, 1), s.jitter(s.pick(WARES), 12), s.uniform(1.15, 1.5)
    if kind < 0.18:
        return
    if kind < 0.4:
        half = size * s.uniform(0.7, 0.9)
        points = s.to_picture([(-size, -half), (size, -half), (size, half), (-size, half)])
        s.shadow(points, 1.5)
        s.pen.polygon(points, fill=color)
    else:
        points = s.outline(0, 0, size, size)
        s.shadow(points, 2)
        s.pen.polygon(points, fill=color)
        s.patch(0, 0, size * 0.97, size * 0.97, shade(color, 1.06), wobble=0)
        s.patch(0, 0, size * 0.74, size * 0.74, shade(color, 0.88), wobble=0)
        s.patch(0, 0, size * 0.71, size * 0.71, shade(color, 0.98), wobble=0)
    s.ground = color


def place_bowl(s: Scene) -> None:
    """Draw a bowl."""
    color = s.jitter(s.pick(WARES), 15)
    points = s.outline(0, 0, 1.12, 1.12)
    s.shadow(points, 2.5)
    s.mold(points, color, 0.2)
    s.patch(0, 0, 1.02, 1.02, shade(color, 0.55), wobble=0)


def photograph(s: Scene) -> Image.Image:
    """Finish the picture like a photograph: light, color cast, blur and noise."""
    rng, (width, height) = s.rng, s.size
    ys, xs = np.mgrid[-1:1:24j, -1:1:24j]
    light = 1 + s.uniform(-0.2, 0.2) * xs + s.uniform(-0.2, 0.2) * ys - s.uniform(0, 0.15) * (xs * xs + ys * ys)
    light = 210 * s.uniform(0.85, 1.12) * light - 10 * rng.random((24, 24))
    field = Image.fromarray(light.clip(0, 255).astype(np.uint8)).resize(s.size, Image.Resampling.BILINEAR)
    # The light can only darken, so the picture is brightened first, a little differently in each channel.
    gains = [1.2 * s.uniform(0.95, 1.05) for _ in range(3)]
    curves = np.outer(gains, np.arange(256)).clip(0, 255).astype(np.uint8)
    image = s.image.point(curves.ravel().tolist())
    # Pillow's blurs take a third of the time of a whole picture, and this little is enough to smooth edges.
    for shift in ((1, 0), (0, 1)):
        image = Image.blend(image, ImageChops.offset(image, *shift), s.uniform(0.3, 0.5))
    strength = s.count(3, 10)
    noise = Image.fromarray(rng.integers(0, 2 * strength + 1, (height, width), np.uint8))
    image = ImageChops.multiply(image, field.convert("RGB"))
    return ImageChops.add(image, noise.convert("RGB"), offset=-strength)
