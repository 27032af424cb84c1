"""The layout of a procedural city: streets, blocks, buildings, street furniture and places are drawn from a seed."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from d2vpr_hf.gridtown.city import (
    NUM_SIGNS,
    NUM_STYLES,
    Buildings,
    City,
    Fixture,
    Fixtures,
    Floats,
    Ints,
    Places,
    Walls,
)

MAX_PLACES = 5000  # so that a city fits into its square
_SQUARE = 6_000.0  # metres
_SQUARES = (77, 144)  # columns and rows of squares in the UTM zone: 11,088 seeds do not share a square
_NUM_DESIGNS = 48  # standard designs, which several buildings share
_DESIGN_SHARE = 0.3  # share of buildings that have a standard design
COPY_SHARE = 0.3  # share of street segments that copy another one
_REDRAWN_SHARE = 0.12  # share of buildings in a copied segment that differ from the original
_OPEN_SHARE = 0.1  # share of blocks that are squares or parks
_NUM_LOOKS = 1 << 16  # a fixture's look is a whole number below this; the renderer maps it to a picture
_BLOCK_SIDES = (70.0, 125.0)  # metres between neighbouring streets
_STREET_WIDTHS = (13.0, 15.0, 18.0, 22.0)  # metres between building lines
_BUILDING_DEPTH = 11.0
_LOT_WIDTHS = (8.0, 19.0)
_SETBACKS = (0.8, 3.5)  # metres between the building line and a house that stands back from it
_CLEAR = 11.5  # metres between the middle of a crossing and street furniture: more than half the widest carriageway
_PLACE_SPACING = 32.0  # metres between neighbouring places of a street: more than the 25 m of a positive
_CROSSING_MARGIN = 18.0  # metres between a crossing's middle and a place, so that places on both streets are over 25 m apart
_SEGMENT_PLACES = 2  # places that fit into the shortest segment
_FIXTURE_SIZES = {  # width and height in metres, smallest and largest
    Fixture.TREE: ((4.0, 6.5), (5.5, 10.0)),
    Fixture.LAMP: ((1.4, 1.4), (6.5, 7.5)),
    Fixture.SIGN: ((0.7, 0.7), (2.6, 3.0)),
    Fixture.BOX: ((0.7, 1.1), (1.0, 1.5)),
}


class Lot(NamedTuple):
    """A lot on a block's edge, `start` metres from the edge's beginning, with its building."""

    start: float
    width: float
    setback: float
    building: dict[str, Any]


class _Segment(NamedTuple):
    """The part of street number `line` between the crossings `step` and `step + 1`; it runs along x (0) or y (1)."""

    along: int
    line: int
    step: int


def make_city(seed: int, num_places: int, copy_share: float = COPY_SHARE) -> City:
    """Make the city of a seed.

    Args:
        seed: Cities with seeds from 0 to 11,087 have different squares in UTM, 6 km apart.
        num_places: Number of places, at least 32 m from each other along a street; at most 5,000.
        copy_share: Share of street segments that copy another one, from 0 to 1.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if seed < 0 or not 1 <= num_places <= MAX_PLACES or not 0 <= copy_share <= 1:
        raise ValueError(
            f"A city needs a seed of at least 0, 1 to {MAX_PLACES} places and a copy_share from 0 to 1, got {seed}, "
            f"{num_places} and {copy_share}. For more places, make several cities with different seeds."
        )
    rng = np.random.default_rng([seed, 0])
    blocks = int(np.ceil(np.sqrt(num_places / (2 * _SEGMENT_PLACES)))) + 1
    street_x, street_y = (np.cumsum(rng.uniform(*_BLOCK_SIDES, blocks + 1)) for _ in range(2))
    width_x, width_y = (rng.choice(_STREET_WIDTHS, blocks + 1) for _ in range(2))
    plan = _Plan(seed, (street_x, street_y), (width_x, width_y), copy_share)
    return City(
        seed=seed,
        rotation=float(rng.uniform(-np.pi, np.pi)),
        origin=_origin(seed),
        street_x=street_x,
        width_x=width_x,
        street_y=street_y,
        width_y=width_y,
        open_blocks=np.array(plan.open_blocks, dtype=np.float64).reshape(-1, 5),
        walls=_columns(Walls, [wall for block in plan.blocks for wall in plan.walls_of(block)]),
        buildings=_columns(Buildings, plan.buildings),
        fixtures=_columns(Fixtures, [*plan.street_fixtures(), *plan.park_trees()]),
        places=_columns(Places, plan.places(num_places)),
    )


def _origin(seed: int) -> tuple[float, float]:
    """Return the UTM east and north of a city's middle, in metres of `UTM_ZONE`: the middle of the seed's square."""
    columns, rows = _SQUARES
    return 268_000.0 + _SQUARE * (seed % columns), 4_440_000.0 + _SQUARE * (seed // columns % rows)


class _Plan:
    """The streets, blocks, designs and copies of a city, from which its tables are drawn."""

    def __init__(self, seed: int, streets: tuple[Floats, Floats], widths: tuple[Floats, Floats], copy_share: float) -> None:
        self.seed = seed
        self.copy_share = copy_share
        self.streets = streets  # middles of the streets at constant x, then of those at constant y
        self.widths = widths
        self.num_blocks = len(streets[0]) - 1  # along either axis
        self.blocks = [(i, j) for i in range(self.num_blocks) for j in range(self.num_blocks)]
        self.buildings: list[dict[str, Any]] = []
        self.designs = [_draw_building(self._rng(1, number)) for number in range(_NUM_DESIGNS)]
        self.open_blocks = self._open_blocks()
        self.sources = self._sources()

    def _rng(self, *key: int) -> Generator:
        """Return the generator of a key, whose first number is a purpose.

        Purposes: 1 designs, 2 open blocks, 3 copies, 4 segments, 6 park trees, 7 places.
        """
        return np.random.default_rng([self.seed, *key])

    def _open_blocks(self) -> list[tuple[float, ...]]:
        """Return the boxes of squares and parks, and remove these blocks from those with buildings; half of them are parks."""
        rng = self._rng(2)
        opened: list[tuple[float, ...]] = []
        for block in list(self.blocks):
            draw = rng.random()
            if draw < _OPEN_SHARE:
                self.blocks.remove(block)
                opened.append((*self._box(block), float(draw < _OPEN_SHARE / 2)))
        return opened

    def segments(self) -> list[_Segment]:
        """List all street segments of the city."""
        count = self.num_blocks
        return [_Segment(along, line, step) for along in (0, 1) for line in range(count + 1) for step in range(count)]

    def _sources(self) -> dict[_Segment, _Segment]:
        """Map each segment to its source: another segment of the same direction for a copy, otherwise the segment itself."""
        rng, sources = self._rng(3), {segment: segment for segment in self.segments()}
        for along in (0, 1):
            segments = [segment for segment in sources if segment.along == along]
            is_copy = rng.random(len(segments)) < self.copy_share
            originals = [segment for segment, copies in zip(segments, is_copy, strict=True) if not copies] or segments
            for segment, copies in zip(segments, is_copy, strict=True):
                source = originals[rng.integers(len(originals))]  # drawn for originals too, so that draws do not shift
                sources[segment] = source if copies else segment
        return sources

    def _segment_rng(self, segment: _Segment, *key: int) -> Generator:
        """Return a segment's generator: key 0 or 1 for the lots of a side, with 9 for redrawn buildings; 5 for fixtures."""
        return self._rng(4, *segment, *key)

    def _box(self, block: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the box of a block between its streets: low x, low y, high x, high y."""
        edges = []
        for street, width, number in zip(self.streets, self.widths, block, strict=True):
            edges.append((street[number] + width[number] / 2, street[number + 1] - width[number + 1] / 2))
        (x0, x1), (y0, y1) = edges
        return float(x0), float(y0), float(x1), float(y1)

    def walls_of(self, block: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """Place buildings along a block's four edges and yield their walls."""
        i, j = block
        x0, y0, x1, y1 = self._box(block)
        yield from self._edge(_Segment(0, j, i), 1, (x0, x1), y0, 1.0)
        yield from self._edge(_Segment(0, j + 1, i), 0, (x0, x1), y1, -1.0)
        corner = _BUILDING_DEPTH + _SETBACKS[1]
        inner = (y0 + corner, y1 - corner)  # the corners belong to the first two edges
        yield from self._edge(_Segment(1, i, j), 1, inner, x0, 1.0)
        yield from self._edge(_Segment(1, i + 1, j), 0, inner, x1, -1.0)

    def _edge(
        self, segment: _Segment, side: int, span: tuple[float, float], line: float, inward: float
    ) -> Iterator[dict[str, Any]]:
        """Yield the walls of the buildings on one edge, which has the coordinates `span` along the street and `line` across it.

        `inward` is the sign of the direction from the street into the block, `side` the side of the segment (0 or 1).
        """
        for lot in self._lots(segment, side, span[1] - span[0]):
            low = span[0] + lot.start
            front = line + inward * lot.setback
            near, far = sorted((front, front + inward * _BUILDING_DEPTH))
            box = (low, low + lot.width, near, far)
            is_corner = segment.along == 0 and (lot.start == 0 or low + lot.width >= span[1] - 0.01)
            self.buildings.append(lot.building)
            yield from _walls_around(box, segment.along, inward, is_corner, len(self.buildings) - 1, lot.building)

    def _lots(self, segment: _Segment, side: int, length: float) -> Iterator[Lot]:
        """Divide an edge into lots. A copied segment has the lots and buildings of its source, as far as they fit."""
        source = self.sources[segment]
        rng, redrawing_rng = self._segment_rng(source, side), self._segment_rng(segment, side, 9)
        start = 0.0
        while length - start > _LOT_WIDTHS[0]:
            has_gap, has_setback = rng.random(2) < (0.15, 0.3)
            width = float(rng.uniform(*_LOT_WIDTHS))
            gap = float(rng.uniform(1.5, 5.0)) * float(has_gap)  # metres before the lot
            setback = float(rng.uniform(*_SETBACKS)) * float(has_setback)
            building = self._draw_any_building(rng)
            if source != segment and redrawing_rng.random() < _REDRAWN_SHARE:
                building = self._draw_any_building(redrawing_rng)
            start += gap if start else 0.0
            width = min(width, length - start)
            if length - start - width < _LOT_WIDTHS[0]:  # the rest is too narrow for another lot
                width = length - start
            if width >= 4.0:
                yield Lot(start, width, setback, dict(building))
            start += width

    def _draw_any_building(self, rng: Generator) -> dict[str, Any]:
        """Draw a building of a standard design or a new one. Both are always drawn, so that later draws are the same."""
        is_standard = rng.random() < _DESIGN_SHARE
        design = self.designs[int(rng.integers(_NUM_DESIGNS))]
        new_building = _draw_building(rng)
        return design if is_standard else new_building

    def street_fixtures(self) -> Iterator[dict[str, Any]]:
        """Yield the street furniture along the streets."""
        for segment in self.segments():
            begin, end = self.streets[segment.along][segment.step : segment.step + 2]
            line, width = (table[1 - segment.along][segment.line] for table in (self.streets, self.widths))
            rng = self._segment_rng(self.sources[segment], 5)
            for offset, across, fixture in _draw_fixtures(rng, float(end - begin), float(width)):
                x, y = (begin + offset, line + across)[:: 1 if segment.along == 0 else -1]
                yield {"x": x, "y": y, **fixture}

    def park_trees(self) -> Iterator[dict[str, Any]]:
        """Yield the trees in squares and parks."""
        for number, (x0, y0, x1, y1, is_park) in enumerate(self.open_blocks):
            rng = self._rng(6, number)
            for _ in range(int(rng.integers(12, 26) if is_park else rng.integers(2, 8))):
                x, y = rng.uniform(x0 + 3, x1 - 3), rng.uniform(y0 + 3, y1 - 3)
                yield {"x": x, "y": y, **_draw_fixture(rng, Fixture.TREE)}

    def places(self, count: int) -> list[dict[str, Any]]:
        """Return `count` places on the inner streets, chosen at random."""
        spots = []
        for segment in self.segments():
            if segment.line in (0, self.num_blocks):  # a street at the edge of the city has houses on one side only
                continue
            begin, end = self.streets[segment.along][segment.step : segment.step + 2]
            line, width = (table[1 - segment.along][segment.line] for table in (self.streets, self.widths))
            for spot in np.arange(begin + _CROSSING_MARGIN, end - _CROSSING_MARGIN, _PLACE_SPACING):
                x, y = (spot, line)[:: 1 if segment.along == 0 else -1]
                spots.append({"x": x, "y": y, "along": segment.along, "street_width": width})
        chosen = self._rng(7).permutation(len(spots))[:count]
        return [spots[number] for number in sorted(chosen)]


def _walls_around(
    box: tuple[float, float, float, float], along: int, inward: float, is_corner: bool, building: int, look: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield a building's four walls. The two walls between houses have windows at a corner, or if bits of the key are 0."""
    low, high, near, far = box
    height = look["ground_height"] + look["floors"] * look["floor_height"] + 0.7
    common = {"height": height, "building": building}
    front, back = (near, far) if inward > 0 else (far, near)
    across = 1 - along
    gable = look["gable"] * (high - low)
    yield common | _wall(across, front, low, high, -inward, gable, 1.0)
    yield common | _wall(across, back, low, high, inward, gable, 1.0)
    for coordinate, side in ((low, -1.0), (high, 1.0)):
        has_windows = is_corner or (look["key"] >> (3 if side < 0 else 4)) % 4 == 0
        yield common | _wall(along, coordinate, near, far, side, 0.0, float(has_windows))


def _wall(axis: int, coordinate: float, low: float, high: float, side: float, gable: float, is_facade: float) -> dict[str, Any]:
    return {
        "axis": axis,
        "coordinate": coordinate,
        "low": low,
        "high": high,
        "side": side,
        "gable": gable,
        "is_facade": is_facade,
    }


def _draw_building(rng: Generator) -> dict[str, Any]:
    gable = rng.uniform(0.2, 0.45) * float(rng.random() < 0.18)
    return {
        "style": int(rng.integers(NUM_STYLES)),
        "tint": rng.uniform(0.72, 1.12) * rng.uniform(0.86, 1.1, 3),
        "bay_width": float(rng.uniform(2.2, 3.9)),
        "floor_height": float(rng.uniform(2.8, 3.7)),
        "ground_height": float(rng.uniform(3.2, 4.6)),
        "floors": int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.16, 0.26, 0.26, 0.18, 0.09, 0.05])),
        "gable": float(gable),
        "has_shop": float(rng.random() < 0.4),
        "sign": int(rng.integers(NUM_SIGNS)),
        "key": int(rng.integers(1 << 30)),
    }


def _draw_fixtures(rng: Generator, length: float, width: float) -> Iterator[tuple[float, float, dict[str, Any]]]:
    """Draw the furniture of a segment: metres from its beginning, metres from the street's middle, and the fixture."""
    kerb = width / 2 - 1.0
    for side in (-1.0, 1.0):
        has_trees, spacing = rng.random() < 0.5, rng.uniform(8.0, 15.0)
        for spot in np.arange(rng.uniform(_CLEAR + 1, 18.0), length - _CLEAR - 1, spacing):
            tree = _draw_fixture(rng, Fixture.TREE)
            if has_trees:
                yield float(spot + rng.uniform(-1, 1)), side * kerb, tree
        for spot in np.arange(rng.uniform(_CLEAR, 20.0), length - _CLEAR, 27.0):
            yield float(spot), side * kerb, _draw_fixture(rng, Fixture.LAMP)
        for kind in (Fixture.SIGN, Fixture.SIGN, Fixture.BOX):
            yield float(rng.uniform(_CLEAR, length - _CLEAR)), side * kerb, _draw_fixture(rng, kind)


def _draw_fixture(rng: Generator, kind: Fixture) -> dict[str, Any]:
    widths, heights = _FIXTURE_SIZES[kind]
    return {
        "kind": int(kind),
        "width": float(rng.uniform(*widths)),
        "height": float(rng.uniform(*heights)),
        "look": int(rng.integers(_NUM_LOOKS)),
    }


def _columns(table: type[Any], rows: list[dict[str, Any]]) -> Any:
    """Convert rows to a table of columns, with the whole-number type for fields annotated as `Ints`."""
    columns = {}
    for field in fields(table):
        dtype = np.int64 if field.type == Ints else np.float64
        width = (3,) if field.name == "tint" else ()
        columns[field.name] = np.array([row[field.name] for row in rows], dtype=dtype).reshape(len(rows), *width)
    return table(**columns)
