"""Mapillary Street-level Sequences, city by city."""

import csv
import math

import pytest

from d2vpr_hf.readers.data_sets import read_data_set
from tests.readers.data_sets.trees import write_msls_city

CPH, SF = (55.67, 12.56), (37.77, -122.42)


def line(prefix, count, start, angle=90.0, is_panorama=False, is_night=False, view="Forward"):
    """Photos every 0.001 degrees of latitude, 111 m."""
    return [
        (f"{prefix}{number}", start[0] + number * 0.001, start[1], angle, is_panorama, is_night, view)
        for number in range(count)
    ]


@pytest.fixture
def root(tmp_path):
    for name, start in (("cph", CPH), ("sf", SF), ("zurich", (47.37, 8.54))):
        write_msls_city(tmp_path / "train_val" / name, line(f"{name}d", 4, start), "database")
        write_msls_city(tmp_path / "train_val" / name, line(f"{name}q", 3, start, is_night=True, view="Sideways"), "query")
    return tmp_path


@pytest.mark.parametrize(
    ("inner", "layout", "cities"),
    [
        ("", None, ["cph", "sf"]),
        ("train_val", None, ["cph", "sf"]),
        ("train_val/zurich", None, ["zurich"]),
        ("train_val/zurich/query", None, ["zurich"]),
        ("", "msls-train", ["zurich"]),
        ("", "msls-all-queries", ["cph", "sf"]),
    ],
)
def test_cities_follow_from_root_and_layout(root, inner, layout, cities):
    """The validation cities by default; a training city in the recall of MSLS-val would be another number."""
    data_set = read_data_set(root / inner, layout)
    assert [part.name for part in data_set.parts] == cities
    assert data_set.num_queries("queries") == 3 * len(cities)


def test_fields_are_those_of_the_tables(root):
    place = read_data_set(root).parts[1].query_sets[0].table.places[0]
    assert (place.path, place.latitude, place.longitude, place.heading) == ("images/sfq0.jpg", *SF, 90.0)
    assert (place.timestamp, place.condition) == ("2018-04-01", "night_sideways")


def test_the_official_queries_are_fewer_than_all(tmp_path):
    """A panorama, a photo outside the subtask and one without a positive: the variants differ by five points of R@1."""
    city = tmp_path / "train_val" / "cph"
    panorama = line("p", 1, CPH, is_panorama=True)
    write_msls_city(city, line("d", 4, CPH) + panorama, "database")
    queries = [*line("q", 2, CPH), ("far", 55.9, 12.56, None, False, False, "Forward"), *line("x", 1, CPH), *panorama]
    write_msls_city(city, queries, "query", subtask=[True, True, True, False, True])
    official, everything = read_data_set(tmp_path), read_data_set(tmp_path, "msls-all-queries")
    assert [place.path[7:-4] for place in official.parts[0].query_sets[0].table.places] == ["q0", "q1"]
    assert [place.path[7:-4] for place in everything.parts[0].query_sets[0].table.places] == ["q0", "q1", "far", "x0"]
    assert official.num_database == everything.num_database == 4
    assert sorted((remark.text.split(",")[0], remark.count) for remark in official.remarks) == [
        ("panoramas", 2),
        ("photos outside the subtask `all`", 1),
        ("queries without a database photo within 25 m", 1),
    ]
    assert "official evaluation; 2 queries, 4 database photos" in official.variant
    assert "all queries; 4 queries, 4 database photos" in everything.variant


def test_positives_are_those_of_an_independent_statement(tmp_path):
    """Metres of the official zone, 32 for Copenhagen, in the plane of each city, up to 25 m inclusive."""
    for name, zone, start in (("cph", 32, CPH), ("sf", 10, SF)):
        database = [(f"{name}d{n}", start[0] + n * 0.0002, start[1], None, False, False, "") for n in range(10)]
        queries = [(f"{name}q{n}", start[0] + n * 0.0007, start[1] + 0.0001, None, False, False, "") for n in range(5)]
        write_msls_city(tmp_path / "train_val" / name, database, "database", zone=zone)
        write_msls_city(tmp_path / "train_val" / name, queries, "query", zone=zone)
    stated = set()
    for city in ("cph", "sf"):
        sides = {}
        for side in ("database", "query"):
            with (tmp_path / "train_val" / city / side / "postprocessed.csv").open() as file:
                sides[side] = [(row["key"], float(row["easting"]), float(row["northing"])) for row in csv.DictReader(file)]
        for key, east, north in sides["query"]:
            stated |= {(key, other) for other, e, n in sides["database"] if math.hypot(e - east, n - north) <= 25.0}
    read = set()
    for part in read_data_set(tmp_path).parts:
        for query in part.query_sets[0].table.places:
            for photo in part.database.places:
                if math.hypot(photo.utm_east - query.utm_east, photo.utm_north - query.utm_north) <= 25.0:
                    read.add((query.path[7:-4], photo.path[7:-4]))
    assert read == stated
    assert {key for key, _ in stated} != {f"{city}q{n}" for city in ("cph", "sf") for n in range(5)}


def test_test_cities_without_metres_take_one_zone(tmp_path):
    """Stockholm is on the border of two zones; metres of two zones would be hundreds of kilometres apart."""
    city = tmp_path / "test" / "stockholm"
    for side in ("database", "query"):
        photos = [(f"{side}{n}", 59.33, 17.9999 + n * 0.0001, None, False, False, "") for n in range(3)]
        write_msls_city(city, photos, side, post=False)
    data_set = read_data_set(tmp_path)
    assert data_set.layout == "msls"
    assert data_set.variant.startswith("MSLS test, official evaluation; 3 queries")
    easts = [place.utm_east for place in data_set.parts[0].database.places]
    assert 0 < max(easts) - min(easts) < 15
    (city / "query" / "raw.csv").unlink()
    with pytest.raises(FileNotFoundError, match="ground truth of the test cities was published"):
        read_data_set(tmp_path)


def test_missing_photos_and_strange_headings_are_counted(tmp_path):
    city = tmp_path / "train_val" / "sf"
    photos = line("d", 3, SF, angle=400.0)
    write_msls_city(city, photos, "database")
    write_msls_city(city, line("q", 2, SF, angle=-10.0), "query")
    (city / "database" / "images" / "d1.jpg").unlink()
    data_set = read_data_set(city)
    database = data_set.parts[0].database
    assert database.skipped == {"images/d1.jpg": "no such file"}
    assert [place.heading for place in database.places] == [None, None]
    assert data_set.parts[0].query_sets[0].table.places[0].heading == 350.0
    assert data_set.num_queries("queries") == 1  # the other one has lost its positive


def test_tables_of_different_lengths_are_an_error(root):
    table = root / "train_val" / "sf" / "query" / "postprocessed.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"postprocessed\.csv has 2 lines, and raw\.csv has 3"):
        read_data_set(root)
