"""Readers of photos and their places: folders, CSV files, GSV-Cities and Hugging Face data sets."""

from d2vpr_hf.readers.folder import read_photo, read_place, write_places
from d2vpr_hf.readers.group_places import PlaceGrid, describe_places, group_places
from d2vpr_hf.readers.gsv_cities import read_gsv_cities
from d2vpr_hf.readers.hub_dataset import load_places
from d2vpr_hf.readers.photo_collection import PhotoCollection, name_in_folder
from d2vpr_hf.readers.photos import PhotoSource, UnreadablePhotoError, find_photos, open_photo
from d2vpr_hf.readers.place_dataset import DatasetPhotos, iter_photos, to_dataset
from d2vpr_hf.readers.place_reader import PlaceReader
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.registry import READERS, as_collection, read_places
from d2vpr_hf.readers.remarks import Remark

__all__ = [
    "READERS",
    "DatasetPhotos",
    "PhotoCollection",
    "PhotoSource",
    "PlaceGrid",
    "PlaceReader",
    "PlaceTable",
    "ReadOptions",
    "Remark",
    "UnreadablePhotoError",
    "as_collection",
    "describe_places",
    "find_photos",
    "group_places",
    "iter_photos",
    "load_places",
    "name_in_folder",
    "open_photo",
    "read_gsv_cities",
    "read_photo",
    "read_place",
    "read_places",
    "to_dataset",
    "write_places",
]
