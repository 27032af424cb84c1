"""The check of a map: planted faults of every kind are found, in degrees and in local frames, and nothing else is."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.index import IndexSettings, PlaceIndex
from d2vpr_hf.map_check import check_map, pair_model
from d2vpr_hf.map_check import neighbours as neighbours_module
from d2vpr_hf.map_check.evidence import weigh_evidence
from d2vpr_hf.map_check.neighbours import find_neighbours
from d2vpr_hf.map_check.page import to_page
from d2vpr_hf.map_check.pair_model import LogisticModel
from d2vpr_hf.map_check.positions import AreaGrid, MapPositions
from d2vpr_hf.map_check.report import _line, wilson_interval
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import distance_in_metres, with_utm

NUM_PLACES, VISITS = 40, 4
DIM = 24
MOVED, ALONE = 5, 20
ALIAS = (10, 30)


def make_rows(local=False):
    """Return descriptors and places of 40 places, 100 m apart in rows of eight, with four photos each.

    One photo of place 5 has the position of place 36; places 10 and 30 look alike; place 20 has one photo.
    """
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(NUM_PLACES, DIM))
    looks[ALIAS[1]] = looks[ALIAS[0]] + 0.1 * rng.normal(size=DIM)
    descriptors, places = [], []
    for place in range(NUM_PLACES):
        for visit in range(1 if place == ALONE else VISITS):
            at = 36 if (place, visit) == (MOVED, 1) else place
            x, y = 100.0 * (at % 8) + visit, 100.0 * (at // 8)
            descriptors.append(looks[place] + 0.3 * rng.normal(size=DIM))
            path = f"{place:02d}-{visit}.jpg"
            if local:
                places.append(Place(path, x=x, y=y, z=0.0, frame="hall"))
            else:
                places.append(with_utm(Place(path, latitude=47.0 + y / 111_195, longitude=8.0 + x / 75_834)))
    rows = np.array(descriptors, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), places


def make_index(folder, descriptors, places, photos="."):
    settings = IndexSettings("m", "f" * 64, descriptors.shape[1], photo_folder=folder / photos, dtype="float32")
    with PlaceIndex.create(folder / "index", settings) as index:
        index.add(descriptors, places)
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("map"), *make_rows())


@pytest.fixture(scope="module")
def report(index):
    return check_map(index)


def test_the_photo_with_a_wrong_position_is_found_and_its_position_is_suggested(report):
    (photo,) = report.misplaced
    assert photo.place.path == "05-1.jpg" and len(photo.agreeing) >= 2
    truth = next(place for place in make_rows()[1] if place.path == "05-0.jpg")
    assert distance_in_metres(photo.suggested, truth) < 5
    assert {place.path for place in photo.agreeing} <= {"05-0.jpg", "05-2.jpg", "05-3.jpg"}
    assert photo.distance == pytest.approx(distance_in_metres(photo.place, photo.suggested))


def test_look_alikes_are_ambiguous_and_nothing_else_is(report):
    """Ten is (200, 100), thirty is (600, 300): 447 m apart."""
    pairs = {tuple(sorted({pair.first.path[:2], pair.second.path[:2]})) for pair in report.pairs}
    assert pairs == {("10", "30")} and report.num_pairs == len(report.pairs)
    assert all(440 < pair.distance < 455 for pair in report.pairs)
    assert report.ambiguous == 2 * VISITS


def test_the_place_with_one_photo_is_sparse(report):
    assert report.alone == 1 and [area.photos for area in report.areas if area.is_sparse] == [1]


def test_counts_agree_with_a_loop_over_all_pairs(report):
    descriptors, places = make_rows()
    similarities = descriptors @ descriptors.T
    np.fill_diagonal(similarities, -1)
    nearest = similarities.argmax(axis=1)
    near = [distance_in_metres(place, places[row]) <= 25 for place, row in zip(places, nearest, strict=True)]
    assert report.correct == sum(near)
    with_second = report.checked - report.alone
    assert report.reliability == sum(near) / with_second
    assert sum(area.photos for area in report.areas) == report.checked == len(places)
    assert sum(area.correct for area in report.areas) == report.correct


def test_a_local_frame_gives_the_same_findings(tmp_path, report):
    local = check_map(make_index(tmp_path, *make_rows(local=True)))
    assert [photo.place.path for photo in local.misplaced] == ["05-1.jpg"]
    assert local.ambiguous == report.ambiguous and local.num_pairs == report.num_pairs
    features = json.loads(local.to_geojson())["features"]
    assert {feature["geometry"] for feature in features} == {None}  # the hall is nowhere on the globe


def test_photos_in_another_frame_do_not_count_as_far(tmp_path):
    """The photos of even visits are in one frame and the others in another: two of each place stay near each other."""
    descriptors, places = make_rows(local=True)
    halves = [replace(place, frame="even" if int(place.path[3]) % 2 == 0 else "odd") for place in places]
    report = check_map(make_index(tmp_path, descriptors, halves), num_neighbours=8)
    assert report.alone == 2  # the place of one photo, and the second odd visit of the place whose first one was moved
    assert report.correct == len(places) - report.alone - 1  # the moved photo


def test_floors_above_each_other_are_apart(tmp_path):
    descriptors, places = make_rows(local=True)
    upper = [replace(place, path=f"u{place.path}", z=200.0) for place in places]
    report = check_map(make_index(tmp_path, np.concatenate([descriptors, -descriptors]), [*places, *upper]))
    assert report.alone == 2


def test_heights_that_are_not_known_leave_photos_near_each_other(tmp_path):
    """Of each place, one photo has a height of 500 m and the others none: they are compared in the plane, as everywhere."""
    descriptors, places = make_rows(local=True)
    mixed = [replace(place, z=500.0 if place.path.endswith("-0.jpg") else None) for place in places]
    report = check_map(make_index(tmp_path, descriptors, mixed))
    assert report.alone == 1 and report.correct <= report.checked - report.alone
    positions = MapPositions.of(mixed)
    rows = np.arange(len(mixed))
    distances = positions.distances(rows[:, None], rows)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(positions.to_nearest(), distances.min(axis=1))


def test_geojson_ends_at_the_date_line(tmp_path):
    """RFC 7946, 3.1.9: longitudes stay within 180 degrees, and lines are cut; a pair from 179.99 to -179.98 at a third."""
    descriptors, places = make_rows()
    at_edge = [
        Place(place.path, latitude=0.001 * number, longitude=179.99999 * (1 if number % 2 else -1))
        for number, place in enumerate(places)
    ]
    features = json.loads(check_map(make_index(tmp_path, descriptors, at_edge)).to_geojson())["features"]
    squares = [feature["geometry"]["coordinates"][0] for feature in features if feature["properties"]["kind"] == "area"]
    assert squares and all(abs(longitude) <= 180 for square in squares for longitude, _ in square)
    line = _line(Place("a", latitude=10.0, longitude=179.99), Place("b", latitude=13.0, longitude=-179.98))
    assert line["type"] == "MultiLineString"
    first, second = line["coordinates"]
    assert first == [[179.99, 10.0], [180.0, pytest.approx(11.0)]] and second == [
        [-180.0, pytest.approx(11.0)],
        [-179.98, 13.0],
    ]


def test_geojson_has_the_kinds_with_degrees(report):
    features = json.loads(report.to_geojson())["features"]
    kinds = [feature["properties"]["kind"] for feature in features]
    assert set(kinds) == {"area", "pair", "misplaced"} and kinds.count("area") == len(report.areas)
    square = next(feature["geometry"]["coordinates"][0] for feature in features if feature["properties"]["kind"] == "area")
    assert square[0] == square[-1] and len(square) == 5
    assert all(46.9 < latitude < 47.1 and 7.9 < longitude < 8.1 for longitude, latitude in square)


def test_a_map_with_one_photo_of_each_place_is_not_judged(tmp_path):
    descriptors, places = make_rows()
    single = [row for row, place in enumerate(places) if place.path.endswith("-0.jpg")]
    report = check_map(make_index(tmp_path, descriptors[single], [places[row] for row in single]))
    assert report.alone == NUM_PLACES and "near each other" in report.not_judged
    assert not report.misplaced and not report.pairs and "Not judged" in report.to_text()


def test_photos_near_each_other_that_do_not_resemble_are_not_judged(tmp_path):
    places = [Place(f"{row}.jpg", x=100.0 * (row // 8), y=0.0, frame="f") for row in range(400)]
    descriptors = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    report = check_map(make_index(tmp_path, descriptors, places))
    assert "second visit" in report.not_judged and report.confirmed == report.ambiguous == 0


def test_photos_without_a_position_are_counted(tmp_path):
    descriptors, places = make_rows()
    places[0] = Place(places[0].path)
    report = check_map(make_index(tmp_path, descriptors, places))
    assert report.unplaced == 1 and report.checked == len(places) - 1
    assert "1 have no position" in report.to_text()


def test_a_large_map_is_checked_in_drawn_areas(index, report):
    drawn = check_map(index, max_photos=60)
    assert 40 < drawn.checked <= 60 and "not drawn" in drawn.to_text()
    assert sum(area.photos for area in drawn.areas) == drawn.checked
    whole = {area.example.path: area.photos for area in report.areas}
    assert all(whole[area.example.path] == area.photos for area in drawn.areas)  # areas are drawn as a whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive_dist_threshold": 0}, "above 0"),
        ({"far": 10}, "at least `positive_dist_threshold`"),
        ({"area": -1}, "`area`"),
        ({"min_confidence": 2}, "within 0 and 1"),
        ({"num_neighbours": 1}, "at least 2"),
    ],
)
def test_wrong_arguments_are_refused(index, options, message):
    with pytest.raises(ValueError, match=message):
        check_map(index, **options)


def test_a_map_without_positions_is_refused(tmp_path):
    descriptors, places = make_rows()
    with pytest.raises(ValueError, match="0 of the 157 photos"):
        check_map(make_index(tmp_path, descriptors, [Place(place.path) for place in places]))


def test_wide_descriptors_have_almost_the_same_neighbours(monkeypatch):
    """The candidates of principal components, rescored, against all products."""
    rng = np.random.default_rng(2)
    looks = np.repeat(rng.normal(size=(50, 64)), 6, axis=0) + 0.5 * rng.normal(size=(300, 64))
    wide = (looks @ rng.normal(size=(64, 200))).astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    monkeypatch.setattr(neighbours_module, "NUM_COMPONENTS", 32)
    neighbours = find_neighbours(wide, 5)
    similarities = wide @ wide.T
    np.fill_diagonal(similarities, -1)
    expected = np.argsort(-similarities, axis=1)[:, :5]
    assert (neighbours.rows == expected).mean() > 0.99
    np.testing.assert_allclose(neighbours.similarities, np.take_along_axis(similarities, neighbours.rows, 1), atol=1e-5)


def test_a_photo_is_never_its_own_neighbour():
    """Also not among more equal photos than neighbours."""
    equal = np.ones((40, 4), np.float32) / 2
    rows = find_neighbours(equal, 5).rows
    assert (rows != np.arange(40)[:, None]).all() and rows.shape == (40, 5)


def test_the_fit_of_many_pairs_sees_all_ranks(monkeypatch):
    """The first neighbour of each of 200 photos is correct, and the 15 others are not; every 16th pair is a first one."""
    monkeypatch.setattr(pair_model, "_MOST_PAIRS", 200)
    is_first = np.tile(np.arange(16) == 0, 200)
    model = LogisticModel.fit(is_first[:, None].astype(float), is_first)
    assert model.probabilities(np.array([[1.0]])) > 0.8 and model.probabilities(np.array([[0.0]])) < 0.2


def test_evidence_is_the_group_with_the_largest_sum():
    """Three photos at 0 m, 1 m and 500 m: 0.4 + 0.3 outweigh 0.6."""
    positions = MapPositions.of([Place(str(x), x=float(x), y=0.0, frame="f") for x in (0, 1, 500, 900)])
    neighbours = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [2, 0, 1]])
    probabilities = np.array([[0.1, 0.1, 0.1]] * 3 + [[0.6, 0.4, 0.3]])
    evidence = weigh_evidence(positions, neighbours, probabilities, 25.0)
    assert evidence.members[3].tolist() == [False, True, True]
    np.testing.assert_allclose(np.exp(evidence.features[3, 2:]), np.array([0.7, 0.6, 0.6]) + 1e-3)
    np.testing.assert_allclose(evidence.features[3, :2], np.log([0.4 / 0.6, 0.3 / 0.7]))


def test_areas_contain_their_photos_at_any_latitude():
    rng = np.random.default_rng(3)
    places = [
        Place(str(number), latitude=latitude, longitude=longitude)
        for number, (latitude, longitude) in enumerate(rng.uniform((-89, -179), (89, 179), (200, 2)).tolist())
    ]
    grid = AreaGrid.of(MapPositions.of(places), 100.0)
    for place, number in zip(places, grid.numbers.tolist(), strict=True):
        west, south, east, north = grid.degrees(number)
        assert west - 1e-9 <= place.longitude <= east + 1e-9 and south - 1e-9 <= place.latitude <= north + 1e-9
        assert distance_in_metres(Place("", south, west), Place("", north, west)) == pytest.approx(100, rel=1e-6)


def test_wilson_interval():
    """8 of 10, as computed by hand from the formula: 0.490 to 0.943."""
    np.testing.assert_allclose(wilson_interval(8, 10), (0.4902, 0.9433), atol=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_page_holds_everything(tmp_path):
    descriptors, places = make_rows()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "05-1.jpg")
    places[1] = replace(places[1], path="<b>.jpg")
    index = make_index(tmp_path, descriptors, places)
    page = to_page(check_map(index), index)
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<b>.jpg" not in page
    assert "Content-Security-Policy" in page and "default-src 'none'; img-src data:" in page
    assert page.count("data:image/jpeg;base64,") == 1 and "This photo is not here." in page
    assert 'class="misplaced line" d="M' in page


def test_the_command_writes_all_forms(index, tmp_path):
    page, geojson = tmp_path / "new" / "report.html", tmp_path / "map.geojson"
    result = CliRunner().invoke(app, ["check-map", str(index.folder), "--page", str(page), "--geojson", str(geojson)])
    assert result.exit_code == 0, result.output
    assert "Misplaced: 1" in result.output and "05-1.jpg" in result.output
    assert page.read_text().startswith("<!DOCTYPE html>") and json.loads(geojson.read_text())["features"]
    facts = json.loads(CliRunner().invoke(app, ["check-map", str(index.folder), "--json"]).output)
    assert [photo["path"] for photo in facts["misplaced"]] == ["05-1.jpg"]
    refused = CliRunner().invoke(app, ["check-map", str(index.folder), "--page", str(page)])
    assert "exists already" in str(refused.exception)
