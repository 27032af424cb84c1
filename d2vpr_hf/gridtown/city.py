"""A procedural city: streets, blocks, buildings and street furniture, from a seed.

The city lies on a jittered grid. Its own frame has x along one family of streets and y along the other, in metres; the frame is
turned and placed in UTM. Everything that stands still is here; what changes between two visits is drawn per photo.

Perceptual aliasing is built in: some buildings are of a standard design that stands elsewhere in town too, and some stretches
of street, both sides with everything along them, are copies of others but for a few buildings.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_STYLES = 40  # facade styles of a city
NUM_SIGNS = 96  # shop signs of a city
NUM_LOOKS = 1 << 16  # a fixture's look is a number below; the renderer picks a picture by it
UTM_ZONE = (32, "T")
SIDEWALK = 2.6  # metres on either side of a street


class Fixture(IntEnum):
    """What stands along a street and stays."""

    TREE = 0
    LAMP = 1
    SIGN = 2
    BOX = 3


@dataclass(frozen=True)
class Walls:
    """Walls of buildings, N of them, each along one axis of the city.

    Attributes:
        axis: (N,) 0 where the wall lies at x = `coordinate`, 1 at y = `coordinate`.
        coordinate, low, high: (N,) metres; the wall runs from `low` to `high` along the other axis.
        side: (N,) +1 where it looks to growing coordinates, -1 where to shrinking ones.
        height, gable: (N,) metres; a gable rises that much more in the middle.
        is_facade: (N,) whether it has windows and doors.
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
    """How buildings look, M of them: (M,) each, `tint` (M, 3).

    Attributes:
        style: Row in the atlas of facades.
        tint: Factor on red, green and blue.
        bay_width, floor_height, ground_height: Metres.
        has_shop: Whether the ground floor is a shop, with the sign `sign` above.
        sign: Row in the atlas of signs.
        key: A number from which windows, doors and shutters are drawn.
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
    """What stands along streets: (K,) each. Metres; `kind` is a [`Fixture`], `look` picks its picture."""

    x: Floats
    y: Floats
    kind: Ints
    width: Floats
    height: Floats
    look: Ints


@dataclass(frozen=True)
class Places:
    """Spots on the middle of streets: (P,) each, metres; `along` is 0 where the street runs along x, 1 along y."""

    x: Floats
    y: Floats
    along: Ints
    street_width: Floats

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class City:
    """A whole city. `street_x` are streets at constant x, `street_y` at constant y, with their widths in metres.

    `open_blocks` are (Q, 5): low x, low y, high x, high y, and 1 for a park, 0 for a paved square.
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
        """Turn city coordinates into east and north, metres."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        x, y = x - (self.street_x[0] + self.street_x[-1]) / 2, y - (self.street_y[0] + self.street_y[-1]) / 2
        return self.origin[0] + x * cos - y * sin, self.origin[1] + x * sin + y * cos

    def heading(self, yaw: Floats | float) -> Floats:
        """Turn a direction in the city, radians from x towards y, into a compass heading in degrees."""
        return np.mod(90.0 - np.degrees(np.asarray(yaw) + self.rotation), 360.0)
