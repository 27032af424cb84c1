"""Maps of an index's photos and of a query's position, drawn without a tile server."""

from d2vpr_hf.maps.drawing import BaseMap, MapLayer, MapMarks
from d2vpr_hf.maps.plane import Plane
from d2vpr_hf.maps.tiles import TileSource

__all__ = ["BaseMap", "MapLayer", "MapMarks", "Plane", "TileSource"]
