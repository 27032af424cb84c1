"""The tables of a procedural city: streets, blocks, walls, buildings, street furniture and places.

The streets form a jittered grid. City coordinates have x along one direction of streets and y along the other, in metres; they
are rotated and placed in UTM. The tables hold only objects that never move; vehicles, people, light and weather are drawn for
each photo (`photo_spec.py`, `rendering/scene.py`).

Perceptual aliasing is built in: some buildings have a standard design that occurs elsewhere in the city too, and some street
segments copy another segment with both sides and all street furniture, except for a few buildings.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_STYLES = 40  # facade styles of a city
NUM_SIGNS = 96  # shop signs of a city
UTM_ZONE = (32, "T")
SIDEWALK = 2.6  # metres on either side of a street


class Fixture(IntEnum):
    """Kinds of street furniture."""

    TREE = 0
    LAMP = 1
    SIGN = 2
    BOX = 3


@dataclass(frozen=True)
class Walls:
    """The N walls of all buildings. Every wall is parallel to one axis of the city.

    Attributes:
        axis: (N,) 0 for a wall at x = `coordinate`, 1 for a wall at y = `coordinate`.
        coordinate, low, high: (N,) metres; the wall runs from `low` to `high` along the other axis.
        side: (N,) +1 if the wall faces growing coordinates, -1 if it faces shrinking coordinates.
        height, gable: (N,) metres; a gable adds its height in the middle of the wall.
        is_facade: (N,) whether the wall has windows and doors.
        building: (N,) row in the table of buildings.
    """

    axis: Ints
    coordinate: Floats
    low: Floats
    high: Floats
    side: Floats
    height: Floats
    gable: Floats
    is_facade: Floats
    building: Ints


@dataclass(frozen=True)
class Buildings:
    """The looks of M buildings: every column is (M,), except `tint` (M, 3).

    Attributes:
        style: Row in the atlas of facades.
        tint: Factor on red, green and blue.
        bay_width, floor_height, ground_height: Metres.
        has_shop: Whether the ground floor is a shop with the sign `sign` above it.
        sign: Row in the atlas of signs.
        key: Seed of the building's windows, doors and shutters.
    """

    style: Ints
    tint: Floats
    bay_width: Floats
    floor_height: Floats
    ground_height: Floats
    has_shop: Floats
    sign: Ints
    key: Ints


@dataclass(frozen=True)
class Fixtures:
    """Street furniture: every column is (K,). Lengths are metres, `kind` is a [`Fixture`], `look` selects its picture."""

    x: Floats
    y: Floats
    kind: Ints
    width: Floats
    height: Floats
    look: Ints


@dataclass(frozen=True)
class Places:
    """P spots in the middle of streets: every column is (P,), in metres; `along` is the street's axis, 0 for x and 1 for y."""

    x: Floats
    y: Floats
    along: Ints
    street_width: Floats

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class City:
    """A whole city.

    Attributes:
        seed: The seed that it was made from.
        rotation: Radians by which city coordinates are rotated in UTM.
        origin: UTM east and north of the city's middle, metres.
        street_x, width_x: Middles and widths of the streets at constant x, metres.
        street_y, width_y: The same for the streets at constant y.
        open_blocks: (Q, 5) low x, low y, high x, high y, and 1 for a park or 0 for a paved square.
        walls, buildings, fixtures, places: The tables.
    """

    seed: int
    rotation: float
    origin: tuple[float, float]
    street_x: Floats
    width_x: Floats
    street_y: Floats
    width_y: Floats
    open_blocks: Floats
    walls: Walls
    buildings: Buildings
    fixtures: Fixtures
    places: Places

    def to_utm(self, x: Floats | float, y: Floats | float) -> tuple[Floats, Floats]:
        """Convert city coordinates to UTM east and north, metres."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        x, y = x - (self.street_x[0] + self.street_x[-1]) / 2, y - (self.street_y[0] + self.street_y[-1]) / 2
        return self.origin[0] + x * cos - y * sin, self.origin[1] + x * sin + y * cos

    def heading(self, yaw: Floats | float) -> Floats:
        """Convert a direction in the city, radians from x towards y, to a compass heading in degrees."""
        return np.mod(90.0 - np.degrees(np.asarray(yaw) + self.rotation), 360.0)
