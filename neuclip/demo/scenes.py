"""Scenes: a few coloured shapes in a relation, drawn with Pillow; each a pure function of seed and number."""

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30),
    "green": (20, 150, 45),
    "blue": (35, 65, 230),
    "yellow": (245, 215, 20),
    "purple": (130, 35, 170),
    "orange": (250, 125, 5),
    "cyan": (40, 205, 220),
    "pink": (250, 130, 190),
}
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("big", "small")
BACKGROUNDS: dict[str, int] = {"white": 250, "grey": 150, "black": 15}

Relation = Literal["alone", "left of", "right of", "above", "below", "inside", "around", "in a row"]
PAIR_RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below", "inside")
_NUM_OBJECTS = (1, 2, 3)
_NUM_OBJECTS_SHARES = (0.3, 0.6, 0.1)
_PLAIN_SHARES = (0.5, 0.25, 0.25)
_OVERSAMPLING = 2
_JPEG_QUALITY = 92
_SHADE = 0.45
"""Stripes and dots are drawn in the object's colour, darkened to this share."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene."""

    shape: str
    colour: str
    texture: str
    size: str


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a thing stands and its radius, as shares of the picture's side."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: the first thing stands in the relation to the second, or all in a row."""

    things: tuple[Thing, ...]
    places: tuple[Placed, ...]
    relation: Relation
    background: str


def make_scene(random: np.random.Generator) -> Scene:
    """Draw a scene of one, two or three different things."""
    count = int(random.choice(_NUM_OBJECTS, p=_NUM_OBJECTS_SHARES))
    if count == 1:
        return make_single(random, _pick(random, SHAPES), _pick(random, tuple(COLOURS)))
    shapes = [str(name) for name in random.choice(SHAPES, size=count, replace=False)]
    colours = [str(name) for name in random.choice(tuple(COLOURS), size=count, replace=False)]
    relation: Relation = "in a row"
    if count == 2:
        relation = PAIR_RELATIONS[int(random.integers(len(PAIR_RELATIONS)))]
    sizes = [_pick(random, SIZES) for _ in range(count)]
    if relation == "inside":
        sizes = ["small", "big"]
    things = [
        Thing(shape, colour, _texture(random), size)
        for shape, colour, size in zip(shapes, colours, sizes, strict=True)
    ]
    return Scene(
        tuple(things), _places(random, sizes, relation), relation, _pick(random, tuple(BACKGROUNDS))
    )


def make_single(random: np.random.Generator, shape: str, colour: str) -> Scene:
    """Draw a scene of one thing of a given shape and colour, in any size, texture and pose."""
    size = _pick(random, SIZES)
    radius = 0.36 if size == "big" else 0.22
    room = 0.5 - radius
    x, y = (0.5 + float(offset) for offset in random.uniform(-room, room, size=2))
    thing = Thing(shape, colour, _texture(random), size)
    background = _pick(random, tuple(BACKGROUNDS))
    return Scene((thing,), (Placed(x, y, radius),), "alone", background)


def draw(scene: Scene, side_px: int) -> Image.Image:
    """Draw a scene as a square RGB picture."""
    canvas_px = side_px * _OVERSAMPLING
    canvas = Image.new("RGB", (canvas_px, canvas_px), (BACKGROUNDS[scene.background],) * 3)
    order = sorted(range(len(scene.things)), key=lambda i: -scene.places[i].radius)
    for i in order:  # the largest first: what is inside another must not be hidden by it
        _draw_thing(canvas, scene.things[i], scene.places[i])
    return canvas.reduce(_OVERSAMPLING)


def encode(picture: Image.Image) -> bytes:
    """Encode a picture as JPEG, its colours not thinned out: shapes are only a few pixels wide."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _pick(random: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(random.integers(len(names)))]


def _texture(random: np.random.Generator) -> str:
    return str(random.choice(TEXTURES, p=_PLAIN_SHARES))


def _places(
    random: np.random.Generator, sizes: list[str], relation: Relation
) -> tuple[Placed, ...]:
    jitter = random.uniform(-1, 1, size=(len(sizes), 2))
    if relation == "in a row":
        return tuple(
            Placed(0.18 + 0.32 * i, 0.5 + 0.2 * float(jitter[i, 1]), 0.155 if s == "big" else 0.11)
            for i, s in enumerate(sizes)
        )
    if relation == "inside":
        x, y = (0.5 + 0.05 * float(j) for j in jitter[0])
        return (Placed(x, y, 0.14), Placed(x, y, 0.42))
    first, second = (0.27, 0.73) if relation in ("left of", "above") else (0.73, 0.27)
    places: list[Placed] = []
    for along, size, (near, across) in zip((first, second), sizes, jitter.tolist(), strict=True):
        a, b = along + 0.02 * near, 0.5 + 0.22 * across
        x, y = (a, b) if relation in ("left of", "right of") else (b, a)
        places.append(Placed(x, y, 0.235 if size == "big" else 0.15))
    return tuple(places)


def _draw_thing(canvas: Image.Image, thing: Thing, place: Placed) -> None:
    side_px = canvas.width
    mask = Image.new("L", canvas.size)
    centre = (place.x * side_px, place.y * side_px)
    radius_px = place.radius * side_px
    _draw_shape(ImageDraw.Draw(mask), thing.shape, centre, radius_px)
    colour = COLOURS[thing.colour]
    fill = Image.new("RGB", canvas.size, colour)
    _draw_texture(ImageDraw.Draw(fill), thing, centre, radius_px)
    canvas.paste(fill, mask=mask)


def _draw_texture(pen: ImageDraw.ImageDraw, thing: Thing, centre: Point, radius_px: float) -> None:
    red, green, blue = COLOURS[thing.colour]
    dark = (int(red * _SHADE), int(green * _SHADE), int(blue * _SHADE))
    x, y = centre
    step = radius_px / 2
    if thing.texture == "striped":
        for k in range(-2, 3):
            left = x + k * step - step / 4
            pen.rectangle((left, y - radius_px, left + step / 2, y + radius_px), fill=dark)
    elif thing.texture == "dotted":
        dot = radius_px / 6
        for i in range(-2, 3):
            for j in range(-2, 3):
                cx, cy = x + i * step, y + j * step
                pen.ellipse((cx - dot, cy - dot, cx + dot, cy + dot), fill=dark)


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float) -> None:
    x, y = centre
    if shape in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            hole = radius * 0.55
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    else:
        points = [(x + radius * dx, y + radius * dy) for dx, dy in _OUTLINES[shape]]
        pen.polygon(points, fill=255)


def _star() -> list[Point]:
    radii = (1.0, 0.42)
    angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    return [
        (radii[k % 2] * math.cos(angle), radii[k % 2] * math.sin(angle))
        for k, angle in enumerate(angles)
    ]


def _heart() -> list[Point]:
    angles = [2 * math.pi * k / 40 for k in range(40)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in angles
    ]


_ARM = 0.36
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -1), (1, 0.8), (-1, 0.8)],
    "diamond": [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    "star": _star(),
    "cross": [
        (-_ARM, -1),
        (_ARM, -1),
        (_ARM, -_ARM),
        (1, -_ARM),
        (1, _ARM),
        (_ARM, _ARM),
        (_ARM, 1),
        (-_ARM, 1),
        (-_ARM, _ARM),
        (-1, _ARM),
        (-1, -_ARM),
        (-_ARM, -_ARM),
    ],
    "heart": _heart(),
}
