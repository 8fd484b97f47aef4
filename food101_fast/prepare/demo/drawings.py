"""The `demo:` data source: food pictures drawn on the spot, for a run with no data and no network.

Ten Food-101 classes are painted as loose, photograph-like pictures. Tables, plates, light and noise come from one
scene for every class, and some classes share a palette, so that a model has to look at shapes and textures. A picture
depends on nothing but its label and seed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np

from food101_fast.prepare.demo.scene import (
    TABLES,
    TURNS,
    WARES,
    Color,
    Scene,
    lay_plate,
    mix,
    photograph,
    place_bowl,
    shade,
)


def _caesar_salad(s: Scene) -> None:
    if s.chance(0.55):
        place_bowl(s)
    base = s.jitter((112, 168, 62), 12)
    pale = s.jitter((206, 220, 150), 12)
    for i in range(s.count(20, 28)):
        u, v = s.scatter(0.78)
        turn, length = s.uniform(0, math.tau), s.uniform(0.24, 0.44)
        green = s.jitter(mix(base, pale, s.uniform(0, 0.6)), 16)
        green, breadth = shade(green, 0.75 + 0.012 * i), length * s.uniform(0.4, 0.65)
        s.lump(u, v, length, breadth, green, turn=turn, wobble=0.28)
        du, dv = 0.8 * length * math.cos(turn), 0.8 * length * math.sin(turn)
        s.stroke([(u - du, v - dv), (u + du, v + dv)], 0.03, pale, 0.9)
    for _ in range(s.count(4, 9)):
        _cube(s, *s.scatter(0.65), s.uniform(0.09, 0.14), s.jitter((196, 142, 78), 20))
    for _ in range(s.count(4, 12)):
        u, v = s.scatter(0.7)
        s.lump(u, v, s.uniform(0.08, 0.2), 0.04, s.jitter((244, 234, 204), 8), turn=s.uniform(0, 3), relief=0.1)


def _cube(s: Scene, u: float, v: float, half: float, color: Color) -> None:
    angle = s.uniform(0, math.tau)
    corners = [(u + half * math.cos(angle + i * math.pi / 2), v + half * math.sin(angle + i * math.pi / 2))
               for i in range(4)]  # fmt: skip
    side = s.to_picture(corners)
    depth = half * s.radius
    s.pen.polygon([(x + 1, y + depth * 0.8) for x, y in side], fill=shade(color, 0.55))
    s.pen.polygon([(x, y + depth * 0.4) for x, y in side], fill=shade(color, 0.7))
    s.pen.polygon(side, fill=shade(color, 1.1))


def _donuts(s: Scene) -> None:
    amount = s.pick((1, 1, 2, 3, 4))
    reach = (0.0, 0.0, 0.52, 0.62, 0.72)[amount]
    size = (0.0, 0.95, 0.6, 0.52, 0.48)[amount]
    # Mostly pink: with every icing equally frequent, small networks took donuts for most other classes.
    pink = (232, 128, 162)
    flavors: tuple[Color, ...] = (pink, pink, pink, (84, 48, 30), (240, 228, 212))
    for i in range(amount):
        angle = i * math.tau / amount + s.uniform(-0.2, 0.2)
        u, v = reach * math.cos(angle), reach * math.sin(angle)
        dough, icing = s.jitter((190, 128, 66), 12), s.jitter(s.pick(flavors), 16)
        points = s.outline(u, v, size, size, 0, 0.03)
        s.shadow(points, 2)
        s.mold(points, dough, 0.3)
        s.patch(u, v, size * 0.87, size * 0.87, shade(icing, 0.85), wobble=0.06)
        s.patch(u, v, size * 0.78, size * 0.78, icing, wobble=0.04)
        s.patch(u, v, size * 0.66, size * 0.66, shade(icing, 1.1), wobble=0.04)
        s.patch(u, v, size * 0.55, size * 0.55, icing, wobble=0.04)
        if s.chance(0.8):
            s.sprinkle(u, v, size * 0.48, size * 0.8, s.count(12, 30))
        s.patch(u, v, size * 0.38, size * 0.38, shade(icing, 0.7), wobble=0.05)
        s.patch(u, v, size * 0.32, size * 0.32, shade(dough, 0.75), wobble=0.03)
        s.patch(u, v + 0.03, size * 0.25, size * 0.23, shade(s.ground, 0.6), wobble=0.03)


def _stick(s: Scene, u: float, v: float, angle: float, length: float, color: Color) -> None:
    du, dv = length / 2 * math.cos(angle), length / 2 * math.sin(angle)
    half = s.uniform(0.045, 0.065)
    nu, nv = -half * math.sin(angle), half * math.cos(angle)
    body = s.to_picture([(u - du - nu, v - dv - nv), (u + du - nu, v + dv - nv),
                    (u + du + nu, v + dv + nv), (u - du + nu, v - dv + nv)])  # fmt: skip
    s.glaze.polygon([(x - 2 * s.light[0], y - 3 * s.light[1]) for x, y in body], fill=(50, 25, 5, 110))
    s.pen.polygon(body, fill=shade(color, 0.78))
    s.stroke([(u - du * 0.93, v - dv * 0.93), (u + du * 0.93, v + dv * 0.93)], half, shade(color, 1.12), 0.95)


def _french_fries(s: Scene) -> None:
    base = s.jitter((222, 172, 84), 12)
    carton = s.chance(0.35)
    spread = s.uniform(0.25, 0.9)
    if carton:
        s.stand(0.2)
    for _ in range(s.count(26, 44)):
        color = s.jitter(base, 18)
        if carton:
            u = s.uniform(-0.55, 0.55)
            _stick(s, u * 1.2, s.uniform(-0.35, 0.0), -math.pi / 2 + u * 0.6 + s.uniform(-0.2, 0.2),
                   s.uniform(0.8, 1.4), color)  # fmt: skip
        else:
            u, v = s.scatter(0.62)
            _stick(s, u, v, s.uniform(-spread, spread), s.uniform(0.6, 1.25), color)
    if carton:
        paper = s.jitter(s.pick(WARES + TABLES), 20)
        box = [(-0.72, -0.1), (-0.3, 0.05), (0.3, 0.05), (0.72, -0.1), (0.5, 1.0), (-0.5, 1.0)]
        s.mold(s.to_picture(box), paper, 0.15, 2)
    elif s.chance(0.4):
        u, v = s.scatter(0.8)
        s.lump(u, v, 0.26, 0.26, (236, 232, 224), wobble=0)
        s.patch(u, v, 0.2, 0.2, s.jitter((180, 34, 22), 14))


def _guacamole(s: Scene) -> None:
    for _ in range(s.pick((0, 3, 6, 9))):
        angle, reach, turn = s.uniform(0, math.tau), s.uniform(1.05, 1.35), s.uniform(0, math.tau)
        u, v = reach * math.cos(angle), reach * math.sin(angle)
        chip = [(u + 0.34 * math.cos(turn + i * 2.1), v + 0.34 * math.sin(turn + i * 2.1)) for i in range(3)]
        s.shadow(s.to_picture(chip), 1)
        s.mold(s.to_picture(chip), s.jitter((222, 172, 92), 18), 0.2, 2)
    if s.chance(0.8):
        place_bowl(s)
    base = s.jitter((134, 144, 48), 12)
    s.patch(0, 0, 0.94, 0.94, shade(base, 0.75), wobble=0.04)
    for _ in range(s.count(38, 48)):
        u, v = s.scatter(0.8)
        ru, rv = s.uniform(0.08, 0.2), s.uniform(0.07, 0.15)
        s.lump(u, v, ru, rv, s.jitter(base, 18), turn=u, wobble=0.25, relief=0.18)
    for _ in range(s.count(8, 20)):
        u, v = s.scatter(0.75)
        fleck = s.pick(((196, 54, 36), (238, 232, 214), (52, 92, 34), (150, 74, 110)))
        s.lump(u, v, s.uniform(0.03, 0.06), s.uniform(0.03, 0.05), s.jitter(fleck, 12), steps=2)


def _hamburger(s: Scene) -> None:
    s.shadow(s.outline(0, 0.1, 0.9, 0.8), 2)
    s.stand(0.25)
    bun = s.jitter((198, 130, 62), 12)
    s.mold(s.outline(0, 0.62, 0.86, 0.3, 0, 0.03), shade(bun, 1.05), 0.3)
    v = 0.5
    layers: list[tuple[Color, float]] = [((84, 50, 32), 0.05), ((240, 180, 50), 0.12), ((190, 48, 34), 0.05),
                                          ((116, 164, 60), 0.18), ((96, 58, 36), 0.06)]  # fmt: skip
    for color, wobble in layers[: s.count(4, 5)] if s.chance(0.5) else (layers[3], layers[0], layers[1]):
        thick = s.uniform(0.26, 0.34)
        slice_ = s.outline(s.uniform(-0.05, 0.05), v, s.uniform(0.88, 1.0), thick, 0, wobble)
        s.mold(slice_, s.jitter(color, 14), 0.25)
        v -= s.uniform(0.1, 0.16)
    height = s.uniform(0.55, 0.8)
    rim = [(0.94 * cos, v + (height if sin < 0 else 0.24) * sin) for cos, sin in TURNS]
    s.glaze.polygon([(x, y + 3) for x, y in s.to_picture(rim)], fill=(30, 15, 5, 110))
    s.mold(s.to_picture(rim), bun, 0.3, 6)
    if s.chance(0.65):
        for _ in range(s.count(10, 30)):
            u = s.uniform(-0.65, 0.65)
            rise = height * s.uniform(0.1, 0.85) * (1 - u * u)
            s.lump(u, v - rise, 0.035, 0.022, (244, 226, 182), turn=u, steps=2)


def _ice_cream(s: Scene) -> None:
    s.shadow(s.outline(0, 0.1, 0.6, 0.6), 2)
    s.stand(s.uniform(0.1, 0.3))
    flavors: tuple[Color, ...] = (
        (242, 228, 196),
        (230, 150, 168),
        (104, 64, 42),
        (170, 212, 160),
        (224, 206, 160),
    )
    amount = s.count(1, 3)
    size = (0.0, 0.62, 0.5, 0.44)[amount]
    if s.chance(0.5):
        tan = s.jitter((206, 150, 84), 16)
        s.mold(s.to_picture([(-0.56, 0.05), (0.56, 0.05), (0.06, 1.25), (-0.06, 1.25)]), tan, 0.15, 2)
        for i in range(-3, 4):
            s.stroke([(i * 0.16, 0.05), (i * 0.02 + 0.1, 0.9)], 0.02, shade(tan, 0.72))
            s.stroke([(i * 0.16, 0.05), (i * 0.02 - 0.1, 0.9)], 0.02, shade(tan, 0.72))
    else:
        cup = s.jitter(s.pick(WARES), 20)
        s.mold(s.to_picture([(-0.8, 0.0), (0.8, 0.0), (0.5, 0.85), (-0.5, 0.85)]), cup, 0.2)
        s.patch(0, 0.0, 0.8, 0.16, shade(cup, 0.7), wobble=0)
    spots = {
        1: [(0.0, -0.3)],
        2: [(-0.28, -0.18), (0.3, -0.22)],
        3: [(-0.34, -0.1), (0.36, -0.12), (0.0, -0.62)],
    }
    for u, v in spots[amount]:
        flavor = s.jitter(s.pick(flavors), 14)
        s.mold(s.outline(u, v + size * 0.7, size * 1.05, size * 0.3, 0, 0.15), shade(flavor, 0.95))
        s.mold(s.outline(u, v, size, size, 0, 0.05), flavor, 0.22, 6)
        for _ in range(s.count(4, 10)):
            du, dv = s.scatter(size * 0.75)
            s.patch(u + du, v + dv, 0.07, 0.02, (*shade(flavor, s.pick((0.8, 1.12))), 130), turn=s.uniform(0, 3))
    u, v = spots[amount][-1]
    if s.chance(0.4):
        sauce = s.jitter(s.pick(((70, 36, 20), (150, 30, 44), (190, 116, 40))), 10)
        s.patch(u, v - size * 0.5, size * 0.75, size * 0.42, sauce, wobble=0.35)
    if s.chance(0.4):
        s.sprinkle(u, v - size * 0.3, 0, size * 0.6, s.count(8, 20))


def _pancakes(s: Scene) -> None:
    base, amount, thick = s.jitter((204, 140, 66), 12), s.count(2, 6), s.uniform(0.09, 0.14)
    s.lift = -amount * thick / 2
    s.shadow(s.outline(0, 0, 0.95, 0.95), 2.5)
    for _ in range(amount):
        u, v = s.scatter(0.07)
        size, cake = s.uniform(0.86, 0.98), s.jitter(base, 10)
        s.patch(u, v, size, size, shade(cake, 0.6), wobble=0.02)
        for _ in range(2):
            s.lift += thick / 2
            s.patch(u, v, size, size, mix(cake, (244, 216, 150), 0.65), wobble=0.015)
        s.patch(u, v, size * 0.96, size * 0.96, cake, wobble=0.02)
        s.patch(u, v, size * 0.8, size * 0.8, shade(cake, 0.86), wobble=0.08)
    if s.chance(0.7):
        amber = s.jitter((130, 66, 18), 14)
        s.patch(0, 0, 0.6, 0.6, (*amber, 190), wobble=0.35)
        s.patch(0.1, -0.1, 0.25, 0.18, (255, 220, 170, 60), wobble=0.3)
    if s.chance(0.6):
        _cube(s, *s.scatter(0.25), s.uniform(0.17, 0.24), (250, 226, 130))
    for _ in range(s.pick((0, 0, 5, 9))):
        u, v = s.scatter(0.7)
        s.lump(u, v, 0.1, 0.1, s.jitter(s.pick(((52, 56, 104), (190, 36, 48))), 12))


def _leaf(s: Scene, u: float, v: float, size: float) -> None:
    s.lump(u, v, size, size * 0.55, s.jitter((62, 116, 44), 16), turn=s.uniform(0, math.tau), wobble=0.1)


def _pizza(s: Scene) -> None:
    crust, sauce = s.jitter((204, 148, 80), 12), s.jitter((186, 62, 34), 12)
    points = s.outline(0, 0, 1, 1, 0, 0.03)
    s.shadow(points, 2)
    s.mold(points, crust, 0.2, 2)
    for _ in range(s.count(6, 16)):
        angle = s.uniform(0, math.tau)
        s.patch(0.93 * math.cos(angle), 0.93 * math.sin(angle), 0.07, 0.05, (*shade(crust, 0.6), 150))
    s.patch(0, 0, 0.86, 0.86, shade(sauce, 0.8), wobble=0.04)
    s.patch(0, 0, 0.83, 0.83, sauce, wobble=0.04)
    cheese = s.jitter((240, 204, 118), 14)
    for _ in range(s.count(22, 40)):
        u, v = s.scatter(0.7)
        s.patch(u, v, s.uniform(0.1, 0.22), s.uniform(0.08, 0.18), s.jitter(cheese, 14), turn=u * 5, wobble=0.3)
    meat, dots = s.jitter((168, 48, 34), 14), s.pick((0, 6, 9, 13))
    for _ in range(dots):
        u, v = s.scatter(0.68)
        s.lump(u, v, 0.13, 0.13, s.jitter(meat, 10), wobble=0.04, relief=0.15)
    for _ in range(s.pick((0, 6, 12)) if dots else 8):
        u, v = s.scatter(0.7)
        s.lump(u, v, 0.06, 0.06, s.pick(((40, 38, 36), (70, 110, 50), (224, 206, 176))), steps=2)
        s.patch(u, v, 0.025, 0.025, sauce)
    for _ in range(s.pick((0, 0, 3, 6))):
        _leaf(s, *s.scatter(0.6), 0.14)
    for i in range(s.pick((0, 3, 4))):
        cos, sin = math.cos(i * 0.8), math.sin(i * 0.8)
        s.glaze.line(s.to_picture([(-cos, -sin), (cos, sin)]), fill=(70, 30, 12, 190), width=2)


def _spaghetti_bolognese(s: Scene) -> None:
    if s.chance(0.4):
        place_bowl(s)
    pasta = s.jitter((240, 208, 126), 12)
    s.patch(0, 0, 0.85, 0.85, shade(pasta, 0.62), wobble=0.1)
    for i in range(s.count(48, 60)):
        u, v = s.scatter(0.5)
        size, start, bend = s.uniform(0.2, 0.5), s.uniform(0, math.tau), s.uniform(0.25, 0.55)
        curve = [(u + size * math.cos(start + k * bend), v + size * math.sin(start + k * bend)) for k in range(7)]
        s.stroke(curve, 0.035, shade(s.jitter(pasta, 12), 0.8 + 0.004 * i), 0.6)
    sauce = s.jitter((150, 52, 26), 12)
    reach = s.uniform(0.3, 0.46)
    s.patch(0, 0, reach, reach, (*sauce, 210), wobble=0.3)
    for _ in range(s.count(22, 34)):
        u, v = s.scatter(reach)
        s.lump(u, v, s.uniform(0.05, 0.11), s.uniform(0.05, 0.09), s.jitter(sauce, 22), turn=u, wobble=0.3)
    for _ in range(s.pick((0, 12, 24))):
        u, v = s.scatter(reach)
        s.patch(u, v, 0.035, 0.02, (248, 236, 200), turn=u * 9)
    for _ in range(s.pick((0, 1, 2, 3))):
        _leaf(s, *s.scatter(0.3), 0.16)


def _sushi(s: Scene) -> None:
    columns, rows = s.pick(((2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (3, 3)))
    size = min(0.42, 0.95 / columns)
    inside_out = s.chance(0.35)
    fish = s.jitter(s.pick(((240, 128, 74), (200, 50, 52), (236, 190, 150), (240, 206, 80))), 14)
    for i in range(columns * rows):
        u = (i % columns - (columns - 1) / 2) * size * 2.15 + s.uniform(-0.05, 0.05)
        v = (i // columns - (rows - 1) / 2) * size * 2.15 + s.uniform(-0.05, 0.05)
        _roll(s, u, v, size * 0.92, fish, inside_out)
    if s.chance(0.4):
        s.lump(*s.scatter(1.1), 0.14, 0.12, s.jitter((142, 170, 80), 12), wobble=0.2)


def _roll(s: Scene, u: float, v: float, size: float, fish: Color, inside_out: bool) -> None:
    nori, rice = s.jitter((34, 42, 36), 8), s.jitter((224, 220, 210), 8)
    outer, inner = (rice, nori) if inside_out else (nori, rice)
    base = s.outline(u, v, size, size, 0, 0.03)
    s.shadow(base, 1)
    s.pen.polygon(base, fill=shade(outer, 0.7))
    s.lift += 0.1
    s.patch(u, v, size, size, shade(outer, 0.8), wobble=0.03)
    s.lift += 0.06
    s.patch(u, v, size, size, outer, wobble=0.03)
    core = size * (0.62 if inside_out else 0.86)
    s.patch(u, v, core, core, inner, wobble=0.05)
    for _ in range(9):
        du, dv = s.scatter(size * 0.7)
        s.patch(u + du, v + dv, 0.03, 0.02, shade(rice, s.uniform(0.85, 1.05)), turn=du * 9)
    s.lump(u - size * 0.1, v, size * 0.34, size * 0.3, fish, wobble=0.2)
    green = s.pick(((120, 166, 70), (244, 214, 96)))
    s.lump(u + size * 0.22, v + size * 0.1, size * 0.2, size * 0.16, green, steps=2)
    s.lift -= 0.16


_PAINTERS: dict[str, Callable[[Scene], None]] = {
    "caesar_salad": _caesar_salad,
    "donuts": _donuts,
    "french_fries": _french_fries,
    "guacamole": _guacamole,
    "hamburger": _hamburger,
    "ice_cream": _ice_cream,
    "pancakes": _pancakes,
    "pizza": _pizza,
    "spaghetti_bolognese": _spaghetti_bolognese,
    "sushi": _sushi,
}
CLASSES: tuple[str, ...] = tuple(_PAINTERS)
# Raise it with any change to the pictures: prepared data sets remember it.
VERSION = 1


def draw(label: int, seed: int) -> bytes:
    """Return a JPEG file: one picture of the class CLASSES[label]. Same arguments, same bytes."""
    scene = Scene(np.random.default_rng((seed, label)))
    lay_plate(scene)
    _PAINTERS[CLASSES[label]](scene)
    file = io.BytesIO()
    photograph(scene).save(file, "JPEG", quality=scene.count(85, 90))
    return file.getvalue()


def corrupt_files() -> tuple[tuple[str, int, bytes], ...]:
    """Return three damaged files, (name, label, bytes), of kinds that turn up in downloaded data sets."""
    whole = draw(7, 0)
    page = b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n"
    return ("truncated.jpg", 7, whole[: len(whole) // 2]), ("error_page.jpg", 1, page), ("empty.jpg", 4, b"")
