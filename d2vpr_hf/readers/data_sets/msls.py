"""Mapillary Street-level Sequences in its distributed form: a folder for each city, with tables of positions and conditions.

`train_val/<city>/{database,query}` have `images/<key>.jpg`, `raw.csv` (key, lon, lat, ca, captured_at, pano),
`postprocessed.csv` (key, easting, northing, night, view_direction) and `subtask_index.csv`; `test/<city>` has the same tables
since the ground truth was published (https://github.com/mapillary/mapillary_sls/issues/43). Queries are searched in the
database of their city.

The official evaluation (https://github.com/mapillary/mapillary_sls, `evaluate.py`) takes photos of the subtask `all` that are
not panoramas, compares their easting and northing in the plane, and omits queries without a database photo within 25 m: 740
queries of the validation cities. VPR-datasets-downloader writes all queries that are not panoramas, about 11,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import utm
from numpy.typing import NDArray

from d2vpr_hf.places.place import POSITIVE_DIST_THRESHOLD, Place
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.listed_photos import ListedPhotos, keep_rows, list_table
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.plain_values import plain_table
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.remarks import Remark, RemarkCounter, merge_remarks

VAL_CITIES = ("cph", "sf")
TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")
PUBLISHED = {  # numbers of database photos and queries
    (18_871, 740): "MSLS val, official 740 queries",
    (38_770, 27_092): "MSLS test (challenge)",
}
PANORAMAS = "panoramas, which are not evaluated"
OUTSIDE = "photos outside the subtask `all`, which the official evaluation omits"
WITHOUT_POSITIVE = "queries without a database photo within 25 m, which the official evaluation omits"
DEGREES_ONLY = "positions without easting and northing, projected from longitude and latitude to one UTM zone of their city"
WITHOUT_HEADING = "headings that are not angles; these photos have no heading"
_TABLES = ("raw.csv", "postprocessed.csv")
_SIDES = ("database", "query")

_Columns = dict[str, list[Any]]


def find_cities(root: Path) -> dict[str, Path]:
    """Return the cities' folders by name: of a folder of MSLS, its `train_val` or `test`, or of one city."""
    if root.name in _SIDES and _is_city(root.absolute().parent):
        root = root.absolute().parent
    if _is_city(root):
        return {root.absolute().name: root}
    for folders in ((root / "train_val", root / "test"), (root,)):
        cities = {
            city.name: city for folder in folders if folder.is_dir() for city in sorted(folder.iterdir()) if _is_city(city)
        }
        if cities:
            return cities
    return {}


def _is_city(folder: Path) -> bool:
    return all((folder / side / "images").is_dir() or (folder / side / "raw.csv").is_file() for side in _SIDES) and any(
        (folder / "database" / name).is_file() for name in (*_TABLES, "subtask_index.csv", "seq_info.csv")
    )


def _choose_cities(cities: dict[str, Path], split: str | None) -> tuple[str, list[str]]:
    """Return the name of the split and its cities: by default those of validation, else those of the test, else all."""
    splits = {
        "val": [city for city in VAL_CITIES if city in cities],
        "test": [city for city in TEST_CITIES if city in cities],
        "train": [city for city in cities if city not in (*VAL_CITIES, *TEST_CITIES)],
    }
    name = split or next(name for name, names in splits.items() if names)
    return name, splits[name]


def _accepts(root: Path, split: str | None = None) -> bool:
    cities = find_cities(root) if root.is_dir() else {}
    return bool(cities) and bool(_choose_cities(cities, split)[1])


def _read(root: Path, options: ReadOptions, layout: str, split: str | None, is_official: bool) -> DataSet:
    cities = find_cities(root)
    split, names = _choose_cities(cities, split)
    parts, remarks = [], []
    for name in names:
        part, city_remarks = _read_city(name, cities[name], is_official)
        remarks += city_remarks
        if part.query_sets[0].table.places:
            parts.append(part)
    if not parts:
        raise ValueError(f"No query of {', '.join(names)} in {root} has a database photo within {POSITIVE_DIST_THRESHOLD:g} m.")
    data_set = DataSet(layout, "", tuple(parts), remarks=merge_remarks(remarks))
    return replace(data_set, variant=_variant(data_set, split, is_official))


def _variant(data_set: DataSet, split: str, is_official: bool) -> str:
    queries, database = data_set.num_queries("queries"), data_set.num_database
    counts = (
        f"{queries:,} queries, {database:,} database photos, city by city ({', '.join(part.name for part in data_set.parts)})"
    )
    if (database, queries) in PUBLISHED:
        return f"{PUBLISHED[database, queries]}; {counts}"
    form = "official evaluation" if is_official else "all queries"
    is_all = split == "val" and database == 18_871 and not is_official
    return f"MSLS {split}, {form}; {counts}" + ("" if is_all else " (no published variant)")


def _read_city(name: str, folder: Path, is_official: bool) -> tuple[DataSetPart, list[Remark]]:
    counter = RemarkCounter()
    database = _read_side(name, folder / "database", is_official, counter)
    queries = _read_side(name, folder / "query", is_official, counter)
    if is_official:
        queries = _with_positives(queries, database, name, counter)
    part = DataSetPart(name, database, (QuerySet("queries", queries),))
    return part, list(counter.summary())


def _read_side(city: str, folder: Path, is_official: bool, counter: RemarkCounter) -> PlaceTable:
    """Read the photos of a side that are evaluated."""
    raw = _read_columns(folder / "raw.csv")
    post = _aligned(folder, raw["key"], "postprocessed.csv")
    subtask = _aligned(folder, raw["key"], "subtask_index.csv")
    is_chosen = _chosen_rows(f"{city}/{folder.name}", raw, subtask if is_official else None, counter)
    rows = np.flatnonzero(is_chosen)
    metres = _metres(folder, raw, post, counter)
    headings = _headings(raw, rows, folder, counter)
    conditions = _conditions(post, len(is_chosen))

    def make_place(number: int, path: str) -> Place:
        row = int(rows[number])
        return Place(
            path,
            latitude=raw["lat"][row],
            longitude=raw["lon"][row],
            utm_east=float(
                metres[row, 0]
            ),  # no zone: the official metres are in one zone of the city, which may be a neighbour
            utm_north=float(metres[row, 1]),
            heading=headings[number],
            timestamp=None if "captured_at" not in raw else raw["captured_at"][row] or None,
            condition=conditions[row],
        )

    names = [f"images/{raw['key'][row]}.jpg" for row in rows.tolist()]
    photos: ListedPhotos = list_table(folder, names, str(folder / "raw.csv"), make_place, "csv")
    return plain_table(photos.table)


def _chosen_rows(label: str, raw: _Columns, subtask: _Columns | None, counter: RemarkCounter) -> NDArray[np.bool_]:
    """Return the rows that are evaluated (N,), and count the others."""
    is_panorama = _flags(raw.get("pano"), len(raw["key"]), default=False)
    if is_panorama.any():
        counter.add("skipped", PANORAMAS, f"{label}/{raw['key'][int(np.argmax(is_panorama))]}", int(is_panorama.sum()))
    if subtask is None:
        return ~is_panorama
    is_outside = ~_flags(subtask.get("all"), len(raw["key"]), default=True) & ~is_panorama
    if is_outside.any():
        counter.add("skipped", OUTSIDE, f"{label}/{raw['key'][int(np.argmax(is_outside))]}", int(is_outside.sum()))
    return ~is_panorama & ~is_outside


def _with_positives(queries: PlaceTable, database: PlaceTable, city: str, counter: RemarkCounter) -> PlaceTable:
    """Return the queries with a database photo within 25 m, inclusive."""
    from scipy.spatial import cKDTree

    points = [np.array([(place.utm_east, place.utm_north) for place in table.places]) for table in (database, queries)]
    distances, _ = cKDTree(points[0]).query(points[1])
    is_near = distances <= POSITIVE_DIST_THRESHOLD
    if not is_near.all():
        example = queries.places[int(np.argmin(is_near))].path
        counter.add("skipped", WITHOUT_POSITIVE, f"{city}/query/{example}", int((~is_near).sum()))
    return keep_rows(queries, np.flatnonzero(is_near))


def _read_columns(table: Path) -> _Columns:
    """Read a table; numbers of degrees and metres as floats, everything else as texts."""
    if not table.is_file():
        test = " The ground truth of the test cities was published in 2026: unpack it over the data set." * (
            "test" in table.parts
        )
        raise FileNotFoundError(f"There is no table {table}. Unpack the metadata of MSLS next to the photos.{test}")
    numbers = dict.fromkeys(("lon", "lat", "ca", "easting", "northing"), pa.float64())
    texts = dict.fromkeys(("key", "captured_at", "pano", "night", "view_direction", "all"), pa.string())
    try:
        rows = pyarrow.csv.read_csv(table, convert_options=pyarrow.csv.ConvertOptions(column_types=numbers | texts))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{table} is not a table of MSLS ({error}). Unpack the metadata again.") from error
    columns = {name: rows[name].to_pylist() for name in rows.column_names if name in numbers | texts}
    needed = {
        "raw.csv": ("key", "lon", "lat"),
        "postprocessed.csv": ("key", "easting", "northing"),
        "subtask_index.csv": ("all",),
    }
    missing = [name for name in needed[table.name] if name not in columns]
    if missing:
        raise ValueError(f"{table} has no column {', '.join(missing)}. Unpack the metadata of MSLS again.")
    empty = [name for name in needed[table.name] if None in columns[name]]
    if empty:
        line = columns[empty[0]].index(None) + 2
        raise ValueError(f"{table}, line {line}: {empty[0]} is missing. Unpack the metadata of MSLS again.")
    return columns


def _aligned(folder: Path, keys: Sequence[str], name: str) -> _Columns | None:
    """Read a table that has a line for each photo, in the order of `keys`; `None` if there is no such table."""
    table = folder / name
    if not table.is_file():
        return None
    columns = _read_columns(table)
    count = len(next(iter(columns.values())))
    if count != len(keys):
        raise ValueError(f"{table} has {count} lines, and raw.csv has {len(keys)}. Unpack the metadata of MSLS again.")
    if "key" not in columns or columns["key"] == keys:
        return columns
    row_of = {key: row for row, key in enumerate(columns["key"])}
    if missing := [key for key in keys if key not in row_of]:
        raise ValueError(f"{table} has no line of {missing[0]}, which raw.csv lists. Unpack the metadata of MSLS again.")
    order = [row_of[key] for key in keys]
    return {column: [values[row] for row in order] for column, values in columns.items()}


def _flags(values: Sequence[str | None] | None, count: int, default: bool) -> NDArray[np.bool_]:
    if values is None:
        return np.full(count, default)
    return np.array([str(value).strip().lower() in ("true", "1", "1.0") for value in values], bool)


def _metres(folder: Path, raw: _Columns, post: _Columns | None, counter: RemarkCounter) -> NDArray[np.float64]:
    """Return easting and northing (N, 2): the official ones, or without them those of one zone of the city."""
    if post is not None:
        return np.column_stack([post["easting"], post["northing"]]).astype(np.float64)
    latitudes, longitudes = np.array(raw["lat"], np.float64), np.array(raw["lon"], np.float64)
    # both sides must take the same zone: that of the first database photo
    first = _read_columns(folder.parent / "database" / "raw.csv")
    zone = utm.latlon_to_zone_number(first["lat"][0], first["lon"][0])
    easts, norths, _, _ = utm.from_latlon(latitudes, longitudes, force_zone_number=zone, force_northern=first["lat"][0] >= 0)
    counter.add("assumed", DEGREES_ONLY, f"{folder.parent.name}/{folder.name}", len(latitudes))
    return np.column_stack([easts, norths])


def _headings(raw: _Columns, rows: NDArray[np.int64], folder: Path, counter: RemarkCounter) -> list[float | None]:
    """Return the compass angles of rows; those outside of [-360, 360] degrees are not known."""
    if "ca" not in raw:
        return [None] * len(rows)
    angles = [raw["ca"][row] for row in rows.tolist()]
    for number, angle in enumerate(angles):
        if angle is not None and not abs(angle) <= 360:
            counter.add("skipped", WITHOUT_HEADING, f"{folder.parent.name}/{folder.name}/{raw['key'][int(rows[number])]}")
            angles[number] = None
    return angles


def _conditions(post: _Columns | None, count: int) -> list[str | None]:
    """Return light and direction of view, such as `day_forward`, in the words of VPR-datasets-downloader."""
    if post is None or "night" not in post:
        return [None] * count
    lights = np.where(_flags(post["night"], count, default=False), "night", "day").tolist()
    views = post.get("view_direction") or [None] * count
    return [f"{light}_{view.lower()}" if view else light for light, view in zip(lights, views, strict=True)]


def _layout(name: str, title: str, what: str, split: str | None, is_official: bool, is_chosen_by_name: bool) -> Layout:
    return Layout(
        name,
        title,
        f"the folder of MSLS, its train_val or test, or a city, with {what}",
        partial(_accepts, split=split),
        partial(_read, layout=name, split=split, is_official=is_official),
        is_chosen_by_name=is_chosen_by_name,
    )


_FORM = "database/ and query/ that have images/, raw.csv and postprocessed.csv"
MSLS = _layout("msls", "MSLS, raw, official evaluation", _FORM, None, True, False)
MSLS_ALL_QUERIES = _layout("msls-all-queries", "MSLS, raw, all queries", _FORM, None, False, True)
MSLS_TRAIN = _layout("msls-train", "MSLS, raw, training cities", _FORM, "train", True, True)
MSLS_TEST = _layout("msls-test", "MSLS, raw, test cities", _FORM, "test", True, True)
