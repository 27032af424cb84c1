"""From files on disk to places: which photos there are, and where each was taken."""

from d2vpr_hf.readers.folder import PlaceTable, read_place, read_places
from d2vpr_hf.readers.photos import UnreadablePhotoError, find_photos, open_photo
from d2vpr_hf.readers.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres, flat_coordinates

__all__ = [
    "POSITIVE_DIST_THRESHOLD",
    "Place",
    "PlaceTable",
    "UnreadablePhotoError",
    "distance_in_metres",
    "find_photos",
    "flat_coordinates",
    "open_photo",
    "read_place",
    "read_places",
]
