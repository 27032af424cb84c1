"""UTM zones as names, tables and data sets write them.

A zone is a number from 1 to 60, and a letter of a latitude band: C (80° S) to X (84° N) without I and O, of which N and later
ones are north of the equator. Many sources write a hemisphere instead of the band, so that `33S` is the band S, from 32 to
40° N, or zone 33 south; the latitude or the northing of the position tells them apart.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import utm
from numpy.typing import NDArray

ZONE_FORM = (
    "a number from 1 to 60 and a band letter from C to X without I and O, such as 33T, or a hemisphere, such as 33 south"
)
_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees each from 80° S; X has 12
_SYSTEM = r"(?P<system>(?:WGS[ _]?(?:19)?84|ETRS[ _]?(?:19)?89|NAD[ _]?(?:19)?83)[ _]*/?[ _]*)?"
_TEXT = re.compile(
    _SYSTEM + r"(?:UTM[ _]*)?(?:ZONE[ _:]*)?(?P<number>\d{1,2})(?:\.0*)?[ _-]*(?P<letter>[A-Z]|NORTH|SOUTH)?", re.ASCII
)
_EPSG = re.compile(r"(?:URN:OGC:DEF:CRS:)?(?:EPSG:* *)?(\d{3})(\d\d)(?:\.0*)?", re.ASCII)
_EPSG_ZONES = {  # hemisphere and zones of coordinate systems that are equal within two metres
    "326": (True, range(1, 61)),  # WGS 84
    "327": (False, range(1, 61)),
    "258": (True, range(28, 39)),  # ETRS89
    "269": (True, range(1, 24)),  # NAD83
    "283": (False, range(48, 59)),  # GDA94
}
_HEMISPHERES = dict.fromkeys(("n", "north", "northern", "1", "+1", "1.0"), True)
_HEMISPHERES |= dict.fromkeys(("s", "south", "southern", "-1", "-1.0"), False)
BAND_S_NORTH = (3_430_000.0, 4_540_000.0)  # metres of northing from 31 to 41° N: the band with a margin of a degree
SOUTHERN_NORTH = (1_110_000.0, 10_000_000.0)  # metres of northing from 80° S to the equator
AT_EQUATOR = 0.01  # degrees


@dataclass(frozen=True)
class UtmZone:
    """A UTM zone.

    Attributes:
        number: Number from 1 to 60.
        letter: The band's letter, or `None` if it is not known. N and S may stand for a hemisphere.
        is_north: Whether metres are counted as north of the equator; `None` if that is not known.
    """

    number: int
    letter: str | None = None
    is_north: bool | None = None

    def __str__(self) -> str:
        if self.is_north is None:
            return f"UTM zone {self.number}"
        return f"UTM zone {self.number} {'north' if self.is_north else 'south'}"


def parse_zone(zone: Any) -> UtmZone:
    """Read a zone: `33T`, `33 t`, `33-T`, `33`, `33.0`, `33 south`, `UTM zone 33N` or `EPSG:32633`, as a text or a number.

    The hemisphere of a number alone and of the letter S stays open; [`settle_zone`] settles it.

    Raises:
        ValueError: If it is not a zone.
    """
    return _parse_text(" ".join(str(zone).split()))


@functools.lru_cache(maxsize=4096)
def _parse_text(text: str) -> UtmZone:
    if code := _EPSG.fullmatch(text.upper()):
        is_north, numbers = _EPSG_ZONES.get(code[1], (True, range(0)))
        number, letter = int(code[2]) if int(code[2]) in numbers else 0, "NORTH" if is_north else "SOUTH"
    elif parts := _TEXT.fullmatch(text.upper()):
        number, letter = int(parts["number"]), parts["letter"]
        if parts["system"] and letter in ("N", "S"):  # the names of coordinate systems have hemispheres, not bands
            letter = "NORTH" if letter == "N" else "SOUTH"
    else:
        number, letter = 0, None
    if not (1 <= number <= 60 and letter in (None, "NORTH", "SOUTH", *_BANDS)):
        raise ValueError(f"expected a UTM zone as {ZONE_FORM}; got {text or 'an empty text'}")
    if letter in (None, "NORTH", "SOUTH"):
        return UtmZone(number, None, None if letter is None else letter == "NORTH")
    return UtmZone(number, letter, None if letter == "S" else letter >= "N")


def zone_with_hemisphere(zone: str | None, hemisphere: Any, latitude: float | None = None) -> str | None:
    """Return the text of a zone with the hemisphere that another column of its row states.

    Args:
        zone: The zone as the row states it, or `None`.
        hemisphere: `N`, `south`, `northern hemisphere`, 1 for north, -1 for south, ... in any case; empty if unknown.
        latitude: The row's latitude, or `None`.

    Raises:
        ValueError: If the zone's letter or the latitude is of the other hemisphere, or the zone needs a hemisphere and it is in
            another form.
    """
    text = "" if hemisphere is None else str(hemisphere).strip().lower()
    if not text:
        return zone
    word = text.removesuffix("hemisphere").strip()
    if word not in _HEMISPHERES:
        if not zone or latitude is not None or parse_zone(zone).is_north is not None:
            return zone  # the column is not needed, and may mean something else
        raise ValueError(f"expected the hemisphere as N or S, north or south, or 1 or -1; got {hemisphere}")
    is_north = _HEMISPHERES[word]
    name = "north" if is_north else "south"
    if latitude is not None and (latitude > 0) != is_north and latitude != 0:
        raise ValueError(
            f"the latitude {latitude} is not in the hemisphere {hemisphere}. Latitudes south of the equator need a minus sign"
        )
    if not zone:
        return zone
    parsed = parse_zone(zone)
    if parsed.is_north not in (None, is_north):
        raise ValueError(f"the UTM zone {zone} is not in the hemisphere {hemisphere}. Correct one of them")
    return f"{parsed.number} {name}"


def settle_zone(zone: Any, latitude: float | None = None, north: float | None = None) -> UtmZone:
    """Read a zone and settle its hemisphere by the position's latitude in degrees, or by its northing in metres.

    A letter S is the band S at northern latitudes, and the southern hemisphere at southern ones. Without a latitude, it is the
    southern hemisphere if the northing is not one of the band S, and may be one of the southern hemisphere.

    Raises:
        ValueError: If it is not a zone, or a number alone without a latitude.
    """
    parsed = parse_zone(zone)
    if parsed.is_north is not None:
        return parsed
    if latitude is not None and (north is None or abs(latitude) > AT_EQUATOR):
        is_north = latitude >= 0
    elif latitude is not None and north is not None:  # a rounded latitude has no reliable sign
        is_north = north < SOUTHERN_NORTH[1] / 2
    elif parsed.letter is None:
        raise ValueError(
            f"the UTM zone {parsed.number} has neither a letter nor a hemisphere, and no latitude settles it; "
            f"expected {ZONE_FORM}"
        )
    else:
        is_north = north is None or _within(north, BAND_S_NORTH) or not _within(north, SOUTHERN_NORTH)
    return UtmZone(parsed.number, parsed.letter if is_north else None, is_north)


def may_be_south(zone: Any, north: float) -> bool:
    """Return whether [`settle_zone`] reads a letter S as the band at a northing that the southern hemisphere has too."""
    return parse_zone(zone).letter == "S" and _within(north, BAND_S_NORTH)


def zone_text(zone: UtmZone, latitude: float | None) -> str:
    """Return a settled zone in the normal form, such as `"33T"`.

    The letter is the zone's own. Where that is not known or stands for a hemisphere, it is that of the latitude's band, and
    without a latitude the first letter of the hemisphere.
    """
    if zone.letter is not None and (zone.letter != "N" or latitude is None):
        return f"{zone.number}{zone.letter}"
    letter = None if latitude is None else utm.latitude_to_zone_letter(latitude)
    if letter is None or (letter >= "N") != zone.is_north:
        letter = "N" if zone.is_north else "M"
    return f"{zone.number}{letter}"


def zone_degrees(
    zone: UtmZone, east: NDArray[np.float64], north: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitudes (N,) and longitudes (N,) of metres (N,) in a settled zone, also degrees outside it; NaN far away."""
    with np.errstate(all="ignore"):
        latitudes, longitudes = utm.to_latlon(east, north, zone.number, northern=zone.is_north, strict=False)
        is_on_globe = np.abs(latitudes) <= 90  # false for NaN
    return np.where(is_on_globe, latitudes, np.nan), np.where(is_on_globe, longitudes, np.nan)


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]
