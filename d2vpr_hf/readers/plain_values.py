"""Headings, times and zones of photos as readers leave them: in the form that indexes store, or unknown, with remarks."""

from collections.abc import Sequence
from dataclasses import replace

from d2vpr_hf.places.place import Place
from d2vpr_hf.places.stored_values import has_unknown_time, with_compass_heading
from d2vpr_hf.places.timestamps import clock_or_date
from d2vpr_hf.places.utm_zones import may_be_south
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.remarks import RemarkCounter, merge_remarks

TURNED = "photos with a heading below 0 or of 360 degrees, read as the same direction from 0 to 360 degrees"
AT_ZERO = "positions at latitude 0 and longitude 0, which often stand for an unknown position"
LIKE_YEARS = "times of four digits, read as seconds since 1970; years are written as 2019-01"
LIKE_SERIALS = "times of five digits, read as seconds since 1970; days of spreadsheets are written as 2024-05-01"
LIKE_DATES = "times of digits, read as dates next to seconds of a clock; such seconds are written with three decimals"
WITHOUT_TIME = "times that cannot be read; these photos have no time"
WITHOUT_DEGREES = "positions in UTM metres far outside their zone, compared only with metres of the same zone"
BAND_S = "zones with the letter S, read as the band from 32 to 40° north; write `33 south` for the hemisphere"


def plain_places(places: Sequence[Place], remarks: RemarkCounter, labels: Sequence[str] | None = None) -> list[Place]:
    """Return places with headings from 0 to below 360 degrees, and without the times that cannot be read; count both.

    Args:
        places: Places.
        remarks: Counts the changed values.
        labels: Names of the places in remarks; `None` for their paths.
    """
    labels = [place.path for place in places] if labels is None else labels
    return [_plain_place(place, label, remarks) for place, label in zip(places, labels, strict=True)]


def count_zeros(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> None:
    """Count the places at latitude 0 and longitude 0, which tables state explicitly; they keep their positions."""
    for place, label in zip(places, labels, strict=True):
        if place.latitude == place.longitude == 0:
            remarks.add("assumed", AT_ZERO, label)


def count_metres_without_degrees(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> None:
    """Count the places that [`complete_places`] returned with metres of a zone, but without degrees."""
    for place, label in zip(places, labels, strict=True):
        if place.utm_zone and place.utm_east is not None and place.latitude is None:
            remarks.add("assumed", WITHOUT_DEGREES, label)


def count_letters_s(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> None:
    """Count the places of tables whose zone has a letter S that would be the southern hemisphere in another reading."""
    for place, label in zip(places, labels, strict=True):
        if not place.utm_zone or place.utm_north is None or place.latitude is not None:
            continue
        if may_be_south(place.utm_zone, place.utm_north):
            remarks.add("assumed", BAND_S, label)


def plain_table(table: PlaceTable) -> PlaceTable:
    """Return a table with the places that [`plain_places`] returns, and with remarks of times that may mean something else."""
    counter = RemarkCounter()
    count_readings(table.places, [place.path for place in table.places], counter)
    places = plain_places(table.places, counter)
    return replace(table, places=places, remarks=merge_remarks([*table.remarks, *counter.summary()]))


def count_readings(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> None:
    """Count the times of digits that may mean something else than what they are read as."""
    readings = [clock_or_date(place.timestamp) for place in places]
    is_clock = "seconds" in readings
    for reading, label in zip(readings, labels, strict=True):
        if reading == "year" and not is_clock:
            remarks.add("assumed", LIKE_YEARS, label)
        elif reading == "serial" and not is_clock:
            remarks.add("assumed", LIKE_SERIALS, label)
        elif reading == "date" and is_clock:
            remarks.add("assumed", LIKE_DATES, label)


def _plain_place(place: Place, label: str, remarks: RemarkCounter) -> Place:
    turned = with_compass_heading(place)
    if turned is not place:
        remarks.add("corrected", TURNED, label)
    if not has_unknown_time(turned):
        return turned
    remarks.add("skipped", WITHOUT_TIME, label)
    return replace(turned, timestamp=None)
