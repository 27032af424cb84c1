"""Distances between positions in degrees, in local frames and in metres without a zone, by hand."""

import math

import numpy as np
import pytest

from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import (
    EARTH,
    arcs,
    chord,
    comparable_coordinates,
    distances_in_frames,
    earth_degrees,
    earth_vectors,
    frame_points,
)
from d2vpr_hf.places.place import EARTH_RADIUS, with_utm

DEGREE = math.pi / 180 * EARTH_RADIUS  # metres of a degree of a great circle


@pytest.mark.parametrize(
    ("first", "second", "metres"),
    [
        ((0.0, 179.5), (0.0, -179.5), DEGREE),  # over the date line
        ((89.5, 0.0), (89.5, 180.0), DEGREE),  # over the pole
        ((-0.5, 10.0), (0.5, 10.0), DEGREE),  # over the equator, where UTM's northing begins again
        ((0.0, 5.5), (0.0, 6.5), DEGREE),  # from UTM zone 31 to 32
        ((0.0, 0.0), (0.0, 180.0), 180 * DEGREE),  # antipodes
        ((51.0, 7.0), (51.0, 7.0), 0.0),
    ],
)
def test_degrees_are_compared_on_the_sphere(first, second, metres):
    places = [with_utm(Place("", latitude=latitude, longitude=longitude)) for latitude, longitude in (first, second)]
    assert distances_in_frames(frame_points(places), len(places))[0, 1] == pytest.approx(metres, abs=1e-3)


def test_positions_of_different_frames_are_infinitely_far():
    places = [
        Place("a", x=0.0, y=0.0, frame="hall"),
        Place("b", x=3.0, y=4.0, z=5.0, frame="hall"),  # the first has no height: 5 m in the plane
        Place("c", x=0.0, y=0.0, frame="cellar"),
        Place("d", utm_east=0.0, utm_north=0.0),
        Place("e", latitude=0.0, longitude=0.0),
        Place("f"),
    ]
    distances = distances_in_frames(frame_points(places), len(places))
    assert distances[0, 1] == 5.0
    distances[0, 1] = distances[1, 0] = np.inf
    assert np.isinf(distances[~np.eye(6, dtype=bool)]).all()


def test_utm_metres_with_a_zone_are_on_the_sphere():
    place = with_utm(Place("", latitude=-33.8568, longitude=151.2153))
    from_metres = Place("", utm_east=place.utm_east, utm_north=place.utm_north, utm_zone=place.utm_zone)
    assert earth_degrees(comparable_coordinates(from_metres)[EARTH]) == pytest.approx((-33.8568, 151.2153), abs=1e-7)


def test_arcs_undo_chords():
    assert arcs(np.array([chord(25.0), chord(1e7)])) == pytest.approx([25.0, 1e7])
    assert earth_degrees(earth_vectors(12.0, -34.0)) == pytest.approx((12.0, -34.0))
