"""The structure of photo files: files that would take excessive time or memory are refused before they are decoded."""

from d2vpr_hf.readers.structure.check_structure import check_structure
from d2vpr_hf.readers.structure.directories import check_exif
from d2vpr_hf.readers.structure.jpeg2000 import read_metadata_boxes
from d2vpr_hf.readers.structure.limits import UnsafePhotoError

__all__ = ["UnsafePhotoError", "check_exif", "check_structure", "read_metadata_boxes"]
