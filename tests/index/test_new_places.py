"""Places that programs add to an index: they are completed as the readers do, and invalid values are named and not stored."""

import math
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.index import Match, PhotoFile, PlaceIndex
from d2vpr_hf.localization.consensus import estimate_position
from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import within_time
from d2vpr_hf.places.place import complete_places, with_utm
from d2vpr_hf.places.stored_values import to_stored_places
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers.plain_values import TURNED, WITHOUT_TIME
from d2vpr_hf.readers.registry import read_places
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.index.workers import DIM, BytesEncoder, begin, write_photos


def rows(count):
    vectors = np.random.default_rng(count).standard_normal((count, DIM))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def upsert(index, descriptors, places):
    index.upsert(np.atleast_2d(descriptors), places, [PhotoFile()] * len(places))


DOORS = {"add": PlaceIndex.add, "update": PlaceIndex.update, "upsert": upsert}


@pytest.fixture
def index(tmp_path):
    return begin(tmp_path / "index")


@pytest.mark.parametrize("door", DOORS)
def test_positions_are_completed_as_the_readers_do(index, door):
    """Degrees gain UTM metres, on both sides of the equator and at the date line; metres gain degrees."""
    degrees = [
        Place("london", latitude=51.5, longitude=-0.12),
        Place("sydney", latitude=-33.8568, longitude=151.2153),
        Place("fiji", latitude=-16.8, longitude=179.99),
        Place("pole", latitude=89.0, longitude=10.0),  # UTM ends at 84° N
    ]
    metres = Place("metres", utm_east=544388.51, utm_north=4172758.25, utm_zone="10 s")
    DOORS[door](index, rows(5), [*degrees, metres])
    index.flush()
    stored = list(PlaceIndex.open(index.folder).places)
    assert stored == complete_places([*degrees, metres])
    assert [place.utm_zone for place in stored] == ["30U", "56H", "60K", None, "10S"]
    assert (stored[4].latitude, stored[4].longitude) == pytest.approx((37.70098, -122.49646), abs=1e-4)
    assert stored[0].utm_east == with_utm(degrees[0]).utm_east


def test_a_program_that_adds_degrees_can_localize(index):
    index.add(rows(3), [Place(f"{number}", latitude=45.0, longitude=9.0 + number * 1e-5) for number in range(3)])
    matches = index.search(rows(3)[0], 3)[0]
    estimate = estimate_position(matches)
    assert estimate is not None and estimate.place.utm_zone == "32T"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heading": 400.0}, r"heading must be in \[-360, 360\] degrees, got 400"),
        ({"heading": -361}, "heading must be in"),
        ({"heading": math.nan}, "heading must be a finite number, got nan"),
        ({"heading": np.float32("inf")}, "heading must be a finite number, got inf"),
        ({"heading": "90"}, "heading must be a number, got '90'"),
        ({"heading": True}, "heading must be a number, got True"),
        ({"heading": 90j}, "heading must be a number"),
        ({"timestamp": "yesterday"}, "timestamp must be a time such as .*, got 'yesterday'"),
        ({"timestamp": "20240230"}, "got '20240230'"),
        ({"timestamp": "01/05/2024"}, "got '01/05/2024'"),
        ({"timestamp": math.nan}, "timestamp must be a time"),
        ({"timestamp": b"2024"}, "timestamp must be a text, got b'2024'"),
        ({"latitude": 91.0, "longitude": 0.0}, r"latitude must be in \[-90, 90\]"),
        ({"latitude": 45.0, "longitude": 180.5}, "180.5"),
        ({"latitude": "45", "longitude": "9"}, "latitude must be a number, got '45'"),
        ({"latitude": np.array([45.0]), "longitude": 9.0}, "latitude must be a number"),
        ({"latitude": 45.0}, "latitude and longitude belong together"),
        ({"longitude": 9.0}, "latitude and longitude belong together"),
        ({"x": 1.0}, "x and y belong together"),
        ({"utm_east": 5e5}, "utm_east and utm_north belong together"),
        ({"x": 1.0, "y": 2.0, "z": math.inf}, "z must be a finite number"),
        ({"x": 1.0, "y": 2.0, "yaw": "north"}, "yaw must be a number, got 'north'"),
        ({"x": 1.0, "y": 2.0, "frame": 3}, "frame must be a text, got 3"),
        ({"condition": 1.0}, "condition must be a text"),
        ({"utm_east": 5e5, "utm_north": 5e6, "utm_zone": "99Q"}, "99"),
        ({"utm_east": 5e5, "utm_north": 5e6, "utm_zone": 32}, "utm_zone must be a text, got 32"),
        ({"latitude": 45.0, "longitude": 9.0, "utm_east": 5e5, "utm_north": 3e6, "utm_zone": "32T"}, "km from its latitude 45"),
    ],
)
def test_invalid_values_are_named_and_nothing_is_stored(index, door, values, message):
    index.add(rows(1), [Place("earlier", x=0.0, y=0.0)])
    index.flush()
    before = (index.folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=f"^photos/b.jpg: .*{message}"):
        DOORS[door](index, rows(3), [Place("photos/a.jpg"), Place("photos/b.jpg", **values), Place("photos/c.jpg")])
    assert [place.path for place in index.places] == ["earlier"] and len(index) == 1
    assert (index.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("path", ["", None, Path("a.jpg"), 7])
def test_a_path_is_a_text(index, path):
    with pytest.raises(ValueError, match=r"Expected a path|path must be a text, got"):
        index.add(rows(1), [Place(path)])
    assert len(index) == 0


@pytest.mark.parametrize("door", DOORS)
def test_numbers_of_every_type_are_stored(index, door):
    """As Python's own numbers: Parquet and JSON take no others."""
    values = {
        "latitude": np.float64(45),
        "longitude": np.int32(9),
        "heading": np.float32(12.5),
        "timestamp": np.int64(1714566600),
    }
    others = {"x": 1, "y": Fraction(1, 2), "z": np.float16(2), "frame": np.str_("hall"), "timestamp": 12.5}
    DOORS[door](index, rows(2), [Place("a", **values), Place(np.str_("b"), **others)])
    index.flush()
    first, second = PlaceIndex.open(index.folder).places
    assert (first.latitude, first.longitude, first.heading, first.utm_zone) == (45.0, 9.0, 12.5, "32T")
    assert second == Place("b", x=1.0, y=0.5, z=2.0, frame="hall", timestamp="12.500000")
    for place in (*index.places, first, second):
        assert {type(value) for value in vars(place).values()} <= {str, float, type(None)}
    assert PlaceIndex.open(index.folder).places.seconds.tolist() == [1714566600, 12.5]


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        (20240501, 20240501.0),  # a number is seconds, also if its digits are a date
        (1714566600250, 1714566600.25),
        (Decimal("12.5"), None),
        (datetime(2024, 5, 1, 12, 30, tzinfo=UTC), 1714566600.0),
        (np.float64(-1.5), -1.5),
        (np.datetime64("2024-05-01T12:30:00.500"), 1714566600.5),
        (np.datetime64("2024"), 1704067200.0),
        (date(2024, 5, 1), 1714521600.0),
    ],
)
def test_times_of_programs_are_stored_as_text(index, timestamp, seconds):
    if seconds is None:
        with pytest.raises(ValueError, match="timestamp must be a text"):
            index.add(rows(1), [Place("a", timestamp=timestamp)])
        return
    index.add(rows(1), [Place("a", timestamp=timestamp)])
    assert to_seconds(index.places[0].timestamp) == seconds


@settings(max_examples=10)
@given(st.datetimes(datetime(1974, 1, 1), datetime(2199, 12, 30)))
def test_an_instant_is_the_same_in_every_form_that_a_program_gives(tmp_path_factory, instant):
    """In rows, filters and searches, before and after the rows are stored."""
    instant = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    aware = instant.replace(tzinfo=UTC)
    seconds = (instant - datetime(1970, 1, 1)) / timedelta(seconds=1)
    milliseconds = round(seconds * 1000)
    forms = [
        instant,
        aware.astimezone(timezone(timedelta(hours=-9, minutes=-30))),
        np.datetime64(instant),
        seconds,
        milliseconds,
        str(milliseconds * 1_000_000),
        f"{seconds:.3f}",
        aware.isoformat(),
        f"{instant:%Y:%m:%d %H:%M:%S}.{milliseconds % 1000:03d}",
        f"{instant:%Y_%m_%d_%H_%M_%S}_{milliseconds % 1000:03d}",
    ]
    index = begin(tmp_path_factory.mktemp("instants") / "index")
    later = [to_seconds(form) + 1 for form in forms]
    index.add(rows(len(forms)), [Place(str(number), timestamp=form) for number, form in enumerate(forms)])
    for is_stored in (False, True):
        if is_stored:
            index.flush()
        opened = PlaceIndex.open(index.folder) if is_stored else index
        assert opened.places.seconds == pytest.approx([seconds] * len(forms), abs=1e-5)
        for form, a_second_later in zip(forms, later, strict=True):
            older = opened.search(rows(1), len(forms), exclude_last_seconds=0.999, query_time=a_second_later)
            excluded = opened.search(rows(1), len(forms), exclude_last_seconds=0.001, query_time=form)
            assert (len(older[0]), len(excluded[0])) == (len(forms), 0)
            assert within_time(opened.places, form).sum() + within_time(opened.places, None, form).sum() >= len(forms)
            assert not within_time(opened.places, a_second_later).any()


@pytest.mark.parametrize(
    ("numbers", "count"),
    [([20240501, 5, 20240502.0], 1), ([202405, np.int64(202405011230)], 2), ([20240501.25, 1714566600, 20249999], 0)],
)
def test_numbers_that_look_like_dates_are_seconds_and_counted(index, caplog, numbers, count):
    index.add(rows(len(numbers)), [Place(str(number), timestamp=number) for number in numbers])
    assert index.places.seconds.tolist() == [to_seconds(number) for number in numbers]
    assert [message.split(",")[0] for message in caplog.messages] == [
        f"{count} timestamps are numbers that look like dates" for _ in range(min(1, count))
    ]


def test_rows_without_a_time_are_not_excluded_and_counted_once(index, caplog):
    """A survey's photos are the map of a robot; a robot searches for each frame."""
    start = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
    index.add(
        rows(4), [Place("survey"), Place("map"), Place("old", timestamp=start), Place("new", timestamp="20240501_123100")]
    )
    for query_time in (datetime(2024, 5, 1, 12, 31, tzinfo=UTC), np.datetime64("2024-05-01T12:31"), 1714566660, None):
        matches = index.search(rows(4)[3], 4, exclude_last_seconds=60, query_time=query_time)[0]
        assert {match.place.path for match in matches} == {"survey", "map", "old"}
    assert caplog.messages == ["`exclude_last_seconds` needs times: 2 of 4 rows have none and are not excluded."]


@pytest.mark.parametrize(
    ("heading", "stored"), [(360, 0.0), (-90.0, 270.0), (-360.0, 0.0), (-1e-20, 0.0), (359.5, 359.5), (0, 0.0)]
)
def test_headings_are_stored_from_0_to_below_360_degrees(index, heading, stored):
    index.add(rows(1), [Place("a", heading=heading)])
    assert index.places[0].heading == stored


def test_an_update_compares_places_in_their_stored_form(tmp_path):
    """Otherwise each update of photos with degrees alone would write their places again."""
    table = write_photos(tmp_path / "photos", 6)
    places = [replace(place, heading=-90.0) for place in table.places]
    for _ in range(2):
        index, report = index_photos(replace(table, places=places), tmp_path / "index", BytesEncoder())
    assert report.kept == 6
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    index_photos(replace(table, places=places), tmp_path / "index", BytesEncoder())
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before
    assert [place.heading for place in index.places] == [270.0] * 6 and index.places[0].utm_zone is not None


def test_readers_turn_headings_and_drop_unknown_times_with_a_remark(tmp_path):
    lines = ["a,1,2,-90,2024-05-01", "b,1,2,360,01/05/2024", "c,1,2,0,spring", "d,1,2,359.5,20240230", "e,1,2,,1_000"]
    (tmp_path / "t.csv").write_text("\n".join(["path,latitude,longitude,heading,timestamp", *lines]))
    table = read_places(tmp_path / "t.csv")
    assert [place.heading for place in table.places] == [270.0, 0.0, 0.0, 359.5, None]
    assert [place.timestamp for place in table.places] == ["2024-05-01", None, None, None, None]
    remarks = {remark.text: (remark.kind, remark.count, remark.example) for remark in table.remarks}
    assert remarks[TURNED] == ("corrected", 2, "t.csv, line 2")
    assert remarks[WITHOUT_TIME] == ("skipped", 4, "t.csv, line 3")
    (tmp_path / "t.csv").write_text("path,latitude,longitude,heading\na,1,2,400\n")
    with pytest.raises(ValueError, match=re.escape("t.csv, line 2: heading must be in [-360, 360] degrees, got 400")):
        read_places(tmp_path / "t.csv")


def test_matches_name_the_zone_and_the_frame_of_their_metres():
    """Eastings of London's two zones are 416 km apart, and both floors of a house have an x of 3."""
    places = [Place("a", 51.4779, -0.0001), Place("b", 51.4779, 0.0001), Place("c", x=3.0, y=1.0, frame="floor 2")]
    values = [Match(1, 0, place, Path(place.path), 0.5).to_dict() for place in to_stored_places(places)]
    assert [value["utm_zone"] for value in values] == ["30U", "31U", None]
    assert values[0]["frame"] is None and values[2]["frame"] == "floor 2"
