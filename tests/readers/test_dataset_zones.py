"""UTM zones of data sets: as numbers, in any case and with hemispheres; positions that contradict each other are named."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.place import all_with_utm
from d2vpr_hf.readers.plain_values import BAND_S, WITHOUT_DEGREES
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.readers.tables.csv_table import read_csv
from d2vpr_hf.readers.tables.dataset_columns import compute_columns, match_columns


def read_rows(**columns):
    count = len(next(iter(columns.values())))
    values = compute_columns(columns, [(None, False)] * count, range(count), "data/train")
    return [Place(**{name: values[name][row] for name in values if name != "place_id"}) for row in range(count)]


METRES = {"utm_east": [681_089.2, 681_089.2], "utm_north": [4_848_788.1, 4_848_788.1]}
SYDNEY = {"utm_east": [334_900.57, 334_900.57], "utm_north": [6_252_288.75, 6_252_288.75]}


@pytest.mark.parametrize("zones", [[32, 33], [32.0, 33.0], ["32", "33"], [np.int8(32), np.int8(33)]])
def test_numbers_alone_are_refused_with_the_form_of_a_zone(zones):
    with pytest.raises(ValueError, match=r"data/train, row 0: the UTM zone 32 has neither a letter .* such as 33T"):
        read_rows(**METRES, utm_zone=zones)


@pytest.mark.parametrize("zones", [[32, 33], [32.0, 33.0], ["32", "33"]])
def test_numbers_next_to_degrees_are_read(zones):
    places = read_rows(**METRES, utm_zone=zones, latitude=[43.7711, 43.7711], longitude=[11.2486, 17.2486])
    assert [place.utm_zone for place in places] == ["32T", "33T"]
    assert distance_in_metres(*places) == pytest.approx(481_600, abs=500)


@pytest.mark.parametrize(
    "zones",
    [["56h", "56H"], ["56 h", "56S"], ["56 south", "EPSG:32756"], [32756, 32756], ["56H", "WGS 84 / UTM zone 56S"]],
)
def test_zones_of_one_hemisphere_are_one_frame(zones):
    places = read_rows(**SYDNEY, utm_zone=zones)
    assert {place.utm_zone for place in places} == {"56H"} and places[0].latitude == pytest.approx(-33.8568, abs=1e-4)
    assert distance_in_metres(*places) == 0


@pytest.mark.parametrize("zone", [5.5, "5I", "A", "61T", "north"])
def test_values_that_are_not_zones_are_refused(zone):
    with pytest.raises(ValueError, match="data/train, row 1: expected a UTM zone as a number from 1 to 60"):
        read_rows(**METRES, utm_zone=["32T", zone])


def test_rows_whose_positions_contradict_each_other_are_named():
    with pytest.raises(ValueError, match=r"data/train/1: utm_east .*km from its latitude"):
        read_rows(**METRES, utm_zone=["32T", "33T"], latitude=[43.7711] * 2, longitude=[11.2486] * 2)


@given(st.floats(-80, 84), st.floats(-180, 180))
@example(84.0, 180.0)
@example(-80.0, -180.0)
@example(60.4, 3.0)
@example(78.0, 33.0)
@example(0.0, 0.0)
@example(51.4779, 0.0)
def test_any_position_survives_a_row_with_easting_northing_and_zone(latitude, longitude):
    place = all_with_utm([Place("", latitude, longitude)])[0]
    hemisphere = "north" if place.utm_zone[-1] >= "N" else "south"
    zones = [place.utm_zone, place.utm_zone.lower(), f"{place.utm_zone[:-1]} {hemisphere}"]
    rows = read_rows(utm_east=[place.utm_east] * 3, utm_north=[place.utm_north] * 3, utm_zone=zones)
    for row in rows:
        assert distance_in_metres(Place("", latitude, longitude), Place("", row.latitude, row.longitude)) < 0.1


@pytest.mark.parametrize("hemispheres", [["S", "n"], ["south", "North"], [-1, 1], [-1.0, 1.0], ["southern hemisphere", "N"]])
def test_a_column_of_hemispheres_completes_numbers(hemispheres):
    places = read_rows(**METRES, utm_zone=[32, 32], hemisphere=hemispheres)
    assert [place.utm_zone for place in places] == ["32G", "32T"]
    assert [place.latitude for place in places] == pytest.approx([-46.49, 43.77], abs=0.01)
    assert read_rows(latitude=[1.0], longitude=[2.0], hemisphere=[math.nan])[0].latitude == 1.0
    with pytest.raises(ValueError, match=r"data/train, row 1: the latitude 33\.8 is not in the hemisphere S"):
        read_rows(latitude=[1.0, 33.8], longitude=[2.0, 2.0], hemisphere=["N", "S"])


def test_a_table_with_hemispheres_is_read(tmp_path):
    table = tmp_path / "places.csv"
    lines = ["path,easting,northing,utm zone,Hemisphere", "a.jpg,334900.57,6252288.75,56,S", "b.jpg,681089.2,4848788.1,32,"]
    table.write_text("\n".join(lines[:2]) + "\n")
    (place,) = read_csv(table).places
    assert place.utm_zone == "56H" and place.latitude == pytest.approx(-33.8568, abs=1e-4)
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"places\.csv, line 3: the UTM zone 32 has neither"):
        read_csv(table)
    table.write_text(f"{lines[0]}\na.jpg,334900.57,6252288.75,56N,S\n")
    with pytest.raises(ValueError, match=r"places\.csv, line 2: the UTM zone 56N is not in the hemisphere S"):
        read_csv(table)


def test_assumed_zones_and_metres_far_from_their_zone_are_counted():
    """At 51° S, `18S` may be Patagonia; at 39° N it is Washington."""
    counter = RemarkCounter()
    metres = {"utm_east": [323_000.0, 323_000.0, 100.0], "utm_north": [4_306_000.0, 6_252_288.75, 200.0]}
    compute_columns(metres | {"utm_zone": ["18S", "18S", "33T"]}, [(None, False)] * 3, range(3), "data", counter)
    assert {remark.text: (remark.kind, remark.count, remark.example) for remark in counter.summary()} == {
        BAND_S: ("assumed", 1, "data/0"),
        WITHOUT_DEGREES: ("assumed", 1, "data/2"),
    }


def test_hemispheres_in_columns_of_their_own_count():
    columns = {"latitude": [33.85], "latitude_hemisphere": ["S"], "longitude": [77.5], "longitude_hemisphere": ["West"]}
    values = compute_columns(columns, [(None, False)], range(1), "data/train")
    assert (values["latitude"], values["longitude"]) == ([-33.85], [-77.5])
    columns = {"utm_east": [691608.5], "utm_north": [5334765.1], "utm_zone": [32], "utm_letter": ["U"]}
    assert compute_columns(columns, [(None, False)], range(1), "data/train")["utm_zone"] == ["32U"]
    features = dict.fromkeys(("image", "GPSLatitude", "GPSLatitudeRef", "GPSLongitude", "gps_longitude_ref", "zone"))
    fields = match_columns("data", features, {})
    assert fields["latitude_hemisphere"] == "GPSLatitudeRef" and fields["longitude_hemisphere"] == "gps_longitude_ref"
    assert "utm_zone" not in fields  # of something else: there are no eastings
