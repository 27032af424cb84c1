"""The form of a reader of places; `registry.py` lists the readers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions


@dataclass(frozen=True)
class PlaceReader:
    """A reader of photos and their places.

    Attributes:
        name: Name of the reader, for error messages.
        accepted: Description of the files or folders that the reader accepts, for the error of a path that no reader accepts.
        accepts: Return whether the reader accepts a path. It must be quick: it may list a folder, but not open files.
        read: Read the places of a path that the reader accepts, with options that the path does not answer itself.
    """

    name: str
    accepted: str
    accepts: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], PlaceTable]
