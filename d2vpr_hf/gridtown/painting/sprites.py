"""Sprites: pictures of trees, vehicles, people and street furniture, with a transparent background.

The background is black and has opacity 0, so that averages over several texels have colours multiplied by opacity.
"""

from enum import IntEnum

import numpy as np
from numpy.random import Generator

from d2vpr_hf.gridtown.painting.atlas import Picture
from d2vpr_hf.gridtown.painting.canvas import Canvas, Colour, Mask

SPRITE_SIZE = 128
_PAINTS: tuple[Colour, ...] = (
    *((0.85, 0.85, 0.86), (0.12, 0.12, 0.13), (0.5, 0.52, 0.54), (0.62, 0.1, 0.1), (0.12, 0.2, 0.42), (0.3, 0.36, 0.3)),
    *((0.72, 0.68, 0.58), (0.82, 0.62, 0.12)),
)
_SKINS: tuple[Colour, ...] = ((0.86, 0.68, 0.56), (0.62, 0.44, 0.32), (0.38, 0.26, 0.18))


class Season(IntEnum):
    """The season, which decides on the leaves of trees."""

    SUMMER = 0
    AUTUMN = 1
    WINTER = 2


def draw_tree(rng: Generator, season: Season) -> Picture:
    """Draw a tree of a random species; generators in the same state give the same tree in each season."""
    canvas = Canvas(SPRITE_SIZE, SPRITE_SIZE)
    crown, species = rng.uniform(0.3, 0.46), rng.random()
    _trunk(canvas, rng, crown)
    hue = rng.uniform(-0.04, 0.04, 3)
    leaves = {Season.SUMMER: (0.24, 0.38, 0.16), Season.AUTUMN: (0.62, 0.38, 0.14)}.get(season)
    blobs = rng.uniform(-1, 1, (90, 4))
    if leaves is None:
        return canvas.finish()
    for angle, distance, size, shade in blobs:
        reach = np.sqrt(abs(distance))
        width = crown if species < 0.75 else 0.55 * crown
        x, y = 0.5 + width * reach * np.cos(np.pi * angle), 0.36 + 0.3 * reach * np.sin(np.pi * angle)
        light = 0.8 + 0.25 * shade - 0.5 * (y - 0.36)
        colour = tuple(float(np.clip((base + shift) * light, 0, 1)) for base, shift in zip(leaves, hue, strict=True))
        canvas.paint(canvas.disc(x, y, 0.06 + 0.03 * abs(size), 0.05 + 0.03 * abs(size)), colour, 1.0)  # type: ignore[arg-type]
    return canvas.finish()


def _trunk(canvas: Canvas, rng: Generator, crown: float) -> None:
    """Draw trunk and branches."""
    bark = (0.3, 0.24, 0.19)
    canvas.paint((np.abs(canvas.x - 0.5) < 0.022 + 0.012 * canvas.y) & (canvas.y > 0.4), bark, 1.0)
    for lean in rng.uniform(-1, 1, 14):
        start, length = rng.uniform(0.3, 0.62), rng.uniform(0.2, 0.42)
        along = (start - canvas.y) / length
        middle = 0.5 + lean * crown * along
        canvas.paint((along > 0) & (along < 1) & (np.abs(canvas.x - middle) < 0.011 * (1.2 - along)), bark, 1.0)


def draw_car(rng: Generator, from_behind: bool) -> Picture:
    """Draw a vehicle from the side or from behind: a car or, one in five, a van."""
    canvas = Canvas(SPRITE_SIZE, SPRITE_SIZE)
    paint, is_van = _PAINTS[rng.integers(len(_PAINTS))], rng.random() < 0.2
    body, cabin = _car_shapes(canvas, from_behind, is_van)
    wheels = (0.12, 0.88) if from_behind else (0.2, 0.8)
    canvas.paint(body | cabin, paint, 1.0)
    canvas.paint(cabin & _inner(canvas, cabin), (0.14, 0.17, 0.2), 1.0)
    canvas.paint(body & (canvas.y > 0.8), tuple(0.6 * channel for channel in paint), 1.0)  # type: ignore[arg-type]
    for x in wheels:
        canvas.paint(canvas.disc(x, 0.88, 0.05 if from_behind else 0.085, 0.12), (0.06, 0.06, 0.06), 1.0)
    for x, lamp in ((0.05, (0.95, 0.93, 0.8)), (0.95, (0.75, 0.1, 0.08))):
        canvas.paint(canvas.disc(x, 0.62, 0.035, 0.04) & body, (0.75, 0.1, 0.08) if from_behind else lamp, 1.0)
    return canvas.finish()


def _car_shapes(canvas: Canvas, from_behind: bool, is_van: bool) -> tuple[Mask, Mask]:
    """Return the masks of body and cabin."""
    top = 0.08 if is_van else 0.2
    body = canvas.box(0.02, 0.5, 0.98, 0.9)
    slant = 0.1 if from_behind or is_van else 0.45
    rise = (0.5 - canvas.y) / (0.5 - top)
    left, right = (0.08, 0.92) if from_behind or is_van else (0.16, 0.94)
    cabin = (
        (canvas.y > top) & (canvas.y < 0.52) & (canvas.x > left + slant * 0.4 * rise) & (canvas.x < right - slant * 0.5 * rise)
    )
    return body, cabin


def _inner(canvas: Canvas, mask: Mask) -> Mask:
    """Return the windows of a cabin: its mask, shrunk on all sides, without a post in the middle."""
    shrunk = mask.copy()
    for axis in (0, 1):
        for step in (-8, 8):
            shrunk &= np.roll(mask, step, axis)
    return shrunk & (np.abs(canvas.x - 0.55) > 0.015)


def draw_person(rng: Generator) -> Picture:
    """Draw a person, standing or walking."""
    canvas = Canvas(SPRITE_SIZE, SPRITE_SIZE)
    coat, trousers = (_PAINTS[rng.integers(len(_PAINTS))] for _ in range(2))
    stride = rng.uniform(0.02, 0.16)
    for side in (-1, 1):
        middle = 0.5 + side * stride * (canvas.y - 0.5) / 0.5
        canvas.paint((np.abs(canvas.x - middle) < 0.07) & (canvas.y > 0.5), trousers, 1.0)
    canvas.paint(canvas.disc(0.5, 0.36, 0.19, 0.24), coat, 1.0)
    canvas.paint(canvas.disc(0.5, 0.08, 0.085, 0.075), _SKINS[rng.integers(len(_SKINS))], 1.0)
    return canvas.finish()


def draw_lamp(rng: Generator) -> Picture:
    """Draw a street lamp."""
    canvas = Canvas(SPRITE_SIZE, SPRITE_SIZE)
    grey = float(rng.uniform(0.15, 0.45))
    metal = (grey, grey, grey)
    canvas.paint((np.abs(canvas.x - 0.5) < 0.045) & (canvas.y > 0.06), metal, 1.0)
    canvas.paint(canvas.box(0.5, 0.05, 0.95, 0.07), metal, 1.0)
    canvas.paint(canvas.box(0.7, 0.05, 0.98, 0.085), (0.8, 0.78, 0.68), 1.0)
    return canvas.finish()


def draw_traffic_sign(rng: Generator) -> Picture:
    """Draw a traffic sign: a disc, a plate or a triangle on a post."""
    canvas = Canvas(SPRITE_SIZE, SPRITE_SIZE)
    rim, face = ((0.75, 0.1, 0.1), (0.92, 0.92, 0.9)) if rng.random() < 0.6 else ((0.9, 0.9, 0.9), (0.12, 0.28, 0.6))
    canvas.paint((np.abs(canvas.x - 0.5) < 0.05) & (canvas.y > 0.1), (0.5, 0.5, 0.5), 1.0)
    shape = rng.integers(3)
    for scale, colour in ((1.0, rim), (0.72, face)):
        plates = (
            canvas.disc(0.5, 0.14, 0.46 * scale, 0.13 * scale),
            canvas.box(0.5 - 0.42 * scale, 0.14 - 0.12 * scale, 0.5 + 0.42 * scale, 0.14 + 0.12 * scale),
            (np.abs(canvas.x - 0.5) < 0.46 * scale * (canvas.y - 0.14 + 0.13 * scale) / 0.26 / scale)
            & (canvas.y < 0.14 + 0.11 * scale),
        )
        canvas.paint(plates[shape], colour, 1.0)
    return canvas.finish()


def draw_box(rng: Generator) -> Picture:
    """Draw a letter box, a bin or a cabinet."""
    canvas = Canvas(SPRITE_SIZE, SPRITE_SIZE)
    paint = _PAINTS[rng.integers(len(_PAINTS))]
    canvas.paint(canvas.box(0.08, 0.08, 0.92, 1.0), paint, 1.0)
    canvas.paint(canvas.box(0.2, 0.24, 0.8, 0.32), (0.08, 0.08, 0.08), 1.0)
    return canvas.finish()
