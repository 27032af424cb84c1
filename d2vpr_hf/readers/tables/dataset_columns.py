"""Turn the columns of any data set into the columns of the common form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from d2vpr_hf.places.place import (
    PLACE_SCHEMA,
    POSITION_PAIRS,
    Place,
    check_fields,
    complete_places,
    parse_number,
)
from d2vpr_hf.places.utm_zones import zone_with_hemisphere
from d2vpr_hf.readers.photos import is_url
from d2vpr_hf.readers.place_dataset import place_columns
from d2vpr_hf.readers.plain_values import (
    count_letters_s,
    count_metres_without_degrees,
    count_readings,
    count_zeros,
    plain_places,
)
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.readers.tables.csv_table import ALIASES, HEMISPHERE, all_columns_by_alias, check_chosen
from d2vpr_hf.readers.tables.reference_columns import COMPLETED, check_no_minutes, complete_values, find_references, plain_name
from d2vpr_hf.readers.tables.two_positions import drop_other_metres

if TYPE_CHECKING:
    import datasets

ImageFile = tuple[str | None, bool]  # an image's path, and whether the pixels are in that file and not in the data set

_LOCAL_FIELDS = ("x", "y", "z", "yaw", "frame")  # such columns often mean something else: pixels, frames of a video
_IMAGES = ("image", "img", "photo", "picture", "jpg", "jpeg", "png", "webp")
_PATHS = ("path", "file_name", "filename", "file")
_KNOWN = {field: aliases for field, aliases in ALIASES.items() if field not in _LOCAL_FIELDS} | {
    "image": _IMAGES,
    "path": _PATHS,
    "place_id": ("place_id",),
}


def match_columns(name: str, features: datasets.Features, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field, and the columns of hemispheres and zone letters by the keys of `COMPLETED`.

    A chosen column has precedence. Otherwise fields are found by their usual names, in any case; the images are also found by
    their type, if only one column has it.

    Args:
        name: Name of the data set, for errors.
        features: Types of its columns, by name.
        chosen: Chosen columns by field.

    Raises:
        ValueError: If a chosen field or column is missing, two columns may be meant for a number, no column is found to hold
            images, or a column is found for only one of two coordinates that belong together.
    """
    has = f"{name} has the columns {', '.join(features)}"
    check_chosen(chosen, list(features), has, ("image", *PLACE_SCHEMA.names, "place_id", HEMISPHERE))
    images = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
    by_type = {"image": images[0]} if len(images) == 1 else {}
    matched = all_columns_by_alias(list(features), _KNOWN)
    for field in ("latitude", "longitude", "utm_east", "utm_north", "heading"):
        candidates = matched.get(field, [])
        if len(candidates) > 1 and field not in chosen:
            advice = f'Choose one with `columns={{"{field}": "{candidates[0]}"}}`.'
            raise ValueError(f"{has}: {' and '.join(candidates)} both name the {field}. {advice}")
    if "utm_east" not in matched and "utm_east" not in chosen:  # zones of something else
        matched["utm_zone"] = [column for column in matched.get("utm_zone", []) if plain_name(column) == "utmzone"]
    fields = {field: names[0] for field, names in matched.items() if names} | by_type | dict(chosen)
    if "image" not in fields:
        advice = 'Name the column with `columns={"image": "COLUMN"}`.'
        raise ValueError(f"{has}, none of them images by name or type. {advice}")
    for first, second in POSITION_PAIRS:
        if (first in fields) != (second in fields):
            missing = second if first in fields else first
            advice = f'Name the column of {missing} with `columns={{"{missing}": "COLUMN"}}`.'
            raise ValueError(f"{has}: {first} and {second} belong together. {advice}")
    columns = {field: [column] for field, column in fields.items()}
    check_no_minutes(columns, list(features), has)
    return fields | find_references(columns, list(features))


def compute_columns(
    values: dict[str, list[Any]],
    images: Sequence[ImageFile],
    rows: Sequence[int],
    label: str,
    remarks: RemarkCounter | None = None,
) -> dict[str, list[Any]]:
    """Compute the columns of places from those that a data set has.

    Args:
        values: Columns by field, without the images.
        images: Path of the image of each row.
        rows: Numbers of the rows in the data set.
        label: Name of the data set and its split; the names of photos and the errors begin with it.
        remarks: Counts values that were corrected; `None` counts nothing.

    Raises:
        ValueError: If a row holds half a position, or something else than a number where a number belongs.
    """
    places, place_ids = [], []
    for number, (row, image) in enumerate(zip(rows, images, strict=True)):
        cells = {field: column[number] for field, column in values.items()}
        try:
            place_ids.append(_whole(cells.pop("place_id", None)))
            places.append(_place(f"{label}/{row}", image, cells))
        except ValueError as error:
            raise ValueError(f"{label}, row {row}: {error}.") from error
    remarks = remarks or RemarkCounter()
    labels = [place.path for place in places]
    completed = complete_places(places)
    count_letters_s(places, labels, remarks)
    count_metres_without_degrees(completed, labels, remarks)
    places = drop_other_metres(completed, labels, remarks)
    count_zeros(places, labels, remarks)
    count_readings(places, labels, remarks)
    return place_columns(plain_places(places, remarks), place_ids)


def _place(name: str, image: ImageFile, cells: dict[str, Any]) -> Place:
    path = _path(name, image, cells.pop("path", None))
    hemisphere = cells.pop(HEMISPHERE, None)
    references = {key: str(cells.pop(key) or "") for key in COMPLETED if key in cells}
    values = {field: _cell(field, value) for field, value in cells.items()}
    complete_values(values, references)
    place = Place(path, **values)
    if hemisphere is not None and hemisphere == hemisphere:  # not NaN
        place = replace(place, utm_zone=zone_with_hemisphere(place.utm_zone, hemisphere, place.latitude))
    check_fields(place)
    return place


def _path(name: str, image: ImageFile, file_name: Any) -> str:
    """Return a photo's path: the path of its file, or its name in the data set followed by its file name, if that is known."""
    path, is_elsewhere = image
    if path and is_elsewhere and not is_url(path):
        return Path(path).absolute().as_posix()
    last_part = PurePosixPath(str(file_name or path or "").split("::")[0]).name
    return f"{name}/{last_part}" if last_part else name


def _cell(field: str, value: Any) -> Any:
    """Convert a value to the type of a place's field; empty texts and NaN become `None`."""
    if value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value)):
        return None
    if PLACE_SCHEMA.field(field).type == pa.string():
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    return parse_number(str(value))


def _whole(value: Any) -> int | None:
    if value is None or value != value:  # in a table of floats NaN stands for null
        return None
    if not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"place_id must be a whole number, got {value!r}")
    return int(value)
