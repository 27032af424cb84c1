"""The form of a reader of places; `registry.py` lists the readers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.readers.place_table import PlaceTable


@dataclass(frozen=True)
class PlaceReader:
    """A reader of photos and their places.

    Attributes:
        name: Its name.
        accepted: The files or folders that it reads, in words, for the error of a path that no reader accepts.
        accepts: Return whether it reads a path. Must be quick: it may look at the names in a folder, not at the files.
        read: Read the places of a path that it accepts.
    """

    name: str
    accepted: str
    accepts: Callable[[Path], bool]
    read: Callable[[Path], PlaceTable]
