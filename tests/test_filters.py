"""Filters against the definition, place by place."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2vpr_hf.filters import within_box, within_heading, within_radius, within_time
from d2vpr_hf.readers import Place


def test_radius_by_hand():
    """A 3-4-5 triangle; the edge belongs to it, and places that cannot be compared do not."""
    prior = Place("prior", utm_east=100.0, utm_north=200.0, utm_zone="32T")
    places = [
        Place("near", utm_east=103.0, utm_north=204.0, utm_zone="32T"),
        Place("far", utm_east=103.0, utm_north=204.1, utm_zone="32T"),
        Place("other zone", utm_east=100.0, utm_north=200.0, utm_zone="33T"),
        Place("nowhere"),
    ]
    assert within_radius(places, prior, 5.0).tolist() == [True, False, False, False]


def test_a_prior_in_degrees_meets_places_in_utm():
    """A GPS fix has no UTM coordinates of its own."""
    place = Place("a", utm_east=500_000.0, utm_north=4_649_776.22, utm_zone="32T")  # 42° N, 9° E
    assert within_radius([place], Place("prior", latitude=42.0, longitude=9.0), 1.0).tolist() == [True]


def test_local_frames():
    prior, places = (
        Place("p", x=0.0, y=0.0, frame="hall"),
        [Place("a", x=3.0, y=0.0, z=4.0, frame="hall"), Place("b", x=0.0, y=0.0)],
    )
    assert within_radius(places, prior, 5.0).tolist() == [True, False]


def test_a_box_over_the_date_line():
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


def test_headings_by_hand():
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


def test_no_places():
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
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
