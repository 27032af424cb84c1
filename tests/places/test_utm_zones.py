"""UTM zones in all their forms, by hand, and positions that must survive every conversion."""

import numpy as np
import pytest
import utm
from hypothesis import example, given
from hypothesis import strategies as st

from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.place import check_place, complete_places, place_zone
from d2vpr_hf.places.utm_zones import parse_zone, settle_zone, zone_text, zone_with_hemisphere


@pytest.mark.parametrize(
    ("zone", "number", "letter", "is_north"),
    [
        ("33T", 33, "T", True),
        ("33 t", 33, "T", True),
        (" 05h ", 5, "H", False),
        ("60X", 60, "X", True),
        ("1C", 1, "C", False),
        ("33S", 33, "S", None),  # the band or the hemisphere
        ("33", 33, None, None),
        (33, 33, None, None),
        (33.0, 33, None, None),
        (np.int64(5), 5, None, None),
        (np.float32(5), 5, None, None),
        ("33.0", 33, None, None),
        ("33 North", 33, None, True),
        ("utm zone 33 south", 33, None, False),
        ("UTM33N", 33, "N", True),
        ("WGS 84 / UTM zone 33S", 33, None, False),
        ("EPSG:32633", 33, None, True),
        ("epsg:32760", 60, None, False),
        (32701, 1, None, False),
        ("32605.0", 5, None, True),
    ],
)
def test_zones_are_read_in_every_form(zone, number, letter, is_north):
    parsed = parse_zone(zone)
    assert (parsed.number, parsed.letter, parsed.is_north) == (number, letter, is_north)


@pytest.mark.parametrize(
    "zone",
    ["0T", "61T", "33I", "33o", "33A", "33Y", "T", "T33", "33TT", "333", "33.5", 33.5, -33, "", "32661", "EPSG:4326", True],
)
def test_texts_that_are_not_zones_are_refused(zone):
    with pytest.raises(ValueError, match=r"a number from 1 to 60 and a band letter from C to X.*such as 33T"):
        parse_zone(zone)


@pytest.mark.parametrize(
    ("zone", "latitude", "north", "text"),
    [
        ("56S", -33.8568, 6_252_288.75, "56H"),  # Sydney: the hemisphere, by its latitude
        ("56S", None, 6_252_288.75, "56M"),  # by its northing
        ("10S", 37.7, 4_172_758.0, "10S"),  # San Francisco: the band
        ("10s", None, 4_172_758.0, "10S"),
        ("10S", None, 200.0, "10S"),  # mock coordinates
        ("33N", 52.5, 5_820_000.0, "33U"),  # Berlin: the hemisphere
        ("37N", 1.0, 110_000.0, "37N"),  # the band
        (33, 52.5, None, "33U"),
        ("33", -22.5, None, "33K"),
        (35, 0.0, 10_000_000.0, "35M"),  # on the equator, where a rounded latitude has no sign
        ("32v", 60.4, None, "32V"),  # Bergen: Norway's wide zone
    ],
)
def test_hemispheres_follow_from_latitude_or_northing(zone, latitude, north, text):
    assert zone_text(settle_zone(zone, latitude, north), latitude) == text


def test_a_number_alone_needs_a_latitude():
    with pytest.raises(ValueError, match=r"neither a letter nor a hemisphere.*such as 33T"):
        settle_zone(32, None, 4_848_788.1)


@pytest.mark.parametrize("zone", ["32", "99T", "nowhere", "3I"])
def test_places_with_zones_that_do_not_exist_are_named(zone):
    place = Place("photo.jpg", utm_east=681_089.2, utm_north=4_848_788.1, utm_zone=zone)
    for call in (place_zone, lambda place: complete_places([place]), lambda place: distance_in_metres(place, place)):
        with pytest.raises(ValueError, match=r"photo\.jpg: .*UTM zone"):
            call(place)


def test_zones_are_written_in_the_normal_form():
    metres = {"utm_east": 334_900.57, "utm_north": 6_252_288.75}
    places = complete_places([Place("", utm_zone=zone, **metres) for zone in ("56h", "56 H", "56S", "56 south", "EPSG:32756")])
    assert {place.utm_zone for place in places} == {"56H"}
    assert {round(place.latitude, 4) for place in places} == {-33.8568}
    assert distance_in_metres(places[0], Place("", utm_zone="56h", **metres)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"utm_zone": "10H"},  # another zone
        {"utm_zone": "56T"},  # the other hemisphere
        {"utm_east": 336_000.0},  # a kilometre to the east
        {"latitude": 33.8568},
        {"utm_north": 12_000_000.0, "utm_zone": "56N"},  # beyond the pole
        {"utm_east": 100.0, "utm_north": 200.0},  # mock coordinates do not fit true ones
    ],
)
def test_metres_and_degrees_that_contradict_each_other_are_refused(wrong):
    right = {"latitude": -33.8568, "longitude": 151.2153, "utm_east": 334_900.57, "utm_north": 6_252_288.75, "utm_zone": "56H"}
    check_place(Place("a.jpg", **right))
    with pytest.raises(ValueError, match=r"(km from|nowhere near) its latitude"):
        check_place(Place("a.jpg", **right | wrong))
    with pytest.raises(ValueError, match=r"^a\.jpg: .*(km from|nowhere near) its latitude"):
        complete_places([Place("b.jpg", **right), Place("a.jpg", **right | wrong)])


@pytest.mark.parametrize(
    ("latitude", "offset"), [(10.0, -5.0), (10.0, 5.0), (-2.0, 6.0), (51.5, -6.0), (-51.5, 6.0), (65.0, 6.0)]
)
def test_places_in_the_zone_of_their_neighbours_keep_it(latitude, offset):
    """Data sets give a whole city one zone; metres may then be outside the usual bounds, but they are right."""
    longitude = 3.0 + offset
    east, north, _, letter = utm.from_latlon(latitude, longitude, force_zone_number=31)
    assert utm.latlon_to_zone_number(latitude, longitude) != 31
    here = Place("a", latitude, longitude, east, north, f"31{letter}")
    there = Place("b", utm_east=east + 30, utm_north=north + 40, utm_zone=f"31{letter}")
    complete = complete_places([here, there])
    assert complete[0] == here and (complete[1].utm_east, complete[1].utm_zone) == (east + 30, f"31{letter}")
    assert distance_in_metres(*complete) == pytest.approx(50.0)
    own_zone = complete_places([Place("c", complete[1].latitude, complete[1].longitude)])[0]
    assert own_zone.utm_zone != here.utm_zone and distance_in_metres(own_zone, here) == pytest.approx(50.0, rel=0.01)


@pytest.mark.parametrize(
    ("east", "north", "zone"),
    [(100, 200, "10S"), (500, 4000, "56H"), (0, 0, "1C"), (150_000, 8_900_000, "33X"), (5e6, 5e6, "33T")],
)
def test_mock_coordinates_and_metres_far_from_their_zone_get_no_degrees(east, north, zone):
    """Easting 150 km is 18 degrees from the middle of a zone at 80° N: degrees would be 50 m off."""
    place = Place("", utm_east=float(east), utm_north=float(north), utm_zone=zone)
    assert complete_places([place]) == [place]


@pytest.mark.parametrize(("latitude", "letter"), [(-0.05, "N"), (0.05, "M")])
def test_places_beyond_the_equator_keep_the_hemisphere_of_their_city(latitude, letter):
    """A data set gives all of Kampala one hemisphere: northings are then negative, or above 10,000 km."""
    east, north, _, _ = utm.from_latlon(latitude, 32.58, force_northern=letter == "N")
    place = complete_places([Place("", utm_east=east, utm_north=north, utm_zone=f"36{letter}")])[0]
    assert (place.latitude, place.longitude) == pytest.approx((latitude, 32.58), abs=1e-6)
    assert complete_places([place]) == [place]


def test_a_zone_without_metres_needs_no_hemisphere():
    """A column of zones is filled also in rows without a position; the zone of degrees follows from them."""
    unknown, located = complete_places([Place("a", utm_zone="32"), Place("b", 43.7711, 11.2486, utm_zone="32")])
    assert not unknown.has_position and (located.utm_zone, located.utm_east) == ("32T", pytest.approx(680_992, abs=200))
    with pytest.raises(ValueError, match="expected a UTM zone"):
        complete_places([Place("a", utm_zone="99T")])


def test_a_missing_zone_is_added_where_it_explains_metres_and_degrees():
    """Without it, metres of two zones would be compared in one plane: 23 km for two photos at Greenwich."""
    places = [Place("a", 51.4779, longitude, *utm.from_latlon(51.4779, longitude)[:2]) for longitude in (-0.0001, 0.0001)]
    complete = complete_places(places)
    assert [place.utm_zone for place in complete] == ["30U", "31U"]
    assert distance_in_metres(*complete) == distance_in_metres(*places) == pytest.approx(13.9, abs=0.1)
    mock = Place("b", 51.4779, 0.0, utm_east=100.0, utm_north=200.0)
    assert complete_places([mock]) == [mock]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latitude": 1.0}, "latitude and longitude belong together"),
        ({"utm_east": 1.0}, "utm_east and utm_north belong together"),
        ({"y": 1.0}, "x and y belong together"),
        ({"latitude": 91.0, "longitude": 0.0}, r"latitude must be in \[-90, 90\]"),
        ({"latitude": "43.5", "longitude": 11.5}, "latitude must be a finite number, got '43.5'"),
        ({"x": float("nan"), "y": 0.0}, "x must be a finite number, got nan"),
        ({"heading": 400.0}, r"heading must be in \[-360, 360\] degrees, got 400"),
        ({"heading": float("inf")}, "heading must be a finite number"),
        ({"utm_east": 1.0, "utm_north": 1.0, "utm_zone": "3"}, "UTM zone 3 has neither"),
    ],
)
def test_values_out_of_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        check_place(Place("a", **fields))


@given(st.floats(-80, 84), st.floats(-180, 180))
@example(60.4, 3.0)  # Bergen's wide zone
@example(78.2, 8.999999)  # Svalbard's wide zones
@example(72.0, 41.999999)
@example(84.0, 180.0)
@example(-80.0, -180.0)
@example(-1e-9, 6.0)  # the equator and a border
@example(0.0, 0.0)
def test_any_position_survives_utm_metres_with_any_form_of_its_zone(latitude, longitude):
    here = complete_places([Place("", latitude, longitude)])[0]
    number, letter = here.utm_zone[:-1], here.utm_zone[-1]
    hemisphere = "north" if letter >= "N" else "south"
    for zone in (
        here.utm_zone,
        f"{number} {letter.lower()}",
        f"{number} {hemisphere}",
        f"326{number:0>2}"[: 5 * (letter >= "N")],
    ):
        if zone:
            back = complete_places([Place("", utm_east=here.utm_east, utm_north=here.utm_north, utm_zone=zone)])[0]
            assert distance_in_metres(Place("", latitude, longitude), Place("", back.latitude, back.longitude)) < 0.1


@pytest.mark.parametrize(
    ("zone", "number", "is_north"),
    [
        ("33-T", 33, True),
        ("33_n", 33, True),
        ("33\u00a0T", 33, True),
        ("Zone:33T", 33, True),
        ("WGS84 UTM 33S", 33, False),
        ("WGS_1984_UTM_Zone_33S", 33, False),
        ("ETRS89 / UTM zone 32N", 32, True),
        ("NAD83 / UTM zone 10N", 10, True),
        ("EPSG:25832", 32, True),
        (26910, 10, True),
        ("EPSG:28356", 56, False),
        ("urn:ogc:def:crs:EPSG::32733", 33, False),
    ],
)
def test_names_of_coordinate_systems_are_zones(zone, number, is_north):
    assert (parse_zone(zone).number, parse_zone(zone).is_north) == (number, is_north)


@pytest.mark.parametrize(
    "zone", ["EPSG:25861", "EPSG:26963", "EPSG:3067", "EPSG:31467", "33TUM", "33/T", "A", "Z", "nan", "033T"]
)
def test_other_systems_and_squares_are_refused(zone):
    with pytest.raises(ValueError, match=f"such as 33T.*got {zone}$"):
        parse_zone(zone)


@pytest.mark.parametrize(
    ("zone", "hemisphere", "text"),
    [
        ("56", "S", "56 south"),
        ("56.0", "South", "56 south"),
        (56, -1, "56 south"),
        ("56S", "southern hemisphere", "56 south"),
        ("10S", "n", "10 north"),  # the band
        ("33", 1.0, "33 north"),
        ("33T", "N", "33 north"),
        ("33T", "", "33T"),
        (None, "N", None),
        ("33T", "NE", "33T"),  # another meaning
    ],
)
def test_a_hemisphere_completes_a_zone(zone, hemisphere, text):
    assert zone_with_hemisphere(zone, hemisphere) == text


@pytest.mark.parametrize(
    ("zone", "hemisphere", "latitude", "message"),
    [
        ("33T", "S", None, "33T is not in the hemisphere S"),
        ("56H", "north", None, "56H is not in the hemisphere north"),
        ("33", "E", None, "expected the hemisphere as N or S"),
        ("33", False, None, "expected the hemisphere as N or S"),
        (None, "S", 33.8568, "minus sign"),
        (None, 1, -33.8568, "not in the hemisphere 1"),
    ],
)
def test_hemispheres_that_contradict_zones_or_latitudes_are_refused(zone, hemisphere, latitude, message):
    with pytest.raises(ValueError, match=message):
        zone_with_hemisphere(zone, hemisphere, latitude)


@pytest.mark.parametrize("zone", ["56H", "56 south", "56N", "56S", "EPSG:32656"])
@pytest.mark.parametrize("has_degrees", [False, True])
def test_negative_northings_count_from_the_equator(zone, has_degrees):
    """PROJ and some exports write the south as negative northings, with either hemisphere in the zone."""
    degrees = {"latitude": -33.8568, "longitude": 151.2153} if has_degrees else {}
    place = Place("", utm_east=334_900.57, utm_north=6_252_288.75 - 10_000_000, utm_zone=zone, **degrees)
    complete = complete_places([place])[0]
    assert (complete.latitude, complete.longitude) == pytest.approx((-33.8568, 151.2153), abs=1e-5)
    assert complete_places([complete]) == [complete]
    assert distance_in_metres(complete, complete_places([Place("", -33.8568, 151.2153)])[0]) < 0.1


@pytest.mark.parametrize(
    ("east", "north", "zone"), [(5_820_000, 391_000, "33U"), (6_252_288, 334_900, "56H"), (4_172_758, 544_388, "10 n")]
)
def test_eastings_and_northings_in_the_wrong_order_are_named(east, north, zone):
    with pytest.raises(ValueError, match=r"a\.jpg: utm_east .* are swapped"):
        complete_places([Place("a.jpg", utm_east=float(east), utm_north=float(north), utm_zone=zone)])
