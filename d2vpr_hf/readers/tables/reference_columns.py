"""Columns that complete another column: the hemisphere of degrees without a sign, and the letter of a UTM zone's number.

exiftool writes `GPSLatitude` and `GPSLatitudeRef`; without the second one, positions in the south would be in the north.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from d2vpr_hf.readers.metadata.angles import LATITUDE, LONGITUDE, first_letter

COMPLETED = {  # the field that each of these columns completes
    "latitude_hemisphere": "latitude",
    "longitude_hemisphere": "longitude",
    "utm_letter": "utm_zone",
}
_AXES = {"latitude": LATITUDE, "longitude": LONGITUDE}
_WORDS = ("ref", "reference", "hemisphere", "hemi", "dir", "direction", "sign")  # next to the name of the column of degrees
_MINUTES = ("min", "mins", "minute", "minutes")
_SIGNS = {"-": -1.0, "-1": -1.0, "-1.0": -1.0, "+": 1.0, "1": 1.0, "+1": 1.0, "1.0": 1.0}
_NAMES = {
    "latitude_hemisphere": ("ns", "n/s"),  # of NMEA sentences
    "longitude_hemisphere": ("ew", "e/w"),
    "utm_letter": ("utmzoneletter", "utmletter", "utmband", "zoneletter", "zoneband"),
}


def plain_name(name: str) -> str:
    """Return a column's name in lower case, without blanks, hyphens, underscores and brackets."""
    return re.sub(r"[\s_()\[\]-]+", "", name).lower()


def find_references(columns: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, str]:
    """Return the columns of degrees' hemispheres and of zone letters, by the keys of `COMPLETED`.

    Args:
        columns: The columns of each field.
        names: All columns of the table.
    """
    plain = {plain_name(name): name for name in names}
    references = {}
    for key, field in COMPLETED.items():
        words = [*_NAMES[key]]
        if field in _AXES:
            stems = _stems(columns.get(field, ()))
            words = [each for stem in stems for word in _WORDS for each in (stem + word, word + stem)] + words
        present = [plain[word] for word in words if word in plain]
        if columns.get(field) and present:
            references[key] = present[0]
    return references


def check_no_minutes(columns: Mapping[str, Sequence[str]], names: Sequence[str], has: str) -> None:
    """Check that degrees do not have their minutes in another column, such as `lat_min` next to `lat_deg`.

    Args:
        columns: The columns of each field.
        names: All columns of the table.
        has: Beginning of the error: the table and its columns.

    Raises:
        ValueError: If there is a column of minutes. With a column of maxima, such as `lat_max`, it is one of minima.
    """
    plain = {plain_name(name): name for name in names}
    for field in _AXES:
        for stem in _stems(columns.get(field, ())):
            minutes = [plain[stem + word] for word in _MINUTES if stem + word in plain and f"{stem}max" not in plain]
            if minutes:
                raise ValueError(
                    f"{has}: {minutes[0]} are the minutes of {columns[field][0]}. Write the {field} as decimal degrees in one "
                    "column, and remove the others."
                )


def _stems(columns: Sequence[str]) -> list[str]:
    """Return the plain names of columns, also without a unit: `latdeg` and `lat`."""
    names = [plain_name(column) for column in columns]
    return [*names, *[re.sub("(deg|degrees|°)$", "", name) for name in names if re.search("(deg|degrees|°)$", name)]]


def complete_values(values: dict[str, Any], references: Mapping[str, str]) -> None:
    """Complete the values of a row: give degrees the sign of their hemisphere, and the number of a zone its letter.

    Args:
        values: The values by field, which are changed.
        references: The texts of hemispheres and letters, by the keys of `COMPLETED`.

    Raises:
        ValueError: If a text is not a hemisphere, or contradicts a sign.
    """
    for key, text in references.items():
        field = COMPLETED[key]
        if values.get(field) is None:
            continue
        if field in _AXES:
            values[field] = _signed_degrees(field, values[field], text)
        elif text and re.fullmatch(r"\d{1,2}(\.0*)?", values[field]):
            values[field] = f"{values[field].partition('.')[0]}{text}"


def _signed_degrees(field: str, value: float, hemisphere: str) -> float:
    axis, letter = _AXES[field], first_letter(hemisphere)
    if hemisphere.strip() in _SIGNS:
        letter = axis.positive if _SIGNS[hemisphere.strip()] > 0 else axis.negative
    if letter not in (axis.positive, axis.negative):
        expected = f"{axis.positive} or {axis.negative}"
        raise ValueError(f"the hemisphere of the {field} must be {expected}, got {hemisphere or 'an empty cell'}")
    if value < 0 and letter == axis.positive:
        raise ValueError(f"{field} {value} has a minus sign, and its hemisphere is {hemisphere}; they contradict each other")
    return 0.0 - abs(value) if letter == axis.negative else value
