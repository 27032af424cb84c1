"""Places that earlier versions stored without checks: impossible values are not used, and counted; times are read as today."""

import math

import numpy as np
import pytest

from d2vpr_hf.index import PhotoFile, PlaceIndex, place_index
from d2vpr_hf.localization import localize
from d2vpr_hf.places import Place, PlaceFilter
from tests.index.workers import DIM, begin

POSSIBLE = [
    Place("degrees", latitude=45.0, longitude=9.0, heading=10.0, timestamp="20240501_120000"),
    Place("west", latitude=45.0, longitude=9.0, heading=-90.0),
    Place("lower", utm_east=514786.0, utm_north=4983000.0, utm_zone="32t"),
    Place("number", latitude=45.0, longitude=9.0, utm_east=500000.0, utm_north=4983000.0, utm_zone="32"),
    Place("mock", utm_east=100.0, utm_north=200.0),
    Place("hall", x=1.0, y=2.0, frame="hall"),
    Place("nowhere"),
]
HEADINGS = [
    Place("400", latitude=45.0, longitude=9.0, heading=400.0, timestamp="1_000"),
    Place("nan", latitude=45.0, longitude=9.0, heading=math.nan, timestamp="yesterday"),
]
ZONES = [
    Place("99Q", utm_east=500000.0, utm_north=5e6, utm_zone="99Q"),
    Place("33", utm_east=500000.0, utm_north=5e6, utm_zone="33"),
    Place("text", utm_east=500000.0, utm_north=5e6, utm_zone="north"),
]
OTHERS = [
    Place("pole", latitude=91.0, longitude=9.0),
    Place("half", latitude=45.0),
    Place("east", utm_east=500000.0, utm_zone="32T"),
    Place("far", x=math.inf, y=0.0, z=1.0),
    Place("high", x=0.0, y=0.0, z=math.nan),
]
PLACES = [*POSSIBLE, *HEADINGS, *ZONES, *OTHERS]
DESCRIPTORS = np.eye(len(PLACES), DIM + 1, dtype=np.float32)[:, :DIM]


@pytest.fixture
def old_index(tmp_path, monkeypatch):
    """An index of unchecked places, in shards of several sizes."""
    monkeypatch.setattr(place_index, "to_stored_places", list)
    index = begin(tmp_path / "index")
    for start, stop in ((0, 2), (2, 9), (9, len(PLACES))):
        index.add(DESCRIPTORS[start:stop], PLACES[start:stop])
        index.flush()
    monkeypatch.undo()
    return index.folder


def places_by_path(folder):
    return {place.path: place for place in PlaceIndex.open(folder).places}


def test_impossible_values_are_unknown_and_counted(old_index, caplog):
    places = places_by_path(old_index)
    assert list(places) == [place.path for place in PLACES]
    assert [place for place in POSSIBLE if places[place.path] != place] == [POSSIBLE[1]]
    assert places["west"].heading == 270.0
    assert {places[place.path].heading for place in HEADINGS} == {None} and places["400"].latitude == 45.0
    assert [places[place.path] for place in ZONES] == [Place(place.path) for place in ZONES]
    assert [places[place.path] for place in OTHERS] == [
        *(Place(name) for name in ("pole", "half", "east")),
        Place("far", z=1.0),
        Place("high", x=0.0, y=0.0),
    ]
    counts = [int(message.split(": ")[1].split()[0]) for message in caplog.messages]
    assert sum(counts) == len(HEADINGS + ZONES + OTHERS)
    assert "heading 400.0 of 400" in caplog.text and "utm_zone 99Q of 99Q" in caplog.text
    caplog.clear()
    assert places_by_path(old_index) == places and not caplog.messages  # said once


def test_times_that_were_stored_as_text_are_read_as_today(old_index):
    index = PlaceIndex.open(old_index)
    assert index.places.seconds[0] == 1_714_564_800.0
    assert np.isnan(index.places.seconds[1:]).all()
    matches = index.search(DESCRIPTORS[:1], 1, exclude_last_seconds=60, query_time="2024-05-01T12:00:30Z")
    assert matches[0][0].place.path != "degrees"


def test_years_of_at_names_are_years(tmp_path, monkeypatch):
    """Earlier versions stored the bare year, which is seconds elsewhere."""
    paths = [
        "@1@2@@@@@@@@@@@2019@@.jpg",
        "a/@1@2@@@@@@@@@@@2020@@.jpg",
        "@folder/frame.jpg",
        "@3@2@@@@@@@@@@@201905@@.jpg",
        "@4",
    ]
    places = [Place(path, timestamp=time) for path, time in zip(paths, ["2019", "2020", "2019", "201905", None], strict=True)]
    with monkeypatch.context() as earlier:
        earlier.setattr(place_index, "to_stored_places", list)
        index = begin(tmp_path / "index")
        index.add(DESCRIPTORS[: len(places)], places)
        index.flush()
    stored = PlaceIndex.open(index.folder).places
    assert [place.timestamp for place in stored] == ["2019-01", "2020-01", "2019", "201905", None]
    assert stored.seconds[:2].tolist() == [1_546_300_800.0, 1_577_836_800.0]


def test_an_old_index_is_searched_localized_filtered_and_compacted(old_index):
    index = PlaceIndex.open(old_index)
    for row in range(len(PLACES)):
        localize(index.search(DESCRIPTORS[row], len(PLACES))[0], None)
    near = PlaceFilter(near=(45.0, 9.0, 1000.0), box=(40.0, 0.0, 50.0, 10.0)).allowed(index.places)
    assert [PLACES[row].path for row in np.flatnonzero(near)] == ["degrees", "west", "number", "400", "nan"]
    assert PlaceFilter(heading=(280.0, 15.0)).allowed(index.places).tolist() == [False, True] + [False] * (len(PLACES) - 2)
    before = places_by_path(old_index)
    index.compact()
    index.amend([Place("pole", latitude=89.0, longitude=9.0)], [PhotoFile()])
    index.remove(["99Q"])
    after = places_by_path(old_index)
    del before["99Q"]
    assert after == before | {"pole": Place("pole", latitude=89.0, longitude=9.0)}
    assert index.verify() == []
