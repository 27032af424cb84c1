"""Background tiles of a web map. They are off by default: the visitor's browser fetches them, so that the tile server learns
which area the visitor looks at.
"""

import math
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from d2vpr_hf.maps.plane import Plane

_MAX_TILES = 36
_MAX_ZOOM = 19


class View(NamedTuple):
    """A rectangular part of the plane, in metres."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class TileSource:
    """A server of tiles.

    Attributes:
        template: URL with `{z}`, `{x}` and `{y}`.
        attribution: Owner of the map, whose name must be shown with it.
    """

    template: str
    attribution: str

    def __post_init__(self) -> None:
        if not (self.template.startswith("https://") and all(part in self.template for part in ("{z}", "{x}", "{y}"))):
            raise ValueError(f"Expected tiles as https://host/{{z}}/{{x}}/{{y}}.png, got {self.template!r}.")

    def draw(self, plane: Plane, view: View, scale: float) -> str:
        """Return the tiles of a view as SVG images, in units of 1 / `scale` metres from its upper left corner."""
        zoom = self._zoom(plane, view)
        side = plane.world() / 2**zoom
        half = plane.world() / 2
        columns = range(math.floor((view.left + half) / side), math.floor((view.right + half) / side) + 1)
        top, bottom = (math.floor((half - edge) / side) for edge in (view.top, view.bottom))
        rows = range(max(top, 0), min(bottom, 2**zoom - 1) + 1)  # web maps end near 85 degrees north and south
        images = []
        for x in columns:
            for y in rows:
                column = x % 2**zoom  # over the date line the web map begins again
                url = escape(self.template.replace("{z}", str(zoom)).replace("{x}", str(column)).replace("{y}", str(y)))
                left, top = (x * side - half - view.left) * scale, (view.top - (half - y * side)) * scale
                images.append(f'<image href="{url}" x="{left:.2f}" y="{top:.2f}" width="{side * scale + 0.5:.2f}" '
                              f'height="{side * scale + 0.5:.2f}"/>')  # fmt: skip
        return f'<g class="tiles">{"".join(images)}</g>'

    def _zoom(self, plane: Plane, view: View) -> int:
        """Return the largest zoom at which at most `_MAX_TILES` tiles cover a view."""
        for zoom in range(_MAX_ZOOM, 0, -1):
            side = plane.world() / 2**zoom
            if ((view.right - view.left) / side + 2) * ((view.top - view.bottom) / side + 2) <= _MAX_TILES:
                return zoom
        return 0
