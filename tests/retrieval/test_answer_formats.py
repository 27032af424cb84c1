"""Answers for other programs: positions in the right order, the keys of JSON, and files that strict readers accept."""

import csv
import json
import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from d2vpr_hf.index import Match
from d2vpr_hf.localization import Localization
from d2vpr_hf.places import Place
from d2vpr_hf.retrieval.answer_formats import FORMATS, format_answers
from d2vpr_hf.retrieval.search_photos import SearchResult
from tests.command_line import run

GPX = "{http://www.topografix.com/GPX/1/1}"
KML = "{http://www.opengis.net/kml/2.2}"
ROME = Place("rome.jpg", latitude=41.89, longitude=12.49, heading=90.0, timestamp="2024-05-01T12:30:00.25+02:00")
LOCAL = Place("hall.jpg", x=1.5, y=2.0, frame="hall")


def match(rank: int, place: Place, similarity: float = 0.5) -> Match:
    return Match(rank, rank - 1, place, Path("/map") / place.path, similarity)


RESULTS = [
    SearchResult(Path("q1.jpg"), [match(1, ROME, 0.75), match(2, LOCAL)]),
    SearchResult(Path("q,2.jpg"), [match(1, LOCAL)]),
    SearchResult(Path("gone.jpg"), [], "no such file"),
]
ANSWERS = [
    Localization("q1.jpg", ROME, 8.25, 0.97, False, matches=[match(1, ROME)]),
    Localization("q2.jpg", confidence=0.2, no_match=True, matches=[match(1, ROME)]),
    Localization("gone.jpg", error="no such file"),
]


@pytest.mark.parametrize("answers", [RESULTS, ANSWERS])
def test_json_and_json_lines_hold_the_same_values(answers):
    expected = [answer.to_dict() for answer in answers]
    assert json.loads(format_answers(answers, "json")) == expected
    lines = format_answers(answers, "jsonl").split("\n")
    assert [json.loads(line) for line in lines] == expected


def test_geojson_has_longitude_first_and_counts_missing_positions(caplog):
    with caplog.at_level(logging.WARNING):
        collection = json.loads(format_answers(RESULTS, "geojson"))
    assert collection.keys() == {"type", "features"} and collection["type"] == "FeatureCollection"
    features = collection["features"]
    assert all(feature.keys() == {"type", "geometry", "properties"} for feature in features)
    assert [feature["geometry"] for feature in features] == [{"type": "Point", "coordinates": [12.49, 41.89]}, None, None, None]
    assert [(f["properties"]["query"], f["properties"]["rank"]) for f in features] == [
        *(("q1.jpg", 1), ("q1.jpg", 2), ("q,2.jpg", 1)),
        ("gone.jpg", None),
    ]
    first = {name: value for name, value in features[0]["properties"].items() if name not in ("query", "error", "x", "y", "z")}
    assert first == {name: value for name, value in RESULTS[0].matches[0].to_dict().items() if name != "score"}
    assert "3 of 4 features have no latitude and longitude; their geometry is null." in caplog.text
    localized = json.loads(format_answers(ANSWERS, "geojson"))["features"]
    assert [feature["geometry"] is None for feature in localized] == [False, True, True]
    assert localized[0]["properties"]["radius_90"] == 8.25 and "matches" not in localized[0]["properties"]


@pytest.mark.parametrize("answers", [RESULTS, ANSWERS])
def test_csv_has_a_fixed_header_and_whole_rows(answers):
    text = format_answers(answers, "csv")
    rows = list(csv.DictReader(text.splitlines(), strict=True))
    assert tuple(rows[0]) == type(answers[0]).columns
    assert text.splitlines()[0] == format_answers(answers[-1:], "csv").splitlines()[0]
    flat = [row for answer in answers for row in answer.to_rows()]
    assert len(rows) == len(flat)
    for row, values in zip(rows, flat, strict=True):
        for name, value in values.items():
            as_in_json = value is None or isinstance(value, bool)
            assert row[name] == ({None: "", True: "true", False: "false"}[value] if as_in_json else str(value))


def waypoints(answers) -> list[ElementTree.Element]:
    """Check a GPX file against the parts of schema 1.1 that it uses, and return its waypoints."""
    text = format_answers(answers, "gpx")
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    root = ElementTree.fromstring(text.encode())
    assert root.tag == f"{GPX}gpx" and root.attrib == {"version": "1.1", "creator": "d2vpr-hf"}
    order = [f"{GPX}{name}" for name in ("ele", "time", "magvar", "geoidheight", "name", "cmt", "desc", "src")]
    for point in root:
        assert point.tag == f"{GPX}wpt" and point.attrib.keys() == {"lat", "lon"}
        assert all(re.fullmatch(r"-?\d+(\.\d+)?", value) for value in point.attrib.values())  # decimals have no exponent
        assert -90 <= float(point.get("lat")) <= 90 and -180 <= float(point.get("lon")) < 180
        positions = [order.index(child.tag) for child in point]
        assert positions == sorted(set(positions))
    return list(root)


def test_gpx_has_the_first_match_or_the_estimate(caplog):
    with caplog.at_level(logging.WARNING):
        (point,) = waypoints(RESULTS)
    assert (float(point.get("lat")), float(point.get("lon"))) == (41.89, 12.49)
    assert [child.text for child in point] == ["q1.jpg", "/map/rome.jpg, similarity 0.7500"]
    assert "2 of 3 queries have no latitude and longitude; GPX has no waypoint for them." in caplog.text
    (point,) = waypoints(ANSWERS)
    assert [child.text for child in point] == ["q1.jpg", "within 8.2 m (90 %), confidence 0.970"]


def test_gpx_has_the_time_of_the_query(tmp_path):
    """Not that of the match, which may be years older; a broken `@` name has none."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(
        {0x9003: "2024:05:01 12:30:00", 0x9291: "25", 0x9011: "+02:00"}
    )  # DateTimeOriginal and its parts
    Image.new("RGB", (8, 8)).save(tmp_path / "q.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "@q@.jpg")
    points = waypoints([Localization(str(tmp_path / name), ROME) for name in ("q.jpg", "@q@.jpg")])
    assert [point[0].tag for point in points] == [f"{GPX}time", f"{GPX}name"]
    assert points[0][0].text == "2024-05-01T10:30:00.250000Z"


def test_gpx_is_valid_for_extreme_positions_and_names():
    places = [
        Place("", latitude=90.0, longitude=180.0),
        Place("", latitude=-1e-7, longitude=179.9999999999),
        Place("", latitude=1e-12, longitude=-180.0),
    ]
    names = ["a & b <c>.jpg", "bell\x07\ufffe.jpg", "new\nline\udcff.jpg"]
    points = waypoints([Localization(name, place) for name, place in zip(names, places, strict=True)])
    assert [point.get("lon") for point in points] == ["-180.000000000"] * 3
    assert [point[0].text for point in points] == ["a & b <c>.jpg", "bell\ufffd\ufffd.jpg", "new\nline\\udcff.jpg"]


def test_kml_has_the_points_of_gpx(tmp_path):
    """Programs show descriptions as HTML: a photo's name must not become a tag there."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2024:05:01 12:30:00", 0x9011: "+02:00"})
    Image.new("RGB", (8, 8)).save(tmp_path / "q.jpg", exif=exif)
    odd = Place("<img src=x>.jpg", latitude=-33.5, longitude=180.0)
    answers = [Localization(str(tmp_path / "q.jpg"), ROME), SearchResult(Path("a & b.jpg"), [match(1, odd)])]
    root = ElementTree.fromstring(format_answers(answers, "kml").encode())
    assert root.tag == f"{KML}kml" and [child.tag for child in root] == [f"{KML}Document"]
    first, second = root[0]
    assert [child.tag.removeprefix(KML) for child in first] == ["name", "TimeStamp", "Point"]
    assert first.findtext(f"{KML}TimeStamp/{KML}when") == "2024-05-01T10:30:00Z"
    assert first.findtext(f"{KML}Point/{KML}coordinates") == "12.490000000,41.890000000"
    assert second.findtext(f"{KML}name") == "a & b.jpg"
    assert second.findtext(f"{KML}description") == "/map/&lt;img src=x&gt;.jpg, similarity 0.5000"
    assert second.findtext(f"{KML}Point/{KML}coordinates") == "180.000000000,-33.500000000"


def test_numbers_that_are_not_finite_and_other_formats_are_refused():
    broken = [Localization("q.jpg", Place("", latitude=1.0, longitude=2.0), radius_90=float("nan"))]
    for name in ("json", "jsonl", "geojson"):
        with pytest.raises(ValueError, match="not JSON compliant"):
            format_answers(broken, name)
    with pytest.raises(ValueError, match=f"Expected `format` as one of {', '.join(FORMATS)}, got 'kmz'"):
        format_answers(ANSWERS, "kmz")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """An index of four photos with positions, and a folder of two of them."""
    folder = tmp_path_factory.mktemp("town")
    rng = np.random.default_rng(0)
    (folder / "queries").mkdir()
    (folder / "photos").mkdir()
    for number in range(4):
        image = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)).resize((70, 70))
        image.save(folder / "photos" / f"@{500_000 + 300 * number}@4649776@32@T@@@{number}@@@@@@@@.png")
        if number < 2:
            image.save(folder / "queries" / f"{number}.png")
    assert run("index", folder / "photos", "--out", folder / "index")[0] == 0
    return folder


@pytest.mark.parametrize("command", ["search", "localize"])
def test_commands_print_every_format_to_stdout_alone(town, command):
    """Warnings go to stderr, so that stdout can be read by a program."""
    arguments = [command, town / "index", town / "queries", "--model", "embedded"]
    outputs = {name: run(*arguments, "--format", name) for name in ("table", *FORMATS)}
    assert all(status == 0 for status, _, _ in outputs.values())
    text = {name: out for name, (_, out, _) in outputs.items()}
    assert run(*arguments)[1] == text["table"] and run(*arguments, "--json")[1] == text["json"]
    answers = json.loads(text["json"])
    assert [json.loads(line) for line in text["jsonl"].splitlines()] == answers and len(answers) == 2
    rows = list(csv.DictReader(text["csv"].splitlines()))
    features = json.loads(text["geojson"])["features"]
    assert len(rows) == len(features) == (8 if command == "search" else 2)
    points = ElementTree.fromstring(text["gpx"].encode())
    assert [point.find(f"{GPX}name").text for point in points] == [str(town / "queries" / f"{n}.png") for n in range(2)]
    best = answers[0]["matches"][0] if command == "search" else answers[0]
    assert features[0]["geometry"]["coordinates"] == [best["longitude"], best["latitude"]]
    assert float(rows[0]["latitude"]) == best["latitude"]


def test_two_formats_are_refused(town):
    status, out, error = run("search", town / "index", town / "queries", "--json", "--format", "csv")
    assert status == 1 and not out and "`--json` is `--format json`, and `--format csv` is another one" in error


def test_json_lines_come_group_by_group(town, monkeypatch):
    """A program that reads them need not wait for the last photo; a photo that cannot be read has its line, too."""
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.retrieval import iterate_search, search_photos

    index, encoder = PlaceIndex.open(town / "index"), PlaceEncoder("embedded")
    photos = [*sorted((town / "photos").iterdir()), town / "gone.png"]
    groups = []
    encode = PlaceEncoder.encode
    monkeypatch.setattr(
        PlaceEncoder,
        "encode",
        lambda self, group, *rest, **more: groups.append(len(group)) or encode(self, group, *rest, **more),
    )
    results = iterate_search(index, photos, encoder, group_size=2)
    seen = []
    for result in results:
        seen.append((result.query, len(groups)))
    assert seen == [(photo, 1 + row // 2) for row, photo in enumerate(photos)] and groups == [2, 2, 1]
    whole = search_photos(index, photos, encoder)
    assert [result.error for result in whole] == [None] * 4 + ["no such file"] and groups[3:] == [5]
    for result, again in zip(whole, iterate_search(index, photos, encoder, group_size=2), strict=True):
        assert [match.row for match in result.matches] == [match.row for match in again.matches]
    with pytest.raises(ValueError, match="1 of 5 photos were skipped"):
        search_photos(index, photos, encoder, strict=True)
