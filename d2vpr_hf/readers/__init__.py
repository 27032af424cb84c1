"""From files on disk to places: which photos there are, and where each was taken."""

from d2vpr_hf.readers.folder import PlaceTable, read_place, read_places, write_places
from d2vpr_hf.readers.group_places import PlaceGrid, describe_places, group_places
from d2vpr_hf.readers.gsv_cities import read_gsv_cities
from d2vpr_hf.readers.hub_dataset import load_places
from d2vpr_hf.readers.photos import PhotoSource, UnreadablePhotoError, find_photos, open_photo
from d2vpr_hf.readers.place_dataset import iter_photos, to_dataset

__all__ = [
    "PhotoSource",
    "PlaceGrid",
    "PlaceTable",
    "UnreadablePhotoError",
    "describe_places",
    "find_photos",
    "group_places",
    "iter_photos",
    "load_places",
    "open_photo",
    "read_gsv_cities",
    "read_place",
    "read_places",
    "to_dataset",
    "write_places",
]
