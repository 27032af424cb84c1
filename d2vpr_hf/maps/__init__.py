"""Maps drawn without a tile server: where photos of an index were taken, and where a query was."""

from d2vpr_hf.maps.drawing import BaseMap, MapMarks
from d2vpr_hf.maps.plane import Plane
from d2vpr_hf.maps.tiles import TileSource

__all__ = ["BaseMap", "MapMarks", "Plane", "TileSource"]
