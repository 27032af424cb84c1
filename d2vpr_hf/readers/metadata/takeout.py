"""Positions and times in the JSON files that Google Takeout writes next to the photos of Google Photos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from d2vpr_hf.readers.metadata.photo_metadata import Note, PhotoMetadata, Stated, utc_text
from d2vpr_hf.utils.bounded_files import parse_json

_ENDING = ".supplemental-metadata"
_LONGEST_STEM = 46  # characters before `.json`: Takeout cuts longer names
_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".HEIC", ".heic", ".png", ".PNG")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_LARGEST_NUMBER = 1e12
_COUNTED = re.compile(r"(.*)(\([0-9]+\))")
_EDITED = re.compile(  # the suffix of edited photos, in the language of their owner
    r"(.*)-(?:edited|bearbeitet|modifié|editado|editada|modificato|bewerkt|edytowane|redigerad|redigeret|redigert|muokattu|"
    r"upravené|upraveno|szerkesztett|düzenlendi|отредактировано|編集済み|编辑|已修改)(\([0-9]+\))?"
)


def takeout_names(photo: str) -> Iterator[str]:
    """Yield the names that the JSON file of a photo may have, the most probable first.

    `a.jpg` has `a.jpg.json` or `a.jpg.supplemental-metadata.json`, which is cut to 51 characters; `a(1).jpg` has
    `a.jpg(1).json` or `a.jpg.supplemental-metadata(1).json`; and an edited photo, `a-edited.jpg`, has the file of `a.jpg`.
    """
    path = PurePath(photo)
    yield from _names(photo, "")
    if counted := _COUNTED.fullmatch(path.stem):
        yield from _names(f"{counted[1]}{path.suffix}", counted[2])
    if edited := _EDITED.fullmatch(path.stem):
        for suffix in dict.fromkeys((path.suffix, *_SUFFIXES)):  # an edited HEIC becomes a JPEG
            yield from takeout_names(f"{edited[1]}{edited[2] or ''}{suffix}")


def read_takeout(content: bytes, photo: str) -> PhotoMetadata:
    """Read a JSON file of Google Takeout: the position in Google Photos, or else that of the camera; 0, 0 stands for none.

    A JSON file of another kind states nothing, nor does that of another photo whose long name begins with the same characters.

    Args:
        content: The content of the file.
        photo: The name of the photo.

    Raises:
        ValueError: If the file is not JSON.
    """
    try:
        values = parse_json(content)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(values, dict) or not _is_title(values.get("title"), photo):
        return PhotoMetadata()
    positions = (_position(values.get(name)) for name in ("geoData", "geoDataExif"))
    stated = [position for position in positions if position.value is not None or position.notes]
    return PhotoMetadata(
        min(stated, key=lambda position: position.value is None, default=Stated()), timestamp=_timestamp(values)
    )


def _names(photo: str, counter: str) -> Iterator[str]:
    """Yield names from the longest to the shortest that holds the photo's name, or that is cut."""
    full = f"{photo}{_ENDING}"
    yield f"{photo[:_LONGEST_STEM]}{counter}.json"
    for length in range(len(full), min(len(photo), _LONGEST_STEM), -1):
        yield f"{full[:length]}{counter}.json"


def _is_title(title: Any, photo: str) -> bool:
    """Return whether a title may be that of a photo whose name Takeout may have cut; a short name is that of its file."""
    if len(photo) <= _LONGEST_STEM or not isinstance(title, str):
        return True
    stem = PurePath(photo).stem
    counted = _COUNTED.fullmatch(stem)
    return _plain(title).startswith(_plain(counted[1] if counted else stem))


def _plain(name: str) -> str:
    """Return a name without the characters that Takeout replaces in file names."""
    return re.sub(r"\W|_", "_", name)


def _position(degrees: Any) -> Stated[tuple[float, float]]:
    latitude, longitude = (_number(degrees, name) for name in ("latitude", "longitude"))
    if latitude is None or longitude is None:
        is_stated = isinstance(degrees, dict) and any(degrees.get(name) is not None for name in ("latitude", "longitude"))
        note = Note("skipped", "positions of Google Takeout that are not two numbers")
        return Stated(None, (note,)) if is_stated else Stated()
    if (latitude, longitude) == (0, 0):
        return Stated()
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return Stated(None, (Note("skipped", "positions of Google Takeout that are not on the globe"),))
    return Stated((latitude, longitude))


def _timestamp(values: dict[str, Any]) -> Stated[str]:
    seconds = _number(values.get("photoTakenTime"), "timestamp")
    if not seconds:  # 0 stands for an unknown time
        return Stated()
    try:
        return Stated(utc_text(datetime.fromtimestamp(seconds, UTC)))
    except (ValueError, OverflowError, OSError):
        return Stated()


def _number(values: Any, name: str) -> float | None:
    """Return a finite number in an object; `None` if it has none of this name."""
    value = values.get(name) if isinstance(values, dict) else None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _LARGEST_NUMBER else None
