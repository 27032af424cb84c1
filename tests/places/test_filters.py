"""Filters against the definition, place by place."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import PlaceFilter, within_box, within_heading, within_radius, within_time
from d2vpr_hf.places.place import with_utm
from tests.command_line import run_program
from tests.photos import save


def test_places_within_a_radius_are_allowed():
    """A 3-4-5 triangle; the edge belongs to it, and places that cannot be compared do not."""
    prior = Place("prior", utm_east=100.0, utm_north=200.0, utm_zone="32T")
    places = [
        Place("near", utm_east=103.0, utm_north=204.0, utm_zone="32T"),
        Place("far", utm_east=103.0, utm_north=204.1, utm_zone="32T"),
        Place("other zone", utm_east=100.0, utm_north=200.0, utm_zone="33T"),
        Place("nowhere"),
    ]
    assert within_radius(places, prior, 5.0).tolist() == [True, False, False, False]


def test_a_prior_in_degrees_is_compared_with_places_in_utm():
    """A GPS fix has no UTM coordinates of its own."""
    place = Place("a", utm_east=500_000.0, utm_north=4_649_776.22, utm_zone="32T")  # 42° N, 9° E
    assert within_radius([place], Place("prior", latitude=42.0, longitude=9.0), 1.0).tolist() == [True]


def only_metres(latitude, longitude):
    return replace(with_utm(Place("", latitude, longitude)), latitude=None, longitude=None)


@pytest.mark.parametrize(
    ("prior", "east_of_it"),
    [
        ((51.4779, -0.0005), (51.4779, 0.0005)),  # Greenwich: 69 m from zone 30 to 31
        ((-16.8, 179.9995), (-16.8, -179.9996)),  # Fiji: 96 m over the date line
        ((0.0004, 10.0), (-0.0004, 10.0)),  # 89 m over the equator
        ((89.9996, 0.0), (89.9996, 180.0)),  # 89 m over the pole
        ((60.4, 2.9995), (60.4, 3.0005)),  # into Norway's wide zone
    ],
)
def test_a_radius_reaches_over_borders(prior, east_of_it):
    """In degrees and, where UTM is defined, for a prior or places that have UTM metres only."""
    forms = [lambda *degrees: with_utm(Place("", *degrees))] + [only_metres] * (prior[0] < 84)
    for prior_form in forms:
        places = [form(*east_of_it) for form in forms] + [Place("", x=0.0, y=0.0), Place("nowhere")]
        assert within_radius(places, prior_form(*prior), 100.0).tolist() == [True] * len(forms) + [False] * 2
        assert not within_radius(places, prior_form(*prior), 50.0).any()


def test_a_box_contains_places_with_utm_metres_only():
    places = [only_metres(-16.8, 179.999), only_metres(-16.8, -179.999), only_metres(-16.8, 170.0)]
    assert within_box(places, -17, 179, -16, -179).tolist() == [True, True, False]


def test_places_without_the_compared_field_are_counted(caplog):
    """No filter allows them, as if they were photos of another place or time."""
    places = [
        Place("all", latitude=45.0, longitude=9.0, heading=10.0, timestamp="20240501_12"),
        Place("metres", utm_east=500000.0, utm_north=4983000.0, utm_zone="32T", heading=0.0, timestamp="1714566600"),
        Place("mock", utm_east=100.0, utm_north=200.0, timestamp="yesterday"),
        Place("hall", x=1.0, y=2.0, heading=20.0),
    ]
    filters = PlaceFilter(near=(45.0, 9.0, 1e4), box=(44.0, 8.0, 46.0, 10.0), heading=(10.0, 15.0), since="2024-01", until=2e9)
    assert filters.allowed(places).tolist() == [True, True, False, False]
    assert caplog.messages == [
        "The filter `near` leaves out 2 of 4 photos, which have no position on the globe.",
        "The filter `box` leaves out 2 of 4 photos, which have no position on the globe.",
        "The filter `heading` leaves out 1 of 4 photos, which have no heading.",
        "The filter `until` leaves out 2 of 4 photos, which have no known time.",
    ]
    caplog.clear()
    assert PlaceFilter(near=(45.0, 9.0, 1e4)).allowed(places[:2]).all()
    assert PlaceFilter().allowed(places) is None and not caplog.messages
    assert not PlaceFilter(since="2024-06").allowed(places[:2]).any()
    assert caplog.messages == ["None of 2 photos passes the filters, so that there are no matches."]


def test_a_box_that_ends_on_the_date_line_contains_both_of_its_names():
    places = [Place("a", latitude=0.0, longitude=180.0), Place("b", latitude=0.0, longitude=-180.0)]
    for west, east in ((179.9, 180.0), (-180.0, -179.9), (179.9, -179.9)):
        assert within_box(places, -1, west, 1, east).tolist() == [True, True]
    assert not within_box(places, -1, -179.9, 1, 179.9).any()


def test_a_prior_without_a_height_is_compared_in_the_plane():
    places = [Place("a", x=3.0, y=4.0, z=100.0, frame="hall"), Place("b", x=3.0, y=4.1, z=0.0, frame="hall")]
    assert within_radius(places, Place("prior", x=0.0, y=0.0, frame="hall"), 5.0).tolist() == [True, False]


def test_places_in_another_local_frame_are_not_allowed():
    prior, places = (
        Place("p", x=0.0, y=0.0, frame="hall"),
        [Place("a", x=3.0, y=0.0, z=4.0, frame="hall"), Place("b", x=0.0, y=0.0)],
    )
    assert within_radius(places, prior, 5.0).tolist() == [True, False]


def test_a_box_may_cross_the_date_line():
    places = [
        Place("fiji", latitude=-17.0, longitude=178.0),
        Place("samoa", latitude=-13.8, longitude=-172.0),
        Place("nowhere"),
    ]
    assert within_box(places, -20, 177, -10, -170).tolist() == [True, True, False]
    assert within_box(places, -20, -180, -10, 180).tolist() == [True, True, False]
    assert within_box(places, -20, 177, -10, 179).tolist() == [True, False, False]


@given(st.floats(0, 360), st.floats(-720, 720), st.floats(0, 180))
def test_headings_wrap_around(known, asked, tolerance):
    """Of 350 and 10 degrees the difference is 20: the angle between the directions as vectors."""
    cosine = math.cos(math.radians(known - asked))
    angle = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
    allowed = within_heading([Place("a", heading=known), Place("b")], asked, tolerance)
    assert not allowed[1]
    if abs(angle - tolerance) > 1e-4:  # of an arc cosine near 0 and 180 degrees no more is right
        assert allowed[0] == (angle < tolerance)


def test_places_within_a_tolerance_of_a_heading_are_allowed():
    places = [Place("a", heading=350.0), Place("b", heading=10.0), Place("c", heading=180.0)]
    assert within_heading(places, 0.0, 10.0).tolist() == [True, True, False]
    assert within_heading(places, 5.0, 10.0).tolist() == [False, True, False]


def test_times_in_all_forms_mean_the_same_moment():
    times = ["2024-05-01T12:30:00", "2024:05:01 12:30:00", "20240501123000", "1714566600", "2024-05-01T14:30:00+02:00"]
    places = [Place(time, timestamp=time) for time in [*times, "yesterday", None]]
    assert within_time(places, "2024-05-01T12:30:00", "2024-05-01T12:30:00").tolist() == [True] * 5 + [False] * 2
    assert not within_time(places, "2024-05-01T12:30:01").any()
    assert not within_time(places, None, "2024-05-01").any()
    assert within_time(places, "20240501").tolist() == [True] * 5 + [False] * 2


def test_filters_of_no_places_give_empty_masks():
    assert within_time([]).shape == within_heading([], 0, 1).shape == (0,)
    assert within_box([], 0, 0, 1, 1).dtype == np.bool_


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: within_radius([], Place("a"), 5), "needs a position"),
        (lambda: within_radius([], Place("a", x=0.0, y=0.0), 0), "above 0 metres, got 0"),
        (lambda: within_box([], 10, 0, 5, 0), "south 10"),
        (lambda: within_heading([], 0, 200), "0 and 180 degrees, got 0 and 200"),
        (lambda: within_time([], "noon"), "got 'noon'"),
    ],
)
def test_filters_with_invalid_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- in the search of an index


NORTHS = (0, 100, 200, 300, 400)
HEADINGS = (350, 10, 90, 180, 270)
TIMES = ("20240501", "20240502_00", "2024_05_03_00_00_00_000", "202405040000", "20240505_000000")  # the days' beginnings


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """An index of five photos, 100 m apart from 42° N, 9° E to the north, one a day."""
    folder = tmp_path_factory.mktemp("street")
    for number, (north, heading, time) in enumerate(zip(NORTHS, HEADINGS, TIMES, strict=True)):
        save(folder / "photos" / f"@500000@{4649776.22 + north:.2f}@32@T@@@{number}@@{heading}@@@@{time}@@.jpg", number)
    done = CliRunner().invoke(app, ["index", str(folder / "photos"), "--out", str(folder / "index")])
    assert done.exit_code == 0, done.output
    return folder


def ask(command, street, *options):
    query = str(next((street / "photos").iterdir()))
    arguments = [command, str(street / "index"), query, *options, "--json"]
    return json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {0, 1, 2, 3, 4}),
        (("--near", "42,9,101"), {0, 1}),
        (("--box", "42.0005,8.9,42.003,9.1"), {1, 2, 3}),  # a degree has 111 km
        (("--heading", "0,10"), {0, 1}),
        (("--since", "2024-05-03"), {2, 3, 4}),
        (("--since", "2024-05-02", "--until", "2024:05:03"), {1, 2}),
        (("--since", "20240502_12", "--until", "2024:05:04 09:00:00+09:00"), {2, 3}),
        (("--since", "1714608000"), {1, 2, 3, 4}),
        (("--until", "2024_05_02_23_59_59_999"), {0, 1}),
        (("--since", "1.714608e9", "--until", "20240503T000000Z"), {1, 2}),
        (("--near", "42,9,201", "--heading", "50,40"), {1, 2}),
        (("--near", "-42,9,10"), set()),
    ],
)
def test_a_search_returns_only_allowed_photos(street, options, expected):
    found = ask("search", street, *options)["matches"]
    assert {int(match["path"].split("@")[7]) for match in found} == expected and len(found) == len(expected)


def test_localization_uses_only_allowed_photos(street):
    assert ask("localize", street, "--near", "42,9,1")["utm_north"] == pytest.approx(4649776.22, abs=0.01)
    assert "no place of the index is allowed by the filters" in ask("localize", street, "--since", "2025-01-01")["note"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--near", "42,9"), r"Expected `--near LAT,LON,METRES` in numbers, got '42,9'"),
        (("--box", "1,2,3,east"), "SOUTH,WEST,NORTH,EAST` in numbers, got '1,2,3,east'"),
        (("--near", "95,9,10"), "a latitude within 90"),
        (("--heading", "nan,5"), "Expected a heading"),
        (("--until", "noon"), "got 'noon'"),
        (("--since", "20240230"), "got '20240230'"),
        (("--since", "01/05/2024"), "got '01/05/2024'"),
        (("--until", "2024"), "may be a year or seconds"),
    ],
)
def test_malformed_options_of_filters_are_refused(street, options, message):
    for command in ("search", "localize"):
        with pytest.raises(ValueError, match=message):
            ask(command, street, *options)


def test_without_filters_there_is_no_mask():
    assert PlaceFilter().allowed([Place("a")]) is None
    assert PlaceFilter(since="2024-01").allowed([]).shape == (0,)


@pytest.mark.parametrize(("since", "until"), [("2025-01", "2024-01"), (5, "4.5"), ("20240501_13", "2024-05-01T12:59:59Z")])
def test_a_first_time_after_the_last_one_is_refused(since, until):
    with pytest.raises(ValueError, match=f"Expected a first time .*, got {since} and {until}"):
        PlaceFilter(since=since, until=until).allowed([Place("a", timestamp="12")])


@pytest.mark.parametrize("command", ["search", "localize"])
def test_the_list_of_json_keeps_its_form_next_to_warnings(command, street):
    status, stdout, stderr = run_program(
        command, street / "index", next((street / "photos").iterdir()), "--json", "--since", "2030-01"
    )
    assert status == 0 and len(json.loads(stdout)) == 1
    assert "None of 5 photos passes the filters" in stderr


def test_a_year_alone_is_not_taken_for_seconds():
    """`--since 2025` would allow everything after the first 34 minutes of 1970."""
    with pytest.raises(ValueError, match=r"2025 may be a year or seconds\. Write the year as 2025-01"):
        within_time([], start="2025")


def test_a_search_reaches_over_the_date_line_and_zones(tmp_path):
    """Photos every 53 m from zone 60 into zone 1, as a folder of `@` names with UTM metres only."""
    for number, longitude in enumerate((179.9985, 179.999, 179.9995, -179.9995, -179.999)):
        place = with_utm(Place("", -16.8, longitude))
        name = f"@{place.utm_east:.2f}@{place.utm_north:.2f}@{place.utm_zone[:-1]}@K@@@{number}@@@@@@@@.jpg"
        save(tmp_path / "photos" / name, number)
    done = CliRunner().invoke(app, ["index", str(tmp_path / "photos"), "--out", str(tmp_path / "index")])
    assert done.exit_code == 0, done.output
    for options, expected in (
        (("--near", "-16.8,180,60"), {2, 3}),
        (("--near", "-16.8,-179.9995,110"), {2, 3, 4}),
        (("--box", "-17,179.9988,-16,-179.9992"), {1, 2, 3}),
    ):
        matches = ask("search", tmp_path, *options)["matches"]
        assert {int(match["path"].split("@")[7]) for match in matches} == expected
