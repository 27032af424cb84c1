"""Maps: marks must be at their places, and a map must not need data from a server."""

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from d2vpr_hf.maps import BaseMap, MapMarks, Plane, TileSource
from d2vpr_hf.maps.drawing import HEIGHT, WIDTH, nice_length
from d2vpr_hf.maps.tiles import View
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import distance_in_metres, with_utm

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ElementTree.fromstring(svg.replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def degrees(latitude, longitude):
    return Place("", latitude=latitude, longitude=longitude)


def local(x, y):
    return Place("", x=x, y=y, frame="hall")


def positions(svg, kind):
    """Return the positions of the marks of a kind, in units of the drawing."""
    groups = [group for group in parse(svg).iter(f"{SVG}g") if group.get("class") == kind]
    return np.array([re.findall(r"-?[\d.]+", group.get("transform")) for group in groups], float)


def scale_of(svg):
    """Return the units of the drawing per metre, computed from the scale bar."""
    bar = next(group for group in parse(svg).iter(f"{SVG}g") if group.get("class") == "scale")
    number, unit = bar.find(f"{SVG}text").text.split()
    return float(re.search(r"H([\d.]+)", bar.find(f"{SVG}path").get("d")).group(1)) / (
        float(number) * {"m": 1, "km": 1e3}[unit]
    )


@pytest.mark.parametrize("latitude", [0.0, 46.35, -60.0])
def test_metres_of_the_plane_are_metres(latitude):
    """Mercator stretches by 1 / cos(latitude), which the plane must undo; to 1 %, because the earth is flattened."""
    places = [degrees(latitude, 11.0), degrees(latitude + 0.003, 11.0), degrees(latitude, 11.004)]
    points = Plane.of(places).project(places)
    for number in (1, 2):
        distance = distance_in_metres(places[0], places[number])
        assert math.dist(points[0], points[number]) == pytest.approx(distance, rel=0.01)
    assert points[1][1] > points[0][1] and points[2][0] > points[0][0]


def test_the_frame_is_that_of_most_places():
    assert Plane.of([]) is None and Plane.of([Place("a")]) is None
    assert Plane.of([degrees(10, 20), local(1, 2), degrees(11, 20)]).frame is None
    assert Plane.of([local(1, 2)] * 3 + [degrees(1, 2)]).frame == "the local frame hall"
    utm = Place("", utm_east=500000.0, utm_north=5000000.0, utm_zone="32T")
    assert Plane.of([utm]).frame is None and not np.isnan(Plane.of([utm]).project([utm])).any()
    assert np.isnan(Plane.of([local(1, 2)]).project([degrees(1, 2), Place("a")])).all()


def test_marks_are_at_their_places():
    """North is up, east is right, distances agree with the scale bar, and the circle has the estimate's radius."""
    database = [local(x, y) for x in range(0, 400, 40) for y in range(0, 200, 40)]
    marks = MapMarks([local(100, 100), local(200, 100)], local(150, 150), 50.0, local(100, 0))
    svg = BaseMap(database).draw(marks, "a map")
    matches, estimate, truth = (positions(svg, kind) for kind in ("match", "estimate", "truth"))
    first, second = matches[1], matches[0]  # the best match is drawn last, on top
    scale = scale_of(svg)
    assert np.allclose(second - first, [100 * scale, 0], atol=0.2) and np.allclose(truth[0] - first, [0, 100 * scale], atol=0.2)
    assert np.allclose(estimate[0] - first, [50 * scale, -50 * scale], atol=0.2)
    circle = next(element for element in parse(svg).iter(f"{SVG}circle") if element.get("class") == "radius")
    assert float(circle.get("r")) == pytest.approx(50 * scale, abs=0.2)
    assert parse(svg).get("aria-label") == "a map"


@pytest.mark.parametrize("reach", [10.0, 3000.0])
def test_all_marks_are_in_view(reach):
    database = [local(x, 0.0) for x in range(0, 5000, 50)]
    svg = BaseMap(database).draw(MapMarks([local(0, 0), local(reach, reach)], truth=local(-reach, 0)))
    marks = np.vstack([positions(svg, "match"), positions(svg, "truth")])
    assert (marks > 0).all() and (marks < [WIDTH, HEIGHT]).all()


def test_ways_join_neighbours_and_no_others():
    """Spots with four photos each, 40 m apart along two streets that are 200 m apart: ways must not join the streets."""
    spots = [(x, y) for x in range(0, 400, 40) for y in (0, 200)]
    places = [local(x + dx, y + dy) for x, y in spots for dx in (0, 0.5) for dy in (0, 0.5)]
    ways = BaseMap(places).ways
    lengths = np.linalg.norm(ways[:, 0] - ways[:, 1], axis=1)
    assert len(ways) == 18 and np.allclose(lengths, 40, atol=1)


def test_a_large_database_is_thinned():
    points = np.random.default_rng(0).uniform(0, 1e4, (20_000, 2))
    base = BaseMap([local(x, y) for x, y in points])
    assert 500 < len(base.points) <= 2500 and len(base.draw()) < 700_000


def test_a_map_without_positions_is_empty_and_one_position_is_enough():
    assert BaseMap([Place("a")]).draw() == ""
    svg = BaseMap([degrees(46.0, 11.0)]).draw()
    assert scale_of(svg) > 0 and positions(svg, "match").size == 0
    assert positions(BaseMap([degrees(46.0, 11.0)]).draw(MapMarks([Place("nowhere")])), "match").size == 0


@pytest.mark.parametrize(("metres", "nice"), [(1.0, 1.0), (1.99, 1.0), (2.0, 2.0), (49.9, 20.0), (50.0, 50.0), (999.0, 500.0)])
def test_lengths_are_rounded_down_to_one_two_or_five(metres, nice):
    assert nice_length(metres) == pytest.approx(nice)


def test_nothing_is_fetched_without_tiles():
    svg = BaseMap([degrees(46.0, 11.0), degrees(46.001, 11.0)]).draw(MapMarks([degrees(46.0, 11.0)]), "x")
    assert "<image" not in svg and "http" not in svg


def test_tiles_are_at_the_positions_of_the_web_map():
    """The tile that contains a place, by the formula of web maps, must cover the place's mark."""
    place, tiles = degrees(46.3493, 11.5191), TileSource("https://tiles.example/{z}/{x}/{y}.png", "the owner")
    svg = BaseMap([place, degrees(46.3523, 11.5241)], tiles).draw(MapMarks([place]))
    images = {tuple(map(int, re.findall(r"/(\d+)", image.get("href")))): image for image in parse(svg).iter(f"{SVG}image")}
    zoom = next(iter(images))[0]
    x = math.floor((place.longitude + 180) / 360 * 2**zoom)
    y = math.floor((1 - math.asinh(math.tan(math.radians(place.latitude))) / math.pi) / 2 * 2**zoom)
    left, top, width, height = (float(images[zoom, x, y].get(name)) for name in ("x", "y", "width", "height"))
    across, down = positions(svg, "match")[0]
    assert left <= across <= left + width and top <= down <= top + height and len(images) <= 36


def test_tiles_need_an_https_template_and_positions_in_degrees():
    with pytest.raises(ValueError, match="Expected tiles as https"):
        TileSource("http://host/tile.png", "")
    assert BaseMap([local(0, 0)], TileSource("https://h/{z}/{x}/{y}", "a")).tiles is None
    plane = Plane.of([degrees(46, 11)])
    assert TileSource("https://h/{z}/{x}/{y}?a=1&b=2", "a").draw(plane, View(0, 0, 1e7, 1e7), 1).count("&amp;b=2") <= 36


# ---- date line, poles, two cities, several frames


@pytest.mark.parametrize(
    ("latitude", "longitudes", "width"),
    [
        (-16.8, (179.9990, 179.9999, -179.9999, -179.9990), 213),  # Fiji
        (64.0, (179.99, -179.98), 1463),  # Chukotka
        (0.0, (-0.001, 0.001), 222),  # the meridian of Greenwich stays in the middle
        (52.0, (175.0, -170.0), 1_029_000),  # the Aleutians
        (-40.0, (-10.0, 10.0), 1_706_000),
    ],
)
def test_a_map_is_as_wide_as_its_places(latitude, longitudes, width):
    """Metres of a parallel by hand: 111.32 km times the cosine of the latitude for each degree."""
    places = [degrees(latitude, longitude) for longitude in longitudes]
    x = Plane.of(places).project(places)[:, 0]
    assert x[-1] - x[0] == pytest.approx(width, rel=0.005) and (np.diff(x) > 0).all()


def test_marks_over_the_date_line_are_in_view_and_at_their_distances():
    database = [degrees(-16.8, longitude) for longitude in (179.998, 179.999, 180.0, -180.0, -179.999, -179.998)]
    utm_only = replace(with_utm(degrees(-16.8, -179.999)), latitude=None, longitude=None)
    base = BaseMap(database)
    assert np.ptp(base.points[:, 0]) == pytest.approx(426, abs=2) and len(base.ways) >= 2
    svg = base.draw(MapMarks([degrees(-16.8, 179.999), utm_only], degrees(-16.8, 180.0), 50.0))
    matches, estimate = positions(svg, "match"), positions(svg, "estimate")
    assert (matches > 0).all() and (matches < [WIDTH, HEIGHT]).all()
    assert abs(matches[0][0] - matches[1][0]) / scale_of(svg) == pytest.approx(213, rel=0.01)
    assert estimate[0][0] == pytest.approx(matches[:, 0].mean(), abs=0.2)


@pytest.mark.parametrize("latitude", [89.999, -88.0, 85.5])
def test_places_near_a_pole_are_drawn_at_their_distances(latitude):
    """The Mercator projection ends before the poles; here maps show directions and distances from their middle."""
    places = [degrees(latitude, longitude) for longitude in (0.0, 0.4, 90.0, 180.0)]
    tiles = TileSource("https://tiles.example/{z}/{x}/{y}.png", "the owner")
    plane, base = Plane.of(places), BaseMap(places, tiles)
    points = plane.project(places)
    for first, second in ((0, 1), (0, 2), (0, 3), (2, 3)):
        distance = distance_in_metres(places[first], places[second])
        assert math.dist(points[first], points[second]) == pytest.approx(distance, rel=0.01)
    assert base.tiles is None and "match" in base.draw(MapMarks(places[:2]))


def test_scale_and_radius_fit_the_city_in_view():
    """Oslo and Nairobi on one map: the Mercator projection draws a metre in Oslo twice as long as one in Nairobi."""
    oslo, nairobi = degrees(59.91, 10.75), degrees(-1.29, 36.82)
    base = BaseMap([oslo, nairobi])
    for city in (oslo, nairobi):
        north = replace(city, latitude=city.latitude + 0.001)  # 111.3 m
        svg = base.draw(MapMarks([city, north], city, 50.0))
        marks = positions(svg, "match")
        assert np.linalg.norm(marks[0] - marks[1]) / scale_of(svg) == pytest.approx(111.3, rel=0.01)
        circle = next(element for element in parse(svg).iter(f"{SVG}circle") if element.get("class") == "radius")
        assert float(circle.get("r")) / scale_of(svg) == pytest.approx(50, rel=0.01)


def test_tiles_continue_over_the_date_line():
    places = [degrees(-16.8, 179.999), degrees(-16.8, -179.999)]
    svg = BaseMap(places, TileSource("https://tiles.example/{z}/{x}/{y}.png", "the owner")).draw()
    images = [tuple(map(int, re.findall(r"/(\d+)", image.get("href")))) for image in parse(svg).iter(f"{SVG}image")]
    columns = {column for _, column, _ in images}
    last = 2 ** images[0][0] - 1
    assert {0, last} <= columns and all(0 <= column <= last for column in columns)


def test_tiles_end_where_the_web_map_ends():
    places = [degrees(83.9, 10.0), degrees(-83.9, 10.0)]
    svg = BaseMap(places, TileSource("https://tiles.example/{z}/{x}/{y}.png", "the owner")).draw()
    for image in parse(svg).iter(f"{SVG}image"):
        zoom, _, row = map(int, re.findall(r"/(\d+)", image.get("href")))
        assert 0 <= row < 2**zoom


def test_photos_and_marks_of_other_frames_are_counted():
    base = BaseMap([degrees(46.0, 11.0), degrees(46.001, 11.0), local(1, 2), Place("nowhere")])
    assert base.num_hidden == 1
    assert base.hidden_text() == "Not drawn, as their positions are in other frames: 1 photo."
    marks = MapMarks([degrees(46.0, 11.0), local(1, 2), local(3, 4), Place("nowhere")])
    assert base.hidden_text(marks) == "Not drawn, as their positions are in other frames: 1 photo, 2 marks."
    assert parse(base.draw(marks, "A map.")).get("aria-label").startswith("A map. Not drawn, as")
    assert BaseMap([local(1, 2)]).hidden_text(MapMarks([local(1, 2)])) == ""


def test_photos_and_marks_beyond_web_maps_are_counted():
    base = BaseMap([degrees(60.0, 11.0), degrees(60.001, 11.0), degrees(85.5, 11.0), degrees(-89.0, 0.0), local(1, 2)])
    text = "Not drawn, as web maps end at 85 degrees of latitude: 2 photos"
    assert base.hidden_text() == f"Not drawn, as their positions are in other frames: 1 photo. {text}."
    assert base.hidden_text(MapMarks([degrees(86.0, 0.0)])).endswith(f"{text}, 1 mark.")


@pytest.mark.parametrize(
    ("places", "is_north_up"),
    [
        ([degrees(46.0, 11.0)], True),
        ([Place("", utm_east=100.0, utm_north=200.0, utm_zone="10S")], True),
        ([degrees(89.99, 11.0)], False),  # every direction is south
        ([local(1, 2)], False),
        ([Place("", utm_east=100.0, utm_north=200.0)], False),
    ],
)
def test_an_arrow_shows_north_only_where_it_is_up(places, is_north_up):
    assert ('class="north"' in BaseMap(places).draw()) == is_north_up
