"""Pictures of facades and shop signs. A facade's cell shows one bay of one floor in one style."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from d2vpr_hf.gridtown.painting.atlas import Picture
from d2vpr_hf.gridtown.painting.canvas import Canvas, Colour
from d2vpr_hf.gridtown.painting.letters import LETTERS

CELL_SIZE = 64
SIGN_HEIGHT, SIGN_WIDTH = 16, 128
_WALLS: tuple[Colour, ...] = (
    *((0.62, 0.32, 0.25), (0.55, 0.38, 0.30), (0.74, 0.52, 0.38), (0.82, 0.76, 0.64), (0.88, 0.86, 0.80), (0.72, 0.70, 0.66)),
    *((0.50, 0.50, 0.50), (0.66, 0.60, 0.50), (0.78, 0.66, 0.46), (0.70, 0.74, 0.76), (0.58, 0.64, 0.58), (0.76, 0.56, 0.52)),
    *((0.44, 0.40, 0.38), (0.80, 0.72, 0.56), (0.60, 0.44, 0.36), (0.68, 0.70, 0.62)),
)
_ACCENTS: tuple[Colour, ...] = (
    *((0.92, 0.92, 0.90), (0.22, 0.22, 0.24), (0.36, 0.24, 0.16), (0.16, 0.30, 0.22), (0.20, 0.26, 0.42), (0.50, 0.16, 0.14)),
    *((0.72, 0.64, 0.46), (0.44, 0.46, 0.48)),
)


@dataclass(frozen=True)
class _Style:
    """The features that all cells of a style share. Lengths are parts of a cell."""

    wall: Colour
    material: str
    frame: Colour
    accent: Colour
    width: float  # of a window
    top: float  # of a window
    bottom: float  # of a window
    panes: tuple[int, int]
    arched: bool
    sill: float
    surround: float
    shutters: bool
    balcony: bool
    awning: bool


def draw_style(rng: Generator) -> list[Picture]:
    """Draw the cells of one style, in the order of [`Cell`]."""
    style = _draw_style(rng)
    wall_seed = int(rng.integers(1 << 30))
    painters = (_blank, _window, _other_window, _door, _shop, _shop_door)
    return [_cell(painter, style, wall_seed) for painter in painters]


def _draw_style(rng: Generator) -> _Style:
    top = rng.uniform(0.12, 0.3)
    return _Style(
        wall=_WALLS[rng.integers(len(_WALLS))],
        material=str(rng.choice(["brick", "plaster", "stone", "siding", "panel"])),
        frame=_ACCENTS[rng.integers(len(_ACCENTS))],
        accent=_ACCENTS[rng.integers(len(_ACCENTS))],
        width=float(rng.uniform(0.3, 0.78)),
        top=float(top),
        bottom=float(rng.uniform(0.68, 0.92)),
        panes=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        arched=bool(rng.random() < 0.2),
        sill=float(rng.choice([0.0, 0.03, 0.05])),
        surround=float(rng.choice([0.0, 0.0, 0.04, 0.07])),
        shutters=bool(rng.random() < 0.3),
        balcony=bool(rng.random() < 0.35),
        awning=bool(rng.random() < 0.5),
    )


def _cell(painter: Callable[[Canvas, _Style], None], style: _Style, wall_seed: int) -> Picture:
    canvas = Canvas(CELL_SIZE, CELL_SIZE)
    _wall(canvas, style, np.random.default_rng(wall_seed))
    painter(canvas, style)
    return canvas.finish()


def _wall(canvas: Canvas, style: _Style, rng: Generator) -> None:
    """Paint the whole canvas with the style's wall material."""
    shade = np.ones_like(canvas.x, dtype=np.float32) * (1 + 0.05 * (rng.random(canvas.x.shape, dtype=np.float32) - 0.5))
    courses = {"brick": 20, "stone": 6, "siding": 12, "panel": 2}.get(style.material)
    if courses:
        row = np.floor(canvas.y * courses)
        shade = shade * np.where(canvas.y * courses - row < (0.16 if style.material != "panel" else 0.04), 0.78, 1.0)
    if courses and style.material in ("brick", "stone", "panel"):
        columns = courses / 2 if style.material != "panel" else 2
        column = canvas.x * columns + 0.5 * (row % 2)
        shade = shade * np.where(column - np.floor(column) < 0.08, 0.84, 1.0)
        tone = rng.uniform(0.9, 1.1, (64, 64))
        shade = shade * tone[row.astype(int) % 64, np.floor(column).astype(int) % 64]
    canvas.pixels[..., :3] = np.clip(np.asarray(style.wall, np.float32) * shade[..., None], 0, 1)


def _blank(canvas: Canvas, style: _Style) -> None:
    """Draw nothing: the cell shows the plain wall."""


def _window(canvas: Canvas, style: _Style) -> None:
    left, right = 0.5 - style.width / 2, 0.5 + style.width / 2
    if style.surround:
        edge = style.surround
        canvas.paint(canvas.box(left - edge, style.top - edge, right + edge, style.bottom + edge), style.accent, 0.0)
    _glazing(canvas, style, left, style.top, right, style.bottom)
    if style.sill:
        canvas.paint(canvas.box(left - 0.05, style.bottom, right + 0.05, style.bottom + style.sill), (0.8, 0.78, 0.74), 0.0)


def _glazing(canvas: Canvas, style: _Style, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a window's frame and panes."""
    opening = canvas.box(left, top, right, bottom)
    if style.arched:
        radius = (right - left) / 2
        opening &= (canvas.y > top + radius * 0.8) | canvas.disc((left + right) / 2, top + radius * 0.8, radius, radius * 0.8)
    canvas.paint(opening, style.frame, 0.0)
    columns, rows = style.panes
    bar = 0.018
    for column in range(columns):
        for row in range(rows):
            x0, x1 = (left + (right - left) * (column + step) / columns for step in (0, 1))
            y0, y1 = (top + (bottom - top) * (row + step) / rows for step in (0, 1))
            pane = opening & canvas.box(x0 + bar, y0 + bar, x1 - bar, y1 - bar)
            canvas.paint(pane, (0.16, 0.19, 0.22), 1.0)


def _other_window(canvas: Canvas, style: _Style) -> None:
    """Draw a window with the style's shutters, balcony or blind."""
    _window(canvas, style)
    left, right = 0.5 - style.width / 2, 0.5 + style.width / 2
    if style.shutters:
        for x0, x1 in ((left - 0.14, left), (right, right + 0.14)):
            canvas.paint(canvas.box(max(x0, 0.0), style.top, min(x1, 1.0), style.bottom), style.accent, 0.0)
    elif not style.balcony:
        middle = style.top + 0.45 * (style.bottom - style.top)
        canvas.paint(canvas.box(left + 0.02, style.top + 0.02, right - 0.02, middle), (0.78, 0.76, 0.68), 0.1)
    if style.balcony:
        canvas.paint(canvas.box(0.08, 0.9, 0.92, 0.96), (0.55, 0.54, 0.52), 0.0)
        bars = canvas.box(0.08, 0.62, 0.92, 0.9) & ((np.floor(canvas.x * 32) % 3 == 0) | (canvas.y < 0.645))
        canvas.paint(bars, (0.14, 0.14, 0.15), 0.0)


def _door(canvas: Canvas, style: _Style) -> None:
    canvas.paint(canvas.box(0.27, 0.22, 0.73, 1.0), (0.75, 0.73, 0.7), 0.0)
    canvas.paint(canvas.box(0.31, 0.36, 0.69, 1.0), style.accent, 0.0)
    canvas.paint(canvas.box(0.33, 0.26, 0.67, 0.34), (0.2, 0.23, 0.26), 1.0)
    dark = tuple(0.7 * channel for channel in style.accent)
    for top in (0.42, 0.68):
        for left in (0.35, 0.52):
            canvas.paint(canvas.box(left, top, left + 0.13, top + 0.2), dark, 0.0)  # type: ignore[arg-type]


def _shop(canvas: Canvas, style: _Style) -> None:
    canvas.paint(canvas.box(0.0, 0.16, 1.0, 1.0), style.accent, 0.0)
    canvas.paint(canvas.box(0.06, 0.24, 0.94, 0.86), (0.2, 0.24, 0.27), 1.0)
    canvas.paint(canvas.box(0.49, 0.24, 0.51, 0.86), style.accent, 0.0)
    if style.awning:
        stripes = canvas.box(0.0, 0.14, 1.0, 0.36)
        canvas.paint(stripes, style.frame, 0.0)
        canvas.paint(stripes & (np.floor(canvas.x * 10) % 2 == 0), (0.9, 0.88, 0.82), 0.0)


def _shop_door(canvas: Canvas, style: _Style) -> None:
    canvas.paint(canvas.box(0.0, 0.16, 1.0, 1.0), style.accent, 0.0)
    canvas.paint(canvas.box(0.3, 0.22, 0.7, 0.98), (0.2, 0.24, 0.27), 1.0)
    canvas.paint(canvas.box(0.64, 0.58, 0.67, 0.68), (0.85, 0.8, 0.6), 0.0)
    for left in (0.04, 0.76):
        canvas.paint(canvas.box(left, 0.24, left + 0.2, 0.86), (0.2, 0.24, 0.27), 1.0)


def draw_sign(rng: Generator) -> Picture:
    """Draw a shop sign: a board with a word of 4 to 8 random letters."""
    canvas = Canvas(SIGN_HEIGHT, SIGN_WIDTH)
    dark_board = rng.random() < 0.6
    colours = [tuple(float(value) for value in rng.uniform(*span, 3)) for span in ((0.05, 0.5), (0.7, 1.0))]
    board, ink = colours if dark_board else colours[::-1]
    canvas.paint(canvas.box(0, 0, 1, 1), board, 0.0)  # type: ignore[arg-type]
    word = rng.choice(sorted(LETTERS), int(rng.integers(4, 9)))
    width = 0.9 / max(6, len(word))
    start = 0.5 - width * len(word) / 2
    for number, letter in enumerate(word):
        _letter(canvas, str(letter), start + number * width, width, ink)  # type: ignore[arg-type]
    return canvas.finish()


def _letter(canvas: Canvas, letter: str, left: float, width: float, ink: Colour) -> None:
    for row, bits in enumerate(LETTERS[letter]):
        for column, bit in enumerate(bits):
            if bit:
                x, y = left + width * (column + 0.5) / 6, 0.15 + 0.1 * row
                canvas.paint(canvas.box(x, y, x + width / 6 + 0.002, y + 0.105), ink, 0.0)
