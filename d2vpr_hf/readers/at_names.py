"""Positions in file names: the `@` convention of the field's data sets.

`@ east @ north @ zone number @ zone letter @ latitude @ longitude @ pano @ tile @ heading @ pitch @ roll @ height @ time @
note @ extension`, of which only east and north are required. See VPR-datasets-downloader. The time is `YYYYMMDD_hhmmss`, whose
right parts may be missing.
"""

import re
from pathlib import Path
from typing import Any

from d2vpr_hf.places.place import Place, check_degrees, parse_number, with_degrees

PATTERN = "@east@north@zone number@zone letter@latitude@longitude@pano@tile@heading@pitch@roll@height@time@note@.jpg"
_NUM_PARTS = 16  # the name begins with @, so the first part is empty


def is_at_name(path: Path) -> bool:
    """Return whether a file's name follows the convention; the names of its folders do not matter."""
    return path.name.startswith("@")


def place_from_name(path: Path, folder: Path) -> Place:
    """Read the place of a photo from its name.

    Raises:
        ValueError: If the name does not follow the convention; the message holds the file and the pattern.
    """
    try:
        return _parse(path.name, path.relative_to(folder).as_posix())
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Expected a name like {PATTERN}, with east and north in metres.") from error


def _parse(name: str, path: str) -> Place:
    parts = name.split("@")
    if len(parts) != _NUM_PARTS:
        raise ValueError(f"the name has {len(parts)} parts between @, not {_NUM_PARTS}")
    east, north = _number(parts[1]), _number(parts[2])
    if east is None or north is None:
        raise ValueError("east or north is missing")
    latitude, longitude = _number(parts[5]), _number(parts[6])
    if latitude is not None and longitude is not None:
        check_degrees(latitude, longitude)
    zone = f"{int(parts[3])}{parts[4].upper()}" if parts[3] and parts[4] else None
    details: dict[str, Any] = {"heading": _number(parts[9]), "timestamp": _time(parts[13]), "condition": parts[14] or None}
    return with_degrees(Place(path, latitude, longitude, east, north, zone, **details))


def _time(text: str) -> str | None:
    """Return the time of a name. A year becomes its first month: elsewhere four digits are the seconds of a clock."""
    return f"{text}-01" if re.fullmatch("[0-9]{4}", text) else text or None


def _number(text: str) -> float | None:
    return parse_number(text) if text.strip() else None
