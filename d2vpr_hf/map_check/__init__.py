"""Check a map by its own photos: where it is ambiguous, sparse or inconsistent."""

from d2vpr_hf.map_check.check_map import check_map
from d2vpr_hf.map_check.report import AliasPair, Area, MapReport, MisplacedPhoto

__all__ = ["AliasPair", "Area", "MapReport", "MisplacedPhoto", "check_map"]
