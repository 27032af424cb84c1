"""Places: positions of photos and their timestamps, distances between them, and filters on them."""

from d2vpr_hf.places.filters import PlaceFilter
from d2vpr_hf.places.place import (
    PLACE_SCHEMA,
    POSITIVE_DIST_THRESHOLD,
    Place,
    distance_in_metres,
    flat_coordinates,
    position_text,
)

__all__ = [
    "PLACE_SCHEMA",
    "POSITIVE_DIST_THRESHOLD",
    "Place",
    "PlaceFilter",
    "distance_in_metres",
    "flat_coordinates",
    "position_text",
]
