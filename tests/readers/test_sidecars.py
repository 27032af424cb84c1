"""Sidecar files: XMP of Lightroom and darktable, and JSON of Google Takeout under all the names that Takeout gives."""

import json
import os

import pytest

from d2vpr_hf import PlaceEncoder, add_photos, index_photos
from d2vpr_hf.places import Place
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import read_photo, read_place, read_places
from tests.photos import at_name, gps_exif, save
from tests.readers.test_xmp import LATITUDE_AND_LONGITUDE, RIO, degrees, packet

NOON = 1_714_564_800  # 2024-05-01T12:00:00Z
NOWHERE = {"latitude": 0.0, "longitude": 0.0, "altitude": 0.0}
LONG = "PXL_20240501_120000000.PORTRAIT-01.COVER_of_the_city_at_noon"  # longer than Takeout's names


def takeout(latitude=RIO[0], longitude=RIO[1], seconds=NOON, **more):
    values = {"title": "a.jpg", "photoTakenTime": {"timestamp": str(seconds), "formatted": "1 May 2024, 12:00:00 UTC"}}
    return json.dumps(values | {"geoData": {"latitude": latitude, "longitude": longitude, "altitude": 5.0}} | more)


@pytest.mark.parametrize(
    ("photo", "sidecar"),
    [
        ("IMG_1234.jpg", "IMG_1234.jpg.json"),
        ("IMG_1234.JPG", "IMG_1234.JPG.json"),
        ("IMG_1234.jpg", "IMG_1234.jpg.supplemental-metadata.json"),
        ("IMG_20240501_120000_HDR.jpg", "IMG_20240501_120000_HDR.jpg.supplemental-metad.json"),
        ("IMG_20240501_120000_HDR_again_a.jpg", "IMG_20240501_120000_HDR_again_a.jpg.supplem.json"),
        ("IMG_20240501_120000_HDR_again_and_ag.jpg", "IMG_20240501_120000_HDR_again_and_ag.jpg.s.json"),
        ("IMG_20240501_120000_HDR_again_and_agai.jpg", "IMG_20240501_120000_HDR_again_and_agai.jpg..json"),
        (f"{LONG[:47]}.jpg", f"{LONG[:46]}.json"),
        ("IMG_1234(1).jpg", "IMG_1234.jpg(1).json"),
        ("IMG_1234(12).jpg", "IMG_1234.jpg.supplemental-metadata(12).json"),
        ("IMG_1234(1).jpg", "IMG_1234(1).jpg.json"),
        (f"{LONG[:47]}(2).jpg", f"{LONG[:46]}(2).json"),
        ("IMG_1234-edited.jpg", "IMG_1234.jpg.json"),
        ("IMG_1234-edited(1).jpg", "IMG_1234.jpg(1).json"),
        ("IMG_1234(1)-edited.jpg", "IMG_1234.jpg(1).json"),
        ("IMG_1234-edited.jpg", "IMG_1234.HEIC.supplemental-metadata.json"),
        ("IMG_1234-bearbeitet.jpg", "IMG_1234.jpg.supplemental-metadata.json"),
        ("IMG_1234-modifié.jpg", "IMG_1234.jpg.json"),
        ("IMG_1234.jpg", "IMG_1234.jpg.xmp"),
        ("IMG_1234.jpg", "IMG_1234.xmp"),
        ("IMG_1234.jpg", "IMG_1234.XMP"),
        ("IMG_1234.JPG", "IMG_1234.jpg.json"),
        ("IMG_1234.jpg", "IMG_1234.JPG.JSON"),
        ("IMG_1234.jpg", "IMG_1234.jpg.supplemental-metadata.JSON"),
        ("IMG_1234.JPG", "IMG_1234.jpg.xmp"),
        ("sub/IMG_1234.png", "sub/IMG_1234.png.xmp"),
    ],
)
def test_the_sidecar_of_a_photo_is_found(tmp_path, photo, sidecar):
    """In a folder and for one photo alone."""
    save(tmp_path / photo, 0)
    save(tmp_path / "zzz.jpg", 1)
    content = packet(LATITUDE_AND_LONGITUDE).decode() if sidecar.lower().endswith("xmp") else takeout(title=f"{LONG}.jpg")
    (tmp_path / sidecar).write_text(content, encoding="utf-8")
    table = read_places(tmp_path)
    place, unknown = table.places
    assert degrees(place) == pytest.approx(RIO) and place.utm_zone == "23K" and unknown == Place("zzz.jpg")
    assert ("assumed", 1, photo) in {(remark.kind, remark.count, remark.example) for remark in table.remarks}
    assert table.source == "exif"
    alone = read_photo(tmp_path / photo)
    assert degrees(alone.places[0]) == pytest.approx(RIO) and len(alone.remarks) == len(table.remarks)


@pytest.mark.parametrize(
    ("photo", "sidecar"),
    [
        ("IMG_1234.jpg", "IMG_1234.json"),
        ("IMG_1234.jpg", "IMG_123.jpg.json"),
        ("IMG_1234.jpg", "IMG_1234.jpg(1).json"),
        ("IMG_1234(1).jpg", "IMG_1234.jpg.json"),
        ("IMG_1234(1).jpg", "IMG_1234.jpg(2).json"),
        ("IMG_1234.jpg", "IMG_1234.jpg.supplemental-other.json"),
        ("IMG_1234.jpg", "IMG_1234_01.jpg.xmp"),
        ("IMG_1234-edit.jpg", "IMG_1234.jpg.json"),
    ],
)
def test_the_sidecar_of_another_photo_is_not_read(tmp_path, photo, sidecar):
    save(tmp_path / photo, 0)
    (tmp_path / sidecar).write_bytes(packet(LATITUDE_AND_LONGITUDE) if sidecar.endswith("xmp") else takeout().encode())
    assert read_places(tmp_path).places == [Place(photo)] and read_place(tmp_path / photo) == Place(photo)


def test_long_names_that_begin_alike_are_told_apart_by_their_titles(tmp_path):
    first, second = (f"{LONG[:46]}{letter}.jpg" for letter in "AB")
    for name in (first, second):
        save(tmp_path / name, 0)
    (tmp_path / f"{LONG[:46]}.json").write_text(takeout(title=second), encoding="utf-8")
    places = {place.path: degrees(place) for place in read_places(tmp_path).places}
    assert places[first] is None and places[second] == pytest.approx(RIO)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (takeout(), RIO),
        (takeout(0.0, 0.0, geoDataExif={"latitude": RIO[0], "longitude": RIO[1]}), RIO),
        (takeout(geoDataExif={"latitude": 10.0, "longitude": 20.0}), RIO),  # the owner may have corrected the camera's
        (takeout(geoDataExif=NOWHERE), RIO),
        (takeout(0.0, 0.0, geoDataExif=NOWHERE), None),
        (takeout(0.0, RIO[1]), (0.0, RIO[1])),
        (takeout(None, None), None),
        (takeout("-22.9519", "-43.2105"), RIO),
        (takeout(" 22.9519", "+43.2105"), (22.9519, 43.2105)),
        (takeout(float("nan"), 5.0), None),
        ("{}", None),
        ("[1, 2]", None),
        ('{"geoData": [], "photoTakenTime": 5}', None),
        ('{"geoData": {"latitude": 1' + "0" * 400 + ', "longitude": 5}}', None),
        ('{"geoData": {"latitude": true, "longitude": true}}', None),
        ('{"geoData": {"latitude": {}, "longitude": true}}', None),
    ],
)
def test_positions_of_takeout(tmp_path, content, expected):
    save(tmp_path / "a.jpg", 0)
    (tmp_path / "a.jpg.json").write_text(content, encoding="utf-8")
    place = read_place(tmp_path / "a.jpg")
    assert degrees(place) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("latitude", "longitude", "problem"),
    [
        (91.0, 5.0, "on the globe"),
        ("1_5", "2_5", "two numbers"),  # float() reads them as 15 and 25
        ("1,5", "2,5", "two numbers"),
        ("1.5N", "2.5E", "two numbers"),
        ("", 5.0, "two numbers"),
        (None, 5.0, "two numbers"),
        (float("inf"), 5.0, "two numbers"),
        ([1.5], 5.0, "two numbers"),
    ],
)
def test_positions_of_takeout_that_cannot_be_read_are_counted(tmp_path, latitude, longitude, problem):
    save(tmp_path / "a.jpg", 0)
    (tmp_path / "a.jpg.json").write_text(takeout(latitude, longitude), encoding="utf-8")
    remarks = [remark for remark in read_places(tmp_path).remarks if remark.kind == "skipped"]
    assert [remark.text for remark in remarks] == [f"positions of Google Takeout that are not {problem}"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(NOON, NOON), (-86_400 * 365, -86_400 * 365), (0, None), (10**15, None), ("x", None), (NOON + 0.5, NOON + 0.5)],
)
def test_times_of_takeout_are_seconds_in_utc(tmp_path, seconds, expected):
    save(tmp_path / "a.jpg", 0)
    (tmp_path / "a.jpg.json").write_text(takeout(seconds=seconds), encoding="utf-8")
    table = read_photo(tmp_path / "a.jpg")
    timestamp = table.places[0].timestamp
    assert timestamp is None if expected is None else to_seconds(timestamp) == expected
    assert not any("zone" in remark.text for remark in table.remarks)


def test_the_photo_has_precedence_over_xmp_files_and_these_over_takeout(tmp_path):
    (tmp_path / "a.jpg.json").write_text(takeout(10.0, 20.0), encoding="utf-8")
    (tmp_path / "a.xmp").write_bytes(packet(LATITUDE_AND_LONGITUDE))
    save(tmp_path / "a.jpg", 0)
    place = read_place(tmp_path / "a.jpg")
    assert degrees(place) == pytest.approx(RIO) and to_seconds(place.timestamp) == NOON  # the time is in the JSON only
    save(tmp_path / "a.jpg", 0, exif=gps_exif(30.0, 40.0))
    table = read_photo(tmp_path / "a.jpg")
    assert degrees(table.places[0]) == pytest.approx((30, 40)) and not any("sidecar" in remark.text for remark in table.remarks)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jpg.json", b'{"geoData": {"latitude": 1'),
        ("a.jpg.json", b""),
        ("a.jpg.json", b"\xff\xfe\x00"),
        ("a.jpg.json", b"[" * 100_000),
        ("a.xmp", b"<x"),
        ("a.xmp", b"<!DOCTYPE a>" + packet(LATITUDE_AND_LONGITUDE, "", "")),
    ],
)
def test_a_damaged_sidecar_is_named_and_stops_nothing(tmp_path, name, content):
    save(tmp_path / "sub" / "a.jpg", 0)
    (tmp_path / "sub" / name).write_bytes(content)
    table = read_places(tmp_path)
    assert table.places == [Place("sub/a.jpg")]
    assert [(remark.kind, remark.example) for remark in table.remarks] == [("skipped", f"sub/{name}")]


def test_pipes_and_huge_files_are_not_read(tmp_path):
    """A named pipe would stop the reader for ever."""
    save(tmp_path / "a.jpg", 0)
    os.mkfifo(tmp_path / "a.jpg.json")
    (tmp_path / "a.xmp").touch()
    os.truncate(tmp_path / "a.xmp", 2**25)
    (tmp_path / "a.jpg.xmp").mkdir()
    table = read_places(tmp_path)
    assert table.places == [Place("a.jpg")] and table.remarks[0].count == 3


def test_remarks_of_added_photos_are_summed_up(tiny_folder, tmp_path):
    encoder = PlaceEncoder(tiny_folder)
    photos = [save(tmp_path / "photos" / at_name(1, 2), 0)]
    index_photos(photos[0].parent, tmp_path / "index", encoder)
    added = [save(tmp_path / "more" / f"{name}.jpg", number) for number, name in enumerate("abc")]
    for photo in added:
        photo.with_suffix(".xmp").write_bytes(packet(LATITUDE_AND_LONGITUDE))
    index, report = add_photos(tmp_path / "index", added, encoder)
    assert [(remark.kind, remark.count) for remark in report.remarks] == [("assumed", 3)]
    assert [degrees(place) for place in index.places if place.path.endswith(("a.jpg", "b.jpg", "c.jpg"))] == [
        pytest.approx(RIO)
    ] * 3


def test_the_sidecar_of_a_file_that_is_not_a_photo_is_not_read(tmp_path):
    """A file that cannot be opened has no place; decoding reports the error."""
    (tmp_path / "a.jpg").write_bytes(b"not a photo")
    (tmp_path / "a.xmp").write_bytes(packet(LATITUDE_AND_LONGITUDE))
    save(tmp_path / "b.jpg", 0)
    assert read_places(tmp_path).places == [Place("a.jpg"), Place("b.jpg")]
