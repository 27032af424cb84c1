"""Values of stored places that earlier versions did not check; those that cannot be right are not used."""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from d2vpr_hf.places.utm_zones import parse_zone, settle_zone

logger = logging.getLogger(__name__)

Column = tuple[NDArray[np.bool_], NDArray[np.float64]]  # which rows (N,) have a value, and the values (N,)


def without_impossible_values(table: pa.Table, file: Path) -> pa.Table:
    """Return a table of places whose positions and headings are possible; others become unknown, and are counted in a warning.

    A UTM position whose zone does not exist, or has no hemisphere, is unknown. Headings from -360 to 0 become those of the same
    direction from 0 to 360 degrees, and the years of `@` names their first months, as readers leave them now.

    Args:
        table: Places; see `PLACE_SCHEMA`.
        file: The file that the warning names.
    """
    impossible: dict[tuple[str, ...], NDArray[np.bool_]] = {
        ("latitude", "longitude"): _impossible_pair(table, "latitude", "longitude", (90.0, 180.0)),
        ("utm_east", "utm_north", "utm_zone"): _impossible_pair(table, "utm_east", "utm_north") | _impossible_zone(table),
        ("x", "y"): _impossible_pair(table, "x", "y"),
        **{(name,): _is_impossible(_column(table, name)) for name in ("z", "yaw")},
        ("heading",): _is_impossible(_column(table, "heading"), 360.0),
    }
    for names, rows in impossible.items():
        if rows.any():
            first = int(np.argmax(rows))
            values = ", ".join(f"{name} {table.column(name)[first].as_py()}" for name in names)
            _warn(file, int(rows.sum()), " and ".join(names[:2]), f"{values} of {table.column('path')[first].as_py()}")
            for name in names:
                table = _with_column(table, name, pc.if_else(pa.array(rows), None, table.column(name)))
    return _with_years_of_names(_with_turned_headings(table))


def _impossible_pair(table: pa.Table, first: str, second: str, limits: Sequence[float] = (np.inf, np.inf)) -> NDArray[np.bool_]:
    """Return the rows (N,) with only one of two coordinates, or with one that is not finite or beyond its limit."""
    columns = _column(table, first), _column(table, second)
    is_half = columns[0][0] != columns[1][0]
    return is_half | _is_impossible(columns[0], limits[0]) | _is_impossible(columns[1], limits[1])


def _is_impossible(column: Column, limit: float = np.inf) -> NDArray[np.bool_]:
    is_set, values = column
    return is_set & ~(np.isfinite(values) & (np.abs(values) <= limit))


def _impossible_zone(table: pa.Table) -> NDArray[np.bool_]:
    """Return the rows (N,) whose UTM zone does not exist or has no hemisphere."""
    impossible = np.zeros(table.num_rows, bool)
    zones = table.column("utm_zone")
    for zone in pc.unique(zones).to_pylist():
        if not zone or _is_settled(zone):
            continue
        for row in np.flatnonzero(pc.equal(zones, zone).fill_null(False).to_numpy()).tolist():
            latitude, north = table.column("latitude")[row].as_py(), table.column("utm_north")[row].as_py()
            impossible[row] = _raises(settle_zone, zone, latitude, north)
    return impossible


def _is_settled(zone: str) -> bool:
    return not _raises(parse_zone, zone) and (parse_zone(zone).is_north is not None or parse_zone(zone).letter is not None)


def _raises(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        function(*arguments)
    except ValueError:
        return True
    return False


def _with_turned_headings(table: pa.Table) -> pa.Table:
    is_set, headings = _column(table, "heading")
    if not (is_set & ((headings < 0) | (headings >= 360))).any():
        return table
    return _with_column(table, "heading", pa.array(headings % 360 % 360, pa.float64(), mask=~is_set))


def _with_years_of_names(table: pa.Table) -> pa.Table:
    """Write the years that are times of `@` names as their first months: elsewhere four digits are the seconds of a clock."""
    times = table.column("timestamp")
    is_short = pc.equal(pc.utf8_length(times), 4).fill_null(False)
    if not pc.any(is_short).as_py():
        return table
    is_year = pc.and_(is_short, pc.match_substring_regex(times, "^[0-9]{4}$").fill_null(False))
    is_year = pc.and_(is_year, pc.match_substring_regex(table.column("path"), "(^|/)@[^/]*$"))
    return _with_column(table, "timestamp", pc.if_else(is_year, pc.binary_join_element_wise(times, "01", "-"), times))


def _column(table: pa.Table, name: str) -> Column:
    column = table.column(name)
    return column.is_valid().to_numpy(), column.cast(pa.float64()).to_numpy()


def _with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


@functools.lru_cache(1024)  # a file may be read several times
def _warn(file: Path, count: int, names: str, example: str) -> None:
    logger.warning(
        "%s: %d photos have an impossible value of %s from an earlier version, such as %s. These values are not used.",
        file,
        count,
        names,
        example,
    )
