"""Options of readers that a file or folder does not answer itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PositionSource = Literal["csv", "names", "exif"]


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading photos and their places; the defaults fit folders that hold nothing ambiguous.

    Attributes:
        columns: The column of a table for each field whose column does not have a usual name, such as
            `{"latitude": "y_wgs84"}`. The fields are those of [`Place`], `place_id` and `group_id`.
        positions: The source of positions in a folder: `"csv"` for its CSV file, `"names"` for `@` names, `"exif"` for EXIF,
            XMP and sidecar files. `None` for the first of them that the folder has.
        assume_north_east: Whether EXIF positions without a hemisphere are north and east; otherwise they are unknown.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    positions: PositionSource | None = None
    assume_north_east: bool = False
