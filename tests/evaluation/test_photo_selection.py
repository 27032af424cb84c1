"""Positions and frames of two sides are compared in common coordinates, or refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.evaluation import PhotoSet, PositiveRule, evaluate_descriptors
from d2vpr_hf.evaluation.photo_selection import select_photos
from d2vpr_hf.evaluation.plots import plot_map
from d2vpr_hf.evaluation.positives import photo_distances
from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import distances_in_frames, frame_points
from d2vpr_hf.places.place import all_with_utm
from d2vpr_hf.readers import PlaceTable

METRES_PER_DEGREE = math.pi / 180 * 6_371_008.8


def table(*places):
    return PlaceTable(Path("photos"), all_with_utm(places), "csv")


def degrees(*positions):
    return table(*(Place(f"{row}.jpg", latitude, longitude) for row, (latitude, longitude) in enumerate(positions)))


def local(*positions):
    places = [Place(f"{row}.jpg", x=x, y=y, z=z, frame=frame) for row, (frame, x, y, z) in enumerate(positions)]
    return table(*places)


def positives_of(database, queries, rule=None):
    """Return the database rows of each query's positives."""
    rule = rule or PositiveRule()
    sides = select_photos(database, queries, rule)
    found = rule.find(sides[0].photos, sides[1].photos)
    return [sorted(found[query].tolist()) for query in range(len(found))], sides


@pytest.mark.parametrize(
    ("name", "latitude", "longitude"),
    [
        ("London, Greenwich", 51.48, 0.0),
        ("Stockholm, zones 33 and 34", 59.33, 18.0),
        ("Ålesund, where zone 32 is widened", 62.47, 6.0),
        ("the date line in Fiji", -16.8, 180.0),
        ("the equator in Kampala", 0.0, 32.6),
        ("the equator at Greenwich", 0.0, 0.0),
        ("beyond UTM's zones", 84.0, 12.0),
    ],
)
def test_positives_and_distances_across_borders(name, latitude, longitude):
    """Photos 10 m on each side of a border are 20 m apart, or 20 m times the root of 2 at a corner."""
    north = 10 / METRES_PER_DEGREE
    east = north / math.cos(math.radians(latitude))
    wrapped = [(longitude + step + 180) % 360 - 180 for step in (-east, east)]
    database = degrees((latitude + north, wrapped[0]), (latitude + north, wrapped[1]), (latitude - north, wrapped[0]))
    queries = degrees(
        (latitude + north, wrapped[1]), (latitude - north, wrapped[1]), (latitude - north, (longitude + 90) % 180)
    )
    rows, sides = positives_of(database, queries)
    assert rows == [[0, 1], [1, 2], []]
    assert sides[0].photos.in_degrees
    distances = photo_distances(sides[1].photos, np.array([0, 0, 0]), sides[0].photos, np.array([0, 1, 2]))
    assert distances == pytest.approx([20, 0, 20 * math.sqrt(2)], abs=0.01)


def test_photos_around_a_pole_are_near():
    """All longitudes meet there; UTM does not reach it."""
    near = 89.9999
    rows, sides = positives_of(degrees((near, 0), (near, 120), (80, 120)), degrees((near, -120), (near, 175)))
    assert rows == [[0, 1], [0, 1]]
    assert PositiveRule().group(sides[1].photos).shape == (2,)


def test_cities_of_two_continents_are_evaluated_together():
    """Copenhagen next to San Francisco, as in MSLS: each query has positives in its own city only."""
    cities = [(55.67, 12.56), (37.77, -122.42), (-33.87, 151.21)]
    rows, sides = positives_of(degrees(*cities), degrees(*[(latitude + 1e-4, longitude) for latitude, longitude in cities]))
    assert rows == [[0], [1], [2]]
    far = photo_distances(sides[1].photos, np.array([0]), sides[0].photos, np.array([1]))
    assert far == pytest.approx(distances_in_frames(frame_points([sides[1].places[0], sides[0].places[1]]), 2)[0, 1])
    assert PositiveRule().group(sides[1].photos).tolist() in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2])


def test_one_zone_stays_in_its_plane():
    """Published numbers are of planes: the coordinates are exactly UTM's."""
    database, queries = degrees((48.1, 11.5), (48.2, 11.6)), degrees((48.1, 11.5))
    rows, sides = positives_of(database, queries)
    assert rows == [[0]]
    assert not sides[0].photos.in_degrees
    assert sides[0].photos.positions.tolist() == [[place.utm_east, place.utm_north] for place in database.places]


def test_utm_with_zones_alone_is_compared_with_degrees():
    """The same corner of London, once as UTM of its zone, once as degrees of the next one."""
    corner = all_with_utm([Place("a", 51.48, -1e-5)])[0]
    database = table(Place("a.jpg", utm_east=corner.utm_east, utm_north=corner.utm_north, utm_zone=corner.utm_zone))
    assert positives_of(database, degrees((51.48, 1e-5)))[0] == [[0]]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(-90, 90), st.floats(-180, 180), st.floats(5, 5000))
def test_positives_on_the_sphere_equal_brute_force(seed, latitude, longitude, radius):
    rng = np.random.default_rng(seed)
    spread = 1.5 * radius / METRES_PER_DEGREE
    latitudes = np.clip(latitude + rng.normal(0, spread, 24), -90, 90)
    longitudes = longitude + rng.normal(0, spread, 24) / max(math.cos(math.radians(latitude)), 1e-3)
    places = np.column_stack([latitudes, (longitudes + 180) % 360 - 180])
    sides = PhotoSet(places[:16], in_degrees=True), PhotoSet(places[16:], in_degrees=True)
    positives = PositiveRule(radius).find(*sides)
    metres = distances_in_frames(frame_points([Place("a", *row) for row in places.tolist()]), len(places))[16:, :16]
    for query in range(8):
        clear = np.abs(metres[query] - radius) > 1e-3
        near = np.isin(np.arange(16), positives[query])
        assert (near == (metres[query] <= radius))[clear].all()


def test_places_on_the_sphere_are_cells_of_about_the_threshold():
    """A drive of 500 m over Greenwich has 20 cells of 25 m, or one more; the same at any latitude and over the date line."""
    for latitude in (0.0, 51.48, -70.0, 85.0):
        for middle in (0.0, 180.0):
            steps = (np.arange(500) - 250 + 0.5) / METRES_PER_DEGREE / math.cos(math.radians(latitude))
            drive = np.column_stack([np.full(500, latitude + 1e-5), (middle + steps + 180) % 360 - 180])
            places = PositiveRule().group(PhotoSet(drive, in_degrees=True))
            assert 20 <= len(set(places.tolist())) <= 22


def test_places_of_several_local_frames_are_compared_within_each():
    database = local(("hall", 0, 0, None), ("roof", 0, 0, None), ("roof", 500, 0, None))
    queries = local(("roof", 1, 0, None), ("hall", 2, 0, None), ("cellar", 0, 0, None))
    rows, sides = positives_of(database, queries)
    assert rows == [[1], [0], []]
    distances = photo_distances(sides[1].photos, np.array([0, 1]), sides[0].photos, np.array([2, 2]))
    assert distances.tolist() == [499, math.inf]
    assert len(set(PositiveRule().group(sides[1].photos).tolist())) == 3


def test_matches_in_another_frame_count_as_far():
    """The median of errors does not ignore the worst ones."""
    photos = [PhotoSet(np.zeros((4, 2)), regions=list(names)) for names in ("aabb", "abbb")]
    evaluation = evaluate_descriptors(np.eye(4), np.eye(4)[[0, 1, 0, 0]], *photos)
    assert [query.distance for query in evaluation.queries] == [0, None, None, None]
    assert evaluation.distance_error() == {"median": None, "within_5_m": 0.25, "within_25_m": 0.25, "within_100_m": 0.25}
    assert "median distance unknown" in evaluation.to_text()
    with pytest.raises(ValueError, match="in one frame"):
        plot_map(evaluation)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (table(Place("m.jpg", utm_east=5e5, utm_north=5e6)), "0.jpg is in degrees, m.jpg in UTM metres without a zone"),
        (local(("hall", 0, 0, 0)), "0.jpg is in degrees, 0.jpg in the local frame hall"),
    ],
)
def test_positions_of_different_kinds_are_refused(queries, message):
    with pytest.raises(ValueError, match=message):
        select_photos(degrees((51.5, 0.1)), queries, PositiveRule())


def test_heights_on_one_side_are_not_compared():
    """The map is 30 m high, and a query without a height is near both floors; one with a height is near one."""
    database = local(("hall", 0, 0, 30.0), ("hall", 3, 4, 90.0), ("hall", 50, 0, 30.0))
    queries = local(("hall", 0, 0, None), ("hall", 0, 0, 31.0), ("hall", 0, 0, 55.0))
    rows, sides = positives_of(database, queries)
    assert rows == [[0, 1], [0], [0]]
    assert [str(remark) for remark in sides[1].remarks] == [
        "Assumed: 1 photos without a height, whose positions are compared in the plane, such as 0.jpg."
    ]
    assert sides[0].remarks == ()
    distances = photo_distances(sides[1].photos, np.array([0, 1]), sides[0].photos, np.array([1, 1]))
    assert distances == pytest.approx([5, math.hypot(5, 59)])
    for missing in (database, queries):
        plain = local(("hall", 0, 0, None), ("hall", 3, 4, None))
        other = positives_of(plain, missing)[0] if missing is queries else positives_of(missing, plain)[0]
        assert other == ([[0, 1]] * 3 if missing is queries else [[0, 1]] * 2)


def test_headings_from_north_are_not_compared_with_yaws():
    """Both are degrees, of different directions: as numbers they would be equal."""
    north, yaw = Place("north.jpg", x=0, y=0, frame="hall", heading=90.0), Place("yaw.jpg", x=0, y=0, frame="hall", yaw=90.0)
    both = replace(yaw, path="both.jpg", heading=0.0)
    rule = PositiveRule(heading_tolerance=5)
    for database, queries in (((north,), (yaw,)), ((yaw, north), (yaw,)), ((both,), (yaw, north))):
        with pytest.raises(ValueError, match=r"compares headings .*; north.jpg has only a heading, yaw.jpg only a yaw"):
            select_photos(table(*database), table(*queries), rule)
    assert positives_of(table(both), table(yaw), rule)[0] == [[0]]
    assert positives_of(table(both), table(north), rule)[0] == [[]]


def test_places_without_any_heights_need_no_remark():
    _, sides = positives_of(local(("a", 0, 0, None)), local(("a", 0, 0, None)))
    assert sides[0].remarks == sides[1].remarks == ()
    assert sides[0].photos.positions.tolist() == [[0, 0, 0]]


def sequence(*names):
    return PlaceTable(Path("photos"), [Place(name) for name in names], "none")


def numbered(pattern, numbers):
    return sequence(*sorted(pattern.format(number) for number in numbers))


@pytest.mark.parametrize(
    "pattern",
    [
        "{:06d}.jpg",
        "frame{}.png",
        "2024-05-01_{:06d}.jpg",
        "cam0/{:06d}.jpg",
        "img_{:04d}_v2.jpg",
        "a/{}/rgb.png",
        "{:04d}_left.jpg",
    ],
)
def test_frames_with_gaps_are_paired_by_number(pattern):
    """Frame 3 is missing in the database, and frames 7 and 9 among the queries."""
    database = numbered(pattern, [n for n in range(12) if n != 3])
    queries = numbered(pattern.replace("2024-05-01", "2023-12-24"), [n for n in range(12) if n not in (7, 9)])
    rule = PositiveRule(frame_tolerance=0)
    if "/rgb" in pattern:  # each folder is a sequence of one photo without a number
        with pytest.raises(ValueError, match="because not all names have a number of their own"):
            positives_of(database, queries, rule)
        return
    rows, sides = positives_of(database, queries, rule)
    names = [[path.rsplit("_", 1)[-1] if "2024" in pattern else path for path in side.photos.paths] for side in sides]
    assert rows == [[names[0].index(name)] if name in names[0] else [] for name in names[1]]
    assert sides[1].remarks == ()


def test_folders_are_sequences_of_their_own():
    database = sequence("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    queries = sequence("a/2.jpg", "b/1.jpg", "b/9.jpg")
    assert positives_of(database, queries, PositiveRule(frame_tolerance=0))[0] == [[1], [2], []]
    assert positives_of(database, queries, PositiveRule(frame_tolerance=1))[0] == [[0, 1], [2, 3], []]


@pytest.mark.parametrize("gap", [False, True])
def test_the_folder_of_a_whole_side_does_not_name_a_sequence(gap):
    """As Nordland's seasons, each with the same sections."""
    database = sequence("winter/a/1.png", "winter/a/2.png", "winter/b/1.png", "winter/b/2.png")
    queries = sequence(*["summer/a/2.png", "summer/b/1.png", "summer/b/2.png"][: 2 if gap else 3])
    rows, sides = positives_of(database, queries, PositiveRule(frame_tolerance=0))
    assert rows == [[1], [2], [3]][: len(queries.places)] and sides[1].remarks == ()


def test_a_query_sequence_alone_is_that_of_its_folder():
    database = sequence("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    assert positives_of(database, sequence("b/1.png", "b/2.png"), PositiveRule(frame_tolerance=0))[0] == [[2], [3]]
    outside = sequence("/far/b/1.png", "b/2.png")
    assert positives_of(database, outside, PositiveRule(frame_tolerance=0))[0] == [[], [3]]


@pytest.mark.parametrize(
    ("database", "queries", "expected"),
    [
        (["f_-2.jpg", "f_0.jpg", "f_1.jpg"], ["f_-1.jpg", "f_0.jpg", "f_1.jpg"], [[], [1], [2]]),
        (["-2.jpg", "-1.jpg", "2.jpg"], ["-1.jpg", "-2.jpg"], [[1], [0]]),
        (["img-2.jpg", "img-10.jpg"], ["shot_2.jpg", "shot_10.jpg"], [[0], [1]]),  # a hyphen, not a sign
        (["images-00009.png", "images-00010.png"], ["images-9.png"], [[0]]),
        (["1_1000.jpg", "2_2000.jpg", "3_3000.jpg"], ["2_6000.jpg", "3_7000.jpg"], [[1], [2]]),  # times behind numbers
        (["cam1_0009.jpg", "cam1_0010.jpg"], ["cam2_10.jpg"], [[1]]),
    ],
)
def test_the_number_that_aligns_the_names_is_taken(database, queries, expected):
    rows, sides = positives_of(sequence(*database), sequence(*queries), PositiveRule(frame_tolerance=0))
    assert rows == expected and sides[1].remarks == ()


def test_even_and_odd_frames_are_near_each_other():
    rule = PositiveRule(frame_tolerance=1)
    rows, _ = positives_of(numbered("{}.jpg", [0, 2, 4]), numbered("{}.jpg", [1, 3, 5]), rule)
    assert rows == [[0, 1], [1, 2], [2]]


def test_a_subset_of_the_frames_may_be_the_database():
    """Every tenth frame: nine of ten queries have no positive by number, and order cannot pair them."""
    rows, _ = positives_of(
        numbered("{:03d}.jpg", range(0, 50, 10)), numbered("{:03d}.jpg", range(50)), PositiveRule(frame_tolerance=0)
    )
    assert [query for query, positives in enumerate(rows) if positives] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("database", "queries", "reason"),
    [
        (["day.jpg", "night.jpg"], ["rain.jpg", "sun.jpg"], "because not all names have a number of their own"),
        (["a1.jpg", "b1.jpg"], ["a1.jpg", "b1.jpg"], "because not all names have a number of their own"),
        (
            ["1403636579763555584.png", "1403636579813555456.png"],
            ["1403637130538319104.png", "1403637130588318976.png"],
            "because their numbers do not occur in the database",
        ),
        (["1.jpg", "2.jpg"], ["1001.jpg", "1002.jpg"], "because their numbers do not occur in the database"),
        (["123456789012345678901.jpg", "2.jpg"], ["1.jpg", "2.jpg"], "because not all names have a number of their own"),
    ],
)
def test_order_pairs_photos_without_common_numbers_and_is_said(database, queries, reason):
    rows, sides = positives_of(sequence(*database), sequence(*queries), PositiveRule(frame_tolerance=0))
    assert rows == [[0], [1]] or rows == [[1], [0]]
    assert [remark.text for remark in sides[1].remarks] == [
        f"photos that are paired with the database in the order of their names, {reason}"
    ]
    with pytest.raises(ValueError, match=r"belong to the n-th database photo, because .*got 3 and 2"):
        positives_of(sequence(*database, "c.jpg"), sequence(*queries), PositiveRule(frame_tolerance=0))


def test_times_of_one_clock_are_numbers():
    """Nanoseconds of two cameras on one clock, of more digits than a float64 holds."""
    names = [f"{1403636579763555584 + 50_000_001 * n}.png" for n in range(5)]
    assert positives_of(sequence(*names), sequence(*names[1:]), PositiveRule(frame_tolerance=0))[0] == [[1], [2], [3], [4]]


def test_the_map_of_degrees_is_drawn_over_the_date_line():
    photos = [PhotoSet(np.array([[-16.8, 179.999], [-16.8, -179.999]]), in_degrees=True) for _ in range(2)]
    evaluation = evaluate_descriptors(np.eye(2), np.eye(2)[::-1], *photos)
    axes = plot_map(evaluation).axes[0]
    line = axes.collections[1].get_segments()[0] if len(axes.collections) > 1 else axes.collections[0].get_segments()[0]
    assert axes.get_xlabel() == "longitude / °"
    spans = [
        np.ptp(segment[:, 0]) for collection in axes.collections for segment in getattr(collection, "get_segments", list)()
    ]
    assert max(spans) == pytest.approx(0.002) and len(line) == 2
    assert evaluation.distance_error()["median"] == pytest.approx(
        0.002 * METRES_PER_DEGREE * math.cos(math.radians(16.8)), rel=1e-6
    )
