"""Positions in file names: the `@` convention of the field's data sets.

`@ east @ north @ zone number @ zone letter @ latitude @ longitude @ pano @ tile @ heading @ pitch @ roll @ height @ time @
note @ extension`, of which only east and north are required. Near the poles, where UTM ends, latitude and longitude take their
place. The time is `YYYYMMDD_hhmmss`, whose right parts may be missing. See VPR-datasets-downloader. Short names,
`@east@north@anything@.jpg`, have metres without a zone; VPR-methods-evaluation documents them for own photos.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from d2vpr_hf.places.place import Place, check_fields, complete_places, parse_number
from d2vpr_hf.readers.plain_values import count_metres_without_degrees
from d2vpr_hf.readers.remarks import RemarkCounter

PATTERN = "@east@north@zone number@zone letter@latitude@longitude@pano@tile@heading@pitch@roll@height@time@note@.jpg"
SHORT_PATTERN = "@east@north@anything@.jpg"
SHORT = "short names with east and north only, read as metres without a zone"
_NUM_PARTS = 16  # the name begins with @, so the first part is empty
_LEAST_PARTS = 4  # of a short name, whose third text may have @ too
_CROP = re.compile(r"pitch-?\d+_yaw-?\d+")  # the note of a crop of Pittsburgh; it is not a condition
_NUMBERS = {"utm_east": 1, "utm_north": 2, "latitude": 5, "longitude": 6, "heading": 9}  # the part of each number


def is_at_name(path: PurePath) -> bool:
    """Return whether a file's name follows the convention; the names of its folders do not matter."""
    return path.name.startswith("@")


def place_from_name(path: Path, folder: Path) -> Place:
    """Read the place of a photo from its name.

    Raises:
        ValueError: If the name does not follow the convention; the message holds the file and the pattern.
    """
    return places_from_names([path], folder)[0]


def places_from_names(paths: Sequence[Path], folder: Path, remarks: RemarkCounter | None = None) -> list[Place]:
    """Read the places of photos from their names, many times as fast as one by one.

    Args:
        paths: The photos.
        folder: The folder that the places' paths are relative to.
        remarks: Counts short names, and metres far from their zone; `None` counts nothing.

    Raises:
        ValueError: If a name does not follow the convention; the message holds the file and the pattern.
    """
    remarks = RemarkCounter() if remarks is None else remarks
    prefix = f"{folder.as_posix()}/"
    places = []
    for path in paths:
        text = path.as_posix()  # texts: methods of `Path` would take most of the time of millions of names
        inner = text[len(prefix) :] if text.startswith(prefix) else path.relative_to(folder).as_posix()
        try:
            places.append(_parse(text.rpartition("/")[2], inner, remarks))
        except ValueError as error:
            raise _name_error(path, error) from error
    try:
        completed = complete_places(places)
    except ValueError:
        for path, place in zip(paths, places, strict=True):
            try:
                check_fields(place)
            except ValueError as error:
                raise _name_error(path, error) from error
        raise
    count_metres_without_degrees(completed, [place.path for place in places], remarks)
    return completed


def _name_error(path: Path, error: ValueError) -> ValueError:
    return ValueError(f"{path}: {error}. Expected a name like {PATTERN}, or {SHORT_PATTERN}, with east and north in metres.")


def _parse(name: str, path: str, remarks: RemarkCounter) -> Place:
    """Read the place of a name, whose fields are not checked yet."""
    parts = name.split("@")
    if len(parts) < _LEAST_PARTS:
        raise ValueError(f"the name has {len(parts)} parts between @, not {_NUM_PARTS}")
    if len(parts) != _NUM_PARTS:
        place = Place(path, utm_east=parse_number(parts[1]), utm_north=parse_number(parts[2]))
        remarks.add("assumed", SHORT, path)
        return place
    numbers: dict[str, Any] = {field: parse_number(text) for field, part in _NUMBERS.items() if (text := parts[part].strip())}
    zone = f"{parts[3]}{parts[4]}".strip() or None
    place = Place(path, **numbers, utm_zone=zone, timestamp=_time(parts[13]), condition=_condition(parts[14]))
    is_polar = parts[1].strip() == parts[2].strip() == "" and place.latitude is not None
    if None in (place.utm_east, place.utm_north) and not is_polar:
        raise ValueError("east or north is missing")
    return place


def _time(text: str) -> str | None:
    """Return the time of a name. A year becomes its first month: elsewhere four digits are the seconds of a clock."""
    return f"{text}-01" if re.fullmatch("[0-9]{4}", text) else text or None


def _condition(note: str) -> str | None:
    return note if note and not _CROP.fullmatch(note) else None
