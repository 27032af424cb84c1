"""GSV-Cities, the data set that the published models were trained on.

GSV-Cities: Toward Appropriate Supervised Visual Place Recognition, arXiv 2210.10239. On disk: `Dataframes/<City>.csv` with one
row a photo, and the photos in `Images/<city_id>/`, named by their rows. A place_id is unique within its city only.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place, all_with_utm, check_place
from d2vpr_hf.readers.place_table import PlaceTable

logger = logging.getLogger(__name__)

IMAGES_PER_PLACE = 4  # K of the published training
_FIRST_LINE = 2  # of the first row: the header is line 1
_COLUMNS = {
    "place_id": pa.int64(),
    "year": pa.int64(),
    "month": pa.int64(),
    "northdeg": pa.int64(),
    "city_id": pa.string(),
    "lat": pa.float64(),
    "lon": pa.float64(),
    "panoid": pa.string(),
}


@dataclass(frozen=True)
class _City:
    """The photos of a city.

    Attributes:
        places: Place of each photo, in the order of the city's table.
        place_ids: The place id of each photo, which is unique within the city.
        skipped: The reason for each skipped photo.
        num_dropped: Number of places that have too few photos.
    """

    places: list[Place]
    place_ids: list[int]
    skipped: dict[str, str]
    num_dropped: int


def read_gsv_cities(
    root: str | Path, cities: Sequence[str] | None = None, images_per_place: int = IMAGES_PER_PLACE
) -> PlaceTable:
    """Read GSV-Cities for training: photos with their positions and the places they show.

    Photos are not opened: each city's folder is listed once. Files that no table lists are ignored.

    Args:
        root: The folder that holds `Dataframes` and `Images`.
        cities: Names of the tables to read, in this order; `None` for all, by name.
        images_per_place: Places with fewer photos on disk are skipped: a training batch takes this number of each place.

    Returns:
        The photos with `place_ids` that are unique over the cities. `skipped` names each photo that is missing, listed twice or
        of a place with too few photos; `heading` is `northdeg`, and `timestamp` year and month (`2015-06`).

    Raises:
        FileNotFoundError: If a folder or a city's table is missing.
        ValueError: If a table is malformed, or no place has enough photos.
    """
    root = Path(root)
    read_cities = [_read_city(root, table, images_per_place) for table in _tables(root / "Dataframes", cities)]
    skipped = {path: reason for city in read_cities for path, reason in city.skipped.items()}
    places = [place for city in read_cities for place in city.places]
    if not places:
        example = "".join(f" {path}: {reason}." for path, reason in islice(skipped.items(), 1))
        raise ValueError(f"No place in {root} has {images_per_place} photos.{example}")
    num_dropped = sum(city.num_dropped for city in read_cities)
    if num_dropped:
        logger.warning("Places skipped because they have fewer than %d photos: %d.", images_per_place, num_dropped)
    place_ids = _unique_over_cities([city.place_ids for city in read_cities])
    return PlaceTable(root, all_with_utm(places), "gsv-cities", skipped, place_ids)


def _tables(folder: Path, cities: Sequence[str] | None) -> list[Path]:
    """Find the tables of the chosen cities."""
    tables = {table.stem: table for table in sorted(folder.glob("*.csv"))}
    if not tables:
        raise FileNotFoundError(
            f"No table in {folder}: expected <City>.csv there and the photos in {folder.parent / 'Images'}."
        )
    missing = [city for city in cities or () if city not in tables]
    if missing:
        raise FileNotFoundError(f"{folder} has no table of {', '.join(missing)}. It has {', '.join(tables)}.")
    return list(tables.values()) if cities is None else [tables[city] for city in dict.fromkeys(cities)]


def _read_city(root: Path, table: Path, images_per_place: int) -> _City:
    rows = _read_table(table)
    city = _only_city(table, rows)
    names = [_photo_name(*row) for row in zip(*rows.values(), strict=True)]
    reasons = _why_missing(root / "Images" / city, names)
    num_dropped = _drop_small_places(rows["place_id"], reasons, images_per_place)
    paths = [f"Images/{city}/{name}" for name in names]
    places = [_place(table, row, rows, path) for row, path in enumerate(paths) if row not in reasons]
    place_ids = [place_id for row, place_id in enumerate(rows["place_id"]) if row not in reasons]
    skipped = {f"{paths[row]} (line {row + _FIRST_LINE})": reason for row, reason in sorted(reasons.items())}
    return _City(places, place_ids, skipped, num_dropped)


def _read_table(table: Path) -> dict[str, list[Any]]:
    """Read the columns of a city's table. Degrees are read as floats: the names of the photos contain them as Python prints."""
    options = pyarrow.csv.ConvertOptions(column_types=_COLUMNS, include_columns=list(_COLUMNS))
    try:
        rows = pyarrow.csv.read_csv(table, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(
            f"{table} is not a table of GSV-Cities ({error}). Expected the columns {', '.join(_COLUMNS)}."
        ) from error
    for name in _COLUMNS:
        if rows[name].null_count:
            line = rows[name].is_null().to_pylist().index(True) + _FIRST_LINE
            raise ValueError(f"{table}, line {line}: {name} is missing.")
    return {name: rows[name].to_pylist() for name in _COLUMNS}


def _only_city(table: Path, rows: dict[str, list[Any]]) -> str:
    cities = sorted(set(rows["city_id"]))
    if len(cities) != 1:
        raise ValueError(f"{table}: expected the photos of one city, got {len(cities)} ({', '.join(cities[:5])}).")
    return cities[0]


def _photo_name(
    place_id: int, year: int, month: int, northdeg: int, city: str, latitude: float, longitude: float, panoid: str
) -> str:
    """Return a photo's file name in GSV-Cities: whole numbers are padded, degrees are printed by Python (37.5 for 37.500)."""
    return f"{city}_{place_id:07d}_{year:04d}_{month:02d}_{northdeg:03d}_{latitude}_{longitude}_{panoid}.jpg"


def _why_missing(folder: Path, names: list[str]) -> dict[int, str]:
    """Return the reason for each row whose photo is missing or was listed before. The folder is listed once."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Unpack its photos there, or choose other cities.")
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries}
    first: dict[str, int] = {}
    reasons = {}
    for row, name in enumerate(names):
        if name not in present:
            reasons[row] = "no such file"
        elif first.setdefault(name, row) != row:
            reasons[row] = f"listed in line {first[name] + _FIRST_LINE} already"
    return reasons


def _drop_small_places(place_ids: list[int], reasons: dict[int, str], images_per_place: int) -> int:
    """Add the rows of places with too few photos to `reasons`; return the number of these places."""
    listed = Counter(place_ids)
    sizes = listed - Counter(place_ids[row] for row in reasons)
    small = {place_id for place_id in listed if sizes[place_id] < images_per_place}
    for row, place_id in enumerate(place_ids):
        if place_id in small and row not in reasons:
            reasons[row] = f"place {place_id} has {sizes[place_id]} photos, fewer than {images_per_place}"
    return len(small)


def _place(table: Path, row: int, rows: dict[str, list[Any]], path: str) -> Place:
    timestamp = f"{rows['year'][row]:04d}-{rows['month'][row]:02d}"
    place = Place(path, rows["lat"][row], rows["lon"][row], heading=float(rows["northdeg"][row]), timestamp=timestamp)
    try:
        check_place(place)
    except ValueError as error:
        raise ValueError(f"{table}, line {row + _FIRST_LINE}: {error}.") from error
    return place


def _unique_over_cities(place_ids: list[list[int]]) -> NDArray[np.int64]:
    """Return the numbers of the places of all cities, from 0 without gaps: city after city, in the order of the city's ids."""
    numbers, start = [], 0
    for ids in place_ids:
        city_ids, inverse = np.unique(np.array(ids, dtype=np.int64), return_inverse=True)
        numbers.append(start + inverse.astype(np.int64))
        start += len(city_ids)
    return np.concatenate(numbers)
