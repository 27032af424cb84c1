"""A map as SVG: the database's photos, ways between them, matches, the estimated position with its radius, the true position.

Ways join photos that are close together, so that photos along streets look like streets and no map data are needed. Colours
come from the style sheet of the page; each kind of mark has its own class and shape, so that marks differ also without colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.maps.plane import HIGHEST, Plane
from d2vpr_hf.maps.tiles import TileSource, View
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import all_with_degrees

WIDTH, HEIGHT = 720.0, 460.0  # units of a drawing
_MAX_DOTS = 2500  # more would overlap, and browsers would draw them slowly
_MAX_WAYS = 8000
_SPOT = 4.0  # metres; side of the grid cells in which photos count as one spot
_MARGIN = 0.12  # share of the view around all marks
_LEAST_SPAN = 160.0  # metres
_REACH = 2.8  # longest way, as a multiple of the median distance between neighbours
_NEAREST = 12  # nearest spots that are tested as a detour of a way


@dataclass(frozen=True)
class MapLayer:
    """Findings of one kind on a map: dots, and lines between two places.

    Attributes:
        kind: Name of its class in the style sheet.
        places: Places of the dots.
        lines: Ends of the lines.
    """

    kind: str
    places: Sequence[Place] = ()
    lines: Sequence[tuple[Place, Place]] = ()


@dataclass(frozen=True)
class MapMarks:
    """The marks of a query on a map, or of findings about the map itself.

    Attributes:
        matches: Places of the matches, the best first.
        estimate: Estimated place of the query, or `None`.
        radius: Metres of the circle around the estimate, or `None`.
        truth: True place of the query, or `None` if unknown.
        layers: Findings, the first ones at the bottom; they do not change the part of the map that is drawn.
    """

    matches: Sequence[Place] = field(default_factory=tuple)
    estimate: Place | None = None
    radius: float | None = None
    truth: Place | None = None
    layers: Sequence[MapLayer] = ()


class BaseMap:
    """The database's photos on a plane, prepared once and drawn with the marks of any query.

    Args:
        places: Places of the database.
        tiles: Server of background tiles; `None` for a map without tiles.
    """

    def __init__(self, places: Sequence[Place], tiles: TileSource | None = None) -> None:
        self.plane = Plane.of(places)
        self.tiles = tiles if self.plane is not None and self.plane.is_web_map else None
        points = np.empty((0, 2)) if self.plane is None else self.plane.project(places)
        is_drawn = ~(np.isnan(points[:, 0]) | np.isnan(points[:, 1]))
        hidden = [place for place, drawn in zip(places, is_drawn.tolist(), strict=False) if not drawn and place.has_position]
        self.num_hidden, self.num_beyond = len(hidden), _count_beyond(self.plane, hidden)
        self.points = _thin(points[is_drawn])
        self.ways = _ways(self.points)

    def draw(self, marks: MapMarks = MapMarks(), caption: str = "") -> str:
        """Draw a map that shows all marks, or the whole database if there are no marks.

        Args:
            marks: Marks of a query.
            caption: Description of the map for screen readers.

        Returns:
            The SVG text; empty if no place has a position.
        """
        if self.plane is None:
            return ""
        canvas = _Canvas(self.plane, self._view(marks))
        tiles = "" if self.tiles is None else self.tiles.draw(self.plane, canvas.view, canvas.scale)
        layers = "".join(_draw_layer(canvas, layer) for layer in marks.layers)
        parts = [tiles, self._draw_base(canvas), layers, _draw_marks(canvas, marks), _draw_scale_bar(canvas)]
        return (
            f'<svg class="map{" tiled" if tiles else ""}" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" tabindex="0" '
            f'aria-label="{escape(f"{caption} {self.hidden_text(marks)}".strip())}">{"".join(parts)}</svg>'
        )

    def hidden_text(self, marks: MapMarks = MapMarks()) -> str:
        """Return a sentence with the numbers of photos and marks that a map does not show; empty if it shows all of them.

        A map shows positions of one frame: those with degrees, or those of one local frame; a web map ends near the poles.
        """
        if self.plane is None:
            return ""
        marked = [place for place in (*marks.matches, marks.estimate, marks.truth) if place is not None and place.has_position]
        hidden = [place for place, point in zip(marked, self.plane.project(marked), strict=True) if np.isnan(point).any()]
        num_beyond = _count_beyond(self.plane, hidden)
        reasons = (
            ("as their positions are in other frames", self.num_hidden - self.num_beyond, len(hidden) - num_beyond),
            (f"as web maps end at {HIGHEST:.0f} degrees of latitude", self.num_beyond, num_beyond),
        )
        sentences = []
        for reason, *numbers in reasons:
            counts = zip(numbers, ("photo", "mark"), strict=True)
            parts = [f"{count:,} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count]
            sentences += [f"Not drawn, {reason}: {', '.join(parts)}."] if parts else []
        return " ".join(sentences)

    def _view(self, marks: MapMarks) -> View:
        """Return the part of the plane to show, in the drawing's proportions."""
        assert self.plane is not None
        marked = [place for place in (*marks.matches, marks.estimate, marks.truth) if place is not None]
        points = self.plane.project(marked)
        points = points[~np.isnan(points).any(axis=1)]
        points = points if len(points) else self.points
        low, high = points.min(axis=0), points.max(axis=0)
        if marks.estimate is not None and marks.radius is not None:
            centre = self.plane.project([marks.estimate])[0]
            radius = marks.radius * self.plane.stretch(float(np.nan_to_num(centre[1])))
            reach = min(radius, float(np.ptp(self.points, axis=0).max()) or _LEAST_SPAN)
            low, high = np.fmin(low, centre - reach), np.fmax(high, centre + reach)
        middle, span = (low + high) / 2, np.maximum((high - low) * (1 + 2 * _MARGIN), _LEAST_SPAN)
        metres = max(span[0] / WIDTH, span[1] / HEIGHT)  # per unit of the drawing
        half = metres * np.array([WIDTH, HEIGHT]) / 2
        return View(*(middle - half).tolist(), *(middle + half).tolist())

    def _draw_base(self, canvas: "_Canvas") -> str:
        ways = "".join(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" for a, b in canvas.to_units(self.ways))
        # paths of length 0, whose round caps are dots
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in canvas.to_units(self.points))
        return f'<path class="ways" d="{ways}"/><path class="database" d="{dots}"/>'


def _count_beyond(plane: Plane | None, hidden: Sequence[Place]) -> int:
    """Return the number of places with degrees among those that a plane does not show."""
    if plane is None or not plane.is_web_map:
        return 0
    return sum(place.latitude is not None for place in all_with_degrees(hidden))


class _Canvas:
    """A view of the plane, with its scale in units of the drawing per metre."""

    def __init__(self, plane: Plane, view: View) -> None:
        self.plane, self.view = plane, view
        self.scale = WIDTH / (view.right - view.left)

    def to_units(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert metres (..., 2) to units of the drawing, y down."""
        return (points - [self.view.left, self.view.top]) * [self.scale, -self.scale]

    def units_of_a_metre(self, y: float) -> float:
        """Return the units of the drawing that a true metre has at a height of the drawing, in units."""
        return self.scale * self.plane.stretch(self.view.top - y / self.scale)

    def place(self, place: Place) -> tuple[float, float] | None:
        """Return the coordinates of a place in units, or `None` if it has no position in the plane's frame."""
        x, y = self.to_units(self.plane.project([place]))[0].tolist()
        return None if math.isnan(x) or math.isnan(y) else (x, y)


def _draw_layer(canvas: _Canvas, layer: MapLayer) -> str:
    """Draw the lines and dots of a layer; places in other frames are skipped."""
    dots = [canvas.place(place) for place in layer.places]
    lines = [(canvas.place(first), canvas.place(second)) for first, second in layer.lines]
    line_path = "".join(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" for a, b in lines if a is not None and b is not None)
    dot_path = "".join(f"M{dot[0]:.1f} {dot[1]:.1f}h0" for dot in dots if dot is not None)
    return f'<path class="{layer.kind} line" d="{line_path}"/><path class="{layer.kind} dot" d="{dot_path}"/>'


def _draw_marks(canvas: _Canvas, marks: MapMarks) -> str:
    parts = []
    if marks.estimate is not None and (at := canvas.place(marks.estimate)) is not None:
        if marks.radius is not None:
            radius = marks.radius * canvas.units_of_a_metre(at[1])
            parts.append(f'<circle class="radius" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:.1f}"/>')
        parts.append(_mark(at, "estimate", '<circle r="11"/><circle class="core" r="4"/>', "estimate"))
    for rank, place in reversed(list(enumerate(marks.matches, 1))):  # the best on top
        if (at := canvas.place(place)) is not None:
            pin = f'<path d="M0 0C-4 -7 -9 -10 -9 -17A9 9 0 0 1 9 -17C9 -10 4 -7 0 0Z"/><text y="-13.5">{rank}</text>'
            parts.append(_mark(at, "match", pin, f"match {rank}"))
    if marks.truth is not None and (at := canvas.place(marks.truth)) is not None:
        star = '<path d="M0 -9L2.6 -3 9 -2.6 4 1.6 5.8 8 0 4.4 -5.8 8 -4 1.6 -9 -2.6 -2.6 -3Z"/>'
        parts.append(_mark(at, "truth", star, "truth"))
    return "".join(parts)


def _mark(at: tuple[float, float], kind: str, shape: str, title: str) -> str:
    """Draw a mark with an inner group, which the page's script scales back when it zooms, so that marks keep their size."""
    inner = f'<g class="mark"><title>{title}</title>{shape}</g>'
    return f'<g class="{kind}" transform="translate({at[0]:.1f} {at[1]:.1f})">{inner}</g>'


def _draw_scale_bar(canvas: _Canvas) -> str:
    units = canvas.units_of_a_metre(HEIGHT / 2)
    metres = nice_length(WIDTH / 5 / units)
    length = metres * units
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    north = '<g class="north" transform="translate(692 32)"><path d="M0 -16L6 4 0 0 -6 4Z"/><text y="18">N</text></g>'
    north = north if canvas.plane.is_north_up else ""
    bar = f'<path d="M0 -6V0H{length:.1f}V-6"/><text x="{length / 2:.1f}" y="-9">{text}</text>'
    return f'<g class="furniture"><g class="scale" transform="translate(20 {HEIGHT - 18:.0f})">{bar}</g>{north}</g>'


def nice_length(metres: float) -> float:
    """Round a length down to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(metres, 1e-3)))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= max(metres, 1e-3) * (1 + 1e-9))


def _thin(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most `_MAX_DOTS` points: one of each cell of a grid, which becomes coarser until few enough points remain."""
    points = np.unique(points.round(1), axis=0)
    cell = 1.0
    while len(points) > _MAX_DOTS:
        points, cell = _first_of_cells(points, cell), 1.5 * cell
    return points


def _ways(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ends of the ways between spots, (W, 2, 2) metres.

    The ways are the edges of the relative neighbourhood graph, without edges much longer than usual distances of neighbours.
    """
    spots = _first_of_cells(points, _SPOT)
    if len(spots) < 3:
        return np.empty((0, 2, 2))
    tree = cKDTree(spots)
    distances = np.sort(tree.query(spots, k=min(9, len(spots)))[0][:, 1:], axis=1)
    # neighbours within _SPOT are photos of the same spot in adjacent cells
    to_neighbour = np.where(distances > _SPOT, distances, np.inf).min(axis=1)
    median = float(np.median(to_neighbour[np.isfinite(to_neighbour)])) if np.isfinite(to_neighbour).any() else 0.0
    pairs = tree.query_pairs(_REACH * median, output_type="ndarray")
    return spots[pairs[~_has_detour(spots, pairs, tree)][:_MAX_WAYS]]


def _has_detour(spots: NDArray[np.float64], pairs: NDArray[np.intp], tree: cKDTree) -> NDArray[np.bool_]:
    """Return for each pair (W, 2) whether a third spot is nearer to both of them than they are to each other."""
    distances = np.linalg.norm(spots[pairs[:, 0]] - spots[pairs[:, 1]], axis=1)
    near = tree.query(spots, k=min(_NEAREST, len(spots)))[1][pairs[:, 0]]  # (W, nearest spots of the first, with itself)
    to_ends = [np.linalg.norm(spots[near] - spots[end][:, None], axis=2) for end in pairs.T]
    return np.asarray((np.maximum(*to_ends) < distances[:, None] - _SPOT / 2).any(axis=1))


def _first_of_cells(points: NDArray[np.float64], cell: float) -> NDArray[np.float64]:
    """Return the first point of each cell of a grid."""
    _, first = np.unique(np.floor(points / cell), axis=0, return_index=True)
    return points[np.sort(first)]
