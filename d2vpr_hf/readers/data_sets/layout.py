"""The form of a reader of data sets; `registry.py` lists the readers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.readers.data_sets.data_set import DataSet
from d2vpr_hf.readers.read_options import ReadOptions


@dataclass(frozen=True)
class Layout:
    """A form in which public scripts store a data set.

    Attributes:
        name: Name of the layout, which the parameter `layout` chooses: `"msls"`.
        title: Name for people: `"MSLS, raw"`.
        accepted: Description of the folder that the layout reads, for errors.
        accepts: Return whether a folder has this form. It must be quick: it may list folders, but not open photos.
        read: Read the data set in a folder.
        is_general: Whether the layout is chosen only if no other one accepts a folder.
        is_chosen_by_name: Whether the layout is read only if `layout` names it, as a second variant of another layout's files.
    """

    name: str
    title: str
    accepted: str
    accepts: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], DataSet]
    is_general: bool = False
    is_chosen_by_name: bool = False
