"""Positions, headings and times in EXIF: read as their writers meant them, or unknown with a remark, and never wrong."""

import json
import math
import struct
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone

import pillow_heif
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import Base

from d2vpr_hf.places import PLACE_SCHEMA, Place, distance_in_metres
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import ReadOptions, open_photo, read_photo, read_place, read_places
from tests.photos import draw, gps_exif, save
from tests.readers.exif_blocks import (
    ASCII,
    BYTE,
    CHANGED,
    DATUM,
    DIGITIZED,
    DIRECTION,
    DIRECTION_REF,
    DOUBLE,
    FLOAT,
    GPS_DATE,
    GPS_TIME,
    LATITUDE,
    LONG,
    LONGITUDE,
    OFFSET_CHANGED,
    OFFSET_DIGITIZED,
    OFFSET_ORIGINAL,
    ORIGINAL,
    RATIONAL,
    SHORT,
    SRATIONAL,
    STATUS,
    SUBSEC_ORIGINAL,
    UNDEFINED,
    dms,
    exif_block,
    gps_entries,
    save_photo,
    text,
)
from tests.readers.test_xmp import packet

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged EXIF

RIO = (-22.9519, -43.2105)  # 22° 57' 6.84" S, 43° 12' 37.8" W
LAT, LON = [(22, 1), (57, 1), (684, 100)], [(43, 1), (12, 1), (378, 10)]
NOON = 1_714_564_800.0  # 2024-05-01T12:00:00Z


def rio(north="S", east="W", latitude=LAT, longitude=LON, kind=RATIONAL, **more):
    return gps_entries((kind, latitude), north, (kind, longitude), east, **more)


def read(tmp_path, gps=None, photo=None, top=None, **options):
    """Return the place in a photo's EXIF and the texts of the remarks by kind."""
    table = read_photo(save_photo(tmp_path / "a.jpg", gps, photo, top), ReadOptions(**options))
    return table.places[0], [(remark.kind, remark.text) for remark in table.remarks]


def degrees(place):
    return None if place.latitude is None else (place.latitude, place.longitude)


@pytest.mark.parametrize(
    ("north", "east"),
    [
        ("s", "w"),
        ("south", "WEST"),
        ("Sur", "west\0\0"),
        (" S", "\0W"),
        ((BYTE, b"S\0"), (BYTE, b"W\0")),
        ((BYTE, b"south"), (UNDEFINED, b"w")),
        ((UNDEFINED, b"\0S"), (UNDEFINED, b"West\0")),
        ((SHORT, [83, 0]), (LONG, [87])),
        ((RATIONAL, [(83, 1)]), (DOUBLE, [87.0])),
        ((ASCII, b"S"), (ASCII, b"W")),
    ],
)
def test_the_first_letter_of_a_reference_of_any_type_is_the_hemisphere(tmp_path, north, east):
    place, remarks = read(tmp_path, rio(north, east))
    assert degrees(place) == pytest.approx(RIO, abs=1e-9) and not remarks


@pytest.mark.parametrize(
    ("latitude", "longitude", "kind"),
    [
        ([(-22, 1), (57, 1), (684, 100)], [(-43, 1), (12, 1), (378, 10)], SRATIONAL),
        ([(-22, 1), (-57, 1), (-684, 100)], [(-43, 1), (-12, 1), (-378, 10)], SRATIONAL),
        ([(22, -1), (57, 1), (684, 100)], [(-43, 1), (-12, 1), (378, 10)], SRATIONAL),
        ([(-229519, 10000), (0, 1), (0, 1)], [(-432105, 10000), (0, 0), (0, 0)], SRATIONAL),
        ([-22.0, 57.0, 6.84], [-43.0, -12.0, -37.8], DOUBLE),
        ([-22.9519], [-43.2105], DOUBLE),
    ],
)
@pytest.mark.parametrize("letters", [(None, None), ("S", "W"), ("?", "")])
def test_a_minus_sign_makes_the_whole_angle_negative_once(tmp_path, latitude, longitude, kind, letters):
    place, remarks = read(tmp_path, rio(*letters, latitude, longitude, kind))
    assert degrees(place) == pytest.approx(RIO, abs=1e-9)
    assert [kind for kind, _ in remarks] == (["corrected"] if letters == ("S", "W") else [])


def test_the_sign_of_an_angle_of_less_than_a_degree_is_at_its_minutes_or_seconds(tmp_path):
    latitude, longitude = (SRATIONAL, [(0, 1), (-30, 1), (0, 1)]), (SRATIONAL, [(0, 1), (0, 1), (-36, 1)])
    place, _ = read(tmp_path, gps_entries(latitude, None, longitude, None))
    assert degrees(place) == pytest.approx((-0.5, -0.01), abs=1e-12)
    place, _ = read(tmp_path, gps_entries((DOUBLE, [-0.0, 30.0, 0.0]), None, (DOUBLE, [-0.0, 0.0, 36.0]), None))
    assert degrees(place) == pytest.approx((-0.5, -0.01), abs=1e-12)


@pytest.mark.parametrize(
    ("north", "east"),
    [
        (None, None),
        ("", ""),
        (" ", "\0"),
        ("?", "0"),
        ("E", "N"),
        ("S", None),
        ("X", "W"),
        ("N/A", "N/A"),
        ("None", "W"),
        ("null", "nan"),
        ("not available", "no"),
        ("N/S", "E/W"),
        ("sever", "W"),  # north in Czech
        ("S", "wschód"),  # east in Polish
    ],
)
def test_without_a_hemisphere_a_position_is_unknown_and_counted(tmp_path, north, east):
    """`assume_north_east=True` reads what is missing, and keeps the letters that are there."""
    gps = rio(north, east)
    place, remarks = read(tmp_path, gps)
    assert degrees(place) is None and place.utm_zone is None
    assert [kind for kind, _ in remarks] == ["skipped"] and "without a hemisphere" in remarks[0][1]
    place, remarks = read(tmp_path, gps, assume_north_east=True)
    expected = (-22.9519 if north == "S" else 22.9519, -43.2105 if east == "W" else 43.2105)
    assert degrees(place) == pytest.approx(expected, abs=1e-9)
    assert remarks == [("assumed", "EXIF positions without a hemisphere, read as north and east")]


def test_remarks_of_a_folder_are_counted_with_an_example(tmp_path):
    save_photo(tmp_path / "a.jpg", rio())
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        save_photo(tmp_path / name, rio(None, None))
    table = read_places(tmp_path)
    assert (table.num_positions, table.source, len(table.remarks)) == (1, "exif", 1)
    assert (table.remarks[0].kind, table.remarks[0].count, table.remarks[0].example) == ("skipped", 3, "b.jpg")


def test_a_minus_sign_that_contradicts_its_letter_is_unknown(tmp_path):
    place, remarks = read(tmp_path, rio("N", "W", [(-22, 1), *LAT[1:]], [(-43, 1), *LON[1:]], SRATIONAL))
    assert degrees(place) is None and "contradict" in remarks[0][1]
    place, remarks = read(tmp_path, rio("N", "E", [(-22, 1), *LAT[1:]], LON, SRATIONAL), assume_north_east=True)
    assert degrees(place) is None and "contradict" in remarks[0][1]


@pytest.mark.parametrize(
    ("latitude", "longitude", "num_assumed"),
    [
        ([(22, 1), (57114, 1000), (0, 0)], [(43, 1), (1263, 100), (0, 0)], 0),
        ([(22, 1), (57114, 1000), (0, 1)], [(43, 1), (1263, 100), (0, 1000)], 0),
        ([(229519, 10000), (0, 0), (0, 0)], [(432105, 10000), (0, 0), (0, 0)], 0),
        ([(229519, 10000), (0, 1), (0, 0)], [(432105, 10000), (0, 0), (0, 1)], 0),
    ],
)
def test_unknown_seconds_and_minutes_behind_decimals_count_as_0(tmp_path, latitude, longitude, num_assumed):
    place, remarks = read(tmp_path, rio(latitude=latitude, longitude=longitude))
    assert degrees(place) == pytest.approx(RIO, abs=1e-9) and len(remarks) == num_assumed


def test_unknown_seconds_behind_whole_minutes_are_an_assumption(tmp_path):
    place, remarks = read(tmp_path, rio(latitude=[(22, 1), (57, 1), (0, 0)]))
    assert place.latitude == pytest.approx(-22.95) and remarks[0][0] == "assumed"


ZERO, UNKNOWN = [(0, 1)] * 3, [(0, 0)] * 3


@pytest.mark.parametrize(
    "gps",
    [
        rio("N", "E", ZERO, ZERO),
        rio("S", "W", ZERO, ZERO),
        rio("N", "E", [(0, 1), (0, 1), (0, 0)], [(0, 1), (0, 1), (0, 0)]),
        rio("N", "E", [0.0] * 3, [-0.0] * 3, DOUBLE),
        rio("N", "E", ZERO, ZERO) | {STATUS: text("V")},
        rio("N", "E", UNKNOWN, UNKNOWN),
        rio("N", "E", [(0, 0), (57, 1), (684, 100)], LON),
        rio("N", "E", [(22, 0), (57, 1), (684, 100)], LON),
        rio("N", "E", [(22, 1), (57, 1), (6, 0)], LON),
        rio("N", "E", [(22, 1), (0, 0), (0, 0)], LON),  # whole degrees without minutes
        rio("N", "E", [(22, 1), (0, 0), (684, 100)], LON),
        rio("N", "E", [math.nan] * 3, [43.0, 12.0, 37.8], DOUBLE),
        rio("N", "E", [math.inf, 0.0, 0.0], [43.0, 12.0, 37.8], FLOAT),
    ],
)
@pytest.mark.parametrize("assume_north_east", [True, False])
def test_zeros_and_unknown_numbers_are_no_position(tmp_path, gps, assume_north_east):
    place, remarks = read(tmp_path, gps, assume_north_east=assume_north_east)
    assert place == Place("a.jpg") and [kind for kind, _ in remarks] == ["skipped"]


def test_zeros_without_a_hemisphere_are_counted_as_no_position(tmp_path):
    """`assume_north_east=True` would not help these photos."""
    for letters in ((None, None), ("", ""), ("N", None)):
        assert "exactly 0, 0" in read(tmp_path, rio(*letters, ZERO, ZERO))[1][0][1]


def test_the_equator_and_greenwich_are_positions(tmp_path):
    assert degrees(read(tmp_path, rio("S", "E", ZERO))[0]) == pytest.approx((0, 43.2105))
    place, _ = read(tmp_path, rio("S", "W", LAT, ZERO))
    assert degrees(place) == pytest.approx((-22.9519, 0)) and math.copysign(1, place.longitude) == 1


@pytest.mark.parametrize(
    ("latitude", "problem"),
    [
        ([(22, 1), (60, 1), (1, 1)], "60 or more"),
        ([(22, 1), (99, 1), (0, 1)], "60 or more"),
        ([(22, 1), (57, 1), (61, 1)], "60 or more"),
        ([(22, 1), (57, 1), (6840, 100)], "60 or more"),
        ([(90, 1), (0, 1), (1, 100)], "beyond 90"),
        ([(229, 1), (0, 1), (0, 1)], "beyond 90"),
        ([(229519, 10000), (57, 1), (684, 100)], "a fraction of degrees or minutes"),
        ([(22, 1), (57114, 1000), (684, 100)], "a fraction of degrees or minutes"),
        ([(22, 1)], "other than three"),
        ([(229519, 10000)], "other than three"),
        ([(22, 1), (57, 1)], "other than three"),
        ([(22, 1), (57, 1), (684, 100), (0, 1)], "other than three"),
    ],
)
def test_numbers_that_are_no_angle_are_unknown(tmp_path, latitude, problem):
    place, remarks = read(tmp_path, rio(latitude=latitude))
    assert degrees(place) is None and problem in remarks[0][1]


def test_a_minus_sign_in_minutes_only_is_unknown(tmp_path):
    place, remarks = read(tmp_path, rio(latitude=[(22, 1), (-57, 1), (684, 100)], kind=SRATIONAL))
    assert degrees(place) is None and "minus sign in minutes" in remarks[0][1]


def test_sixty_seconds_are_a_minute_that_a_writer_rounded(tmp_path):
    place, remarks = read(tmp_path, rio(latitude=[(22, 1), (57, 1), (60, 1)]))
    assert place.latitude == pytest.approx(-(22 + 58 / 60), abs=1e-12) and remarks[0][0] == "corrected"


def test_half_a_position_is_unknown(tmp_path):
    for tag in (LATITUDE, LONGITUDE):
        place, remarks = read(tmp_path, {name: entry for name, entry in rio().items() if name != tag})
        assert degrees(place) is None and "only a latitude or only a longitude" in remarks[0][1]


@pytest.mark.parametrize(
    ("latitude", "longitude", "letters"),
    [
        ((DOUBLE, [22.9519]), (DOUBLE, [43.2105]), ("S", "W")),
        ((DOUBLE, [22.0, 57.114]), (DOUBLE, [43.0, 12.63]), ("S", "W")),
        ((DOUBLE, [22.0, 57.0, 6.84]), (DOUBLE, [43.0, 12.0, 37.8]), ("S", "W")),
        (text("22.9519"), text("43.2105"), ("S", "W")),
        (text("-22.9519"), text("-43.2105"), (None, None)),
        (text("22,57.114S"), text("43,12.63W"), (None, None)),
        (text("22 57 6.84"), text("43 12 37.8"), ("South", "West")),
        (text("22/1 57/1 684/100"), text("43/1,12/1,378/10"), ("S", "W")),
        (text("22 deg 57' 6.84\" S"), text("43° 12' 37.8\" W"), (None, None)),
        ((BYTE, b"22.9519S"), (UNDEFINED, b"43.2105W"), (None, None)),
    ],
)
def test_degrees_as_floats_and_texts_are_read(tmp_path, latitude, longitude, letters):
    place, remarks = read(tmp_path, gps_entries(latitude, letters[0], longitude, letters[1]))
    assert degrees(place) == pytest.approx(RIO, abs=1e-9) and not remarks


@pytest.mark.parametrize(
    "value", ["", "unknown", "S", "22,5S", "22,57", "22,57,6,84S", "1e1S", "22;57S", "22--57S", "²²S", "22_0S", "N22.9S"]
)
def test_texts_that_are_no_degrees_are_unknown(tmp_path, value):
    place, remarks = read(tmp_path, gps_entries(text(value), "S", (RATIONAL, LON), "W"))
    assert degrees(place) is None and [kind for kind, _ in remarks] == ["skipped"]


def test_a_position_that_the_receiver_marks_as_void_is_read_and_counted(tmp_path):
    """Programs that add positions later keep the camera's status."""
    place, remarks = read(tmp_path, rio() | {STATUS: text("V")})
    assert degrees(place) == pytest.approx(RIO) and remarks[0][0] == "assumed" and "GPSStatus V" in remarks[0][1]
    assert not read(tmp_path, rio() | {STATUS: text("A")})[1]


@pytest.mark.parametrize("datum", ["WGS-84", "WGS84", "wgs 84", "WGS1984", "JGD2000", "", " \0", "NAD83", "EPSG:4326"])
def test_datums_that_equal_wgs_84_are_not_remarked(tmp_path, datum):
    assert not read(tmp_path, rio() | {DATUM: text(datum)})[1]


@pytest.mark.parametrize("datum", ["TOKYO", "NAD27", "ED50", "GCJ-02"])
def test_other_datums_are_named(tmp_path, datum):
    place, remarks = read(tmp_path, rio() | {DATUM: text(datum)})
    assert degrees(place) == pytest.approx(RIO) and remarks[0][0] == "assumed" and f"datum {datum}," in remarks[0][1]


@pytest.mark.parametrize(
    ("value", "reference", "heading", "kinds"),
    [
        ((RATIONAL, [(2715, 10)]), "T", 271.5, []),
        ((RATIONAL, [(2715, 10)]), None, 271.5, []),  # EXIF's default is true north
        ((RATIONAL, [(2715, 10)]), "M", 271.5, ["assumed"]),
        ((RATIONAL, [(2715, 10)]), (BYTE, b"magnetic"), 271.5, ["assumed"]),
        ((RATIONAL, [(360, 1)]), "T", 0.0, []),
        ((RATIONAL, [(0, 1)]), "T", 0.0, []),
        ((DOUBLE, [90.25]), "T", 90.25, []),
        ((SHORT, [90]), "T", 90.0, []),
        ((RATIONAL, [(0, 0)]), "T", None, []),
        ((RATIONAL, [(400, 1)]), "T", None, ["skipped"]),
        ((SRATIONAL, [(-90, 1)]), "T", None, ["skipped"]),
        ((RATIONAL, [(5, 0)]), "T", None, ["skipped"]),
        ((DOUBLE, [math.nan]), "T", None, ["skipped"]),
        (text("271.5"), "T", 271.5, []),
        (text("north"), "T", None, ["skipped"]),
    ],
)
def test_headings_are_degrees_from_true_north_or_remarked(tmp_path, value, reference, heading, kinds):
    entry = {} if reference is None else {DIRECTION_REF: text(reference) if isinstance(reference, str) else reference}
    place, remarks = read(tmp_path, rio() | {DIRECTION: value} | entry)
    assert place.heading == heading and [kind for kind, _ in remarks] == kinds


@pytest.mark.parametrize(
    ("photo", "top", "seconds"),
    [
        ({ORIGINAL: "2024:05:01 21:00:00", OFFSET_ORIGINAL: "+09:00"}, {}, NOON),
        ({ORIGINAL: "2024:05:01 05:30:00", OFFSET_ORIGINAL: "-06:30"}, {}, NOON),
        ({ORIGINAL: "2024:05:01 12:00:00", OFFSET_ORIGINAL: "Z"}, {}, NOON),
        ({ORIGINAL: "2024:05:01 21:00:00", OFFSET_ORIGINAL: "+0900", SUBSEC_ORIGINAL: "25"}, {}, NOON + 0.25),
        ({ORIGINAL: "2024:05:01 21:00:00", OFFSET_ORIGINAL: "+9:00", SUBSEC_ORIGINAL: "1234567"}, {}, NOON + 0.123456),
        ({ORIGINAL: "2024:05:01 21:00:00", OFFSET_ORIGINAL: "+09:00", OFFSET_CHANGED: "+02:00"}, {}, NOON),
        ({DIGITIZED: "2024:05:01 21:00:00", OFFSET_DIGITIZED: "+09:00"}, {}, NOON),
        ({OFFSET_CHANGED: "+09:00"}, {CHANGED: "2024:05:01 21:00:00"}, NOON),
        ({ORIGINAL: "2024:05:01 21:00:00+09:00"}, {}, NOON),
        ({ORIGINAL: "2024:05:01 21:00:00+09:00", OFFSET_ORIGINAL: "+02:00", SUBSEC_ORIGINAL: "25"}, {}, NOON),
        ({ORIGINAL: "2024-05-01T21:00:00.25", OFFSET_ORIGINAL: "+09:00", SUBSEC_ORIGINAL: "25"}, {}, NOON + 0.25),
        ({ORIGINAL: "2024:05:01 21:00", OFFSET_ORIGINAL: "+09:00", SUBSEC_ORIGINAL: "25"}, {}, NOON),
        ({}, {ORIGINAL: "2024:05:01 21:00:00", OFFSET_ORIGINAL: "+09:00"}, NOON),  # in the first directory
    ],
)
def test_offsets_from_utc_count(tmp_path, photo, top, seconds):
    place, remarks = read(tmp_path, None, _texts(photo), _texts(top))
    assert to_seconds(place.timestamp) == pytest.approx(seconds, abs=1e-6)
    assert not any("without a zone" in remark for _, remark in remarks)


def test_the_zone_of_another_time_of_the_photo_is_an_assumption(tmp_path):
    photo = {ORIGINAL: "2024:05:01 21:00:00", OFFSET_CHANGED: "+09:00"}
    place, remarks = read(tmp_path, None, _texts(photo))
    assert to_seconds(place.timestamp) == NOON and remarks[0][0] == "assumed"
    place, remarks = read(tmp_path, None, _texts(photo | {OFFSET_DIGITIZED: "+02:00"}))
    assert to_seconds(place.timestamp) == NOON + 9 * 3600 and remarks == [("assumed", "times without a zone, read as UTC")]


@pytest.mark.parametrize("offset", ["", "   :  ", "+25:00", "+09:75", "09:00", "JST", "+9", "++9:00", "+09:00:00", "\0"])
def test_broken_offsets_are_ignored_and_the_time_is_read_as_utc(tmp_path, offset):
    place, remarks = read(tmp_path, None, _texts({ORIGINAL: "2024:05:01 12:00:00", OFFSET_ORIGINAL: offset}))
    assert to_seconds(place.timestamp) == NOON and remarks == [("assumed", "times without a zone, read as UTC")]


BROKEN_TIMES = [
    text("0000:00:00 00:00:00"),
    text("    :  :     :  :  "),
    text(" " * 19),
    (ASCII, b"\0" * 20),
    text("----:--:-- --:--:--"),
    text("garbage"),
    text("2024:13:01 12:00:00"),
    text("2024:02:30 12:00:00"),
    text("2024:05:01 25:00:00"),
    text("1714564800"),
    (SHORT, [2024]),
    (UNDEFINED, b"\xff\xfe\xfd\xfc"),
    (RATIONAL, [(2024, 1)]),
]


@pytest.mark.parametrize("broken", BROKEN_TIMES)
def test_a_broken_time_gives_way_to_the_next(tmp_path, broken):
    stamp = {GPS_DATE: text("2024:05:01"), GPS_TIME: dms((11, 1), (59, 1), (3050, 100))}
    place, _ = read(tmp_path, stamp, {ORIGINAL: broken} | _texts({DIGITIZED: "2024:05:01 12:00:00"}))
    assert to_seconds(place.timestamp) == NOON
    place, _ = read(tmp_path, stamp, {ORIGINAL: broken, DIGITIZED: broken}, _texts({CHANGED: "2024:05:01 12:00:01"}))
    assert to_seconds(place.timestamp) == NOON + 1
    place, remarks = read(tmp_path, stamp, {ORIGINAL: broken, DIGITIZED: broken}, {CHANGED: broken})
    assert to_seconds(place.timestamp) == NOON - 29.5 and not any("zone" in remark for _, remark in remarks)
    place, _ = read(tmp_path, None, {ORIGINAL: broken})
    assert place == Place("a.jpg")


def test_blank_times_are_unknown_and_garbage_is_remarked(tmp_path):
    for broken in BROKEN_TIMES:
        remarks = read(tmp_path, None, {ORIGINAL: broken})[1]
        is_blank = broken in BROKEN_TIMES[:5]
        assert [kind for kind, _ in remarks] == ([] if is_blank else ["skipped"])


@pytest.mark.parametrize(
    ("day", "clock"),
    [
        ("2024:05:01", [(0, 0), (0, 0), (0, 0)]),
        ("2024:05:01", [(24, 1), (0, 1), (0, 1)]),
        ("2024:05:01", [(12, 1), (60, 1), (0, 1)]),
        ("2024:05:01", [(12, 1), (0, 1)]),
        ("2024:05:01", [(12, 1), (0, 1), (0, 0)]),
        ("0000:00:00", [(12, 1), (0, 1), (0, 1)]),
        ("", [(12, 1), (0, 1), (0, 1)]),
    ],
)
def test_a_broken_gps_time_is_unknown(tmp_path, day, clock):
    assert read(tmp_path, {GPS_DATE: text(day), GPS_TIME: dms(*clock)})[0].timestamp is None


def test_the_time_of_the_last_change_is_an_assumption(tmp_path):
    _, remarks = read(tmp_path, None, None, _texts({CHANGED: "2024:05:01 12:00:00"}))
    assert [kind for kind, _ in remarks] == ["assumed", "assumed"] and "last change" in remarks[0][1]


def _texts(values):
    return {tag: text(value) for tag, value in values.items()}


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.avif", "a.mpo", "a.heic"])
def test_every_format_with_exif_is_read(tmp_path, name):
    block = exif_block(rio("south", "west"), _texts({ORIGINAL: "2024:05:01 21:00:00", OFFSET_ORIGINAL: "+09:00"}))
    if name.endswith("heic"):
        pillow_heif.from_pillow(draw(0)).save(tmp_path / name, exif=block)
    elif name.endswith("mpo"):
        draw(0).save(tmp_path / name, exif=block, save_all=True, append_images=[draw(1)])
    elif name.endswith("tif"):
        exif = Image.Exif()
        exif.load(block)
        draw(0).save(tmp_path / name, exif=exif)
    else:
        draw(0).save(tmp_path / name, exif=block)
    place = read_place(tmp_path / name)
    assert degrees(place) == pytest.approx(RIO, abs=1e-9) and to_seconds(place.timestamp) == NOON


@given(
    latitude=st.floats(-90, 90, allow_subnormal=False) | st.sampled_from([-90.0, 90.0, 0.0, 1e-7, -1e-7, 16.65, -59.999999999]),
    longitude=st.floats(-180, 180, allow_subnormal=False) | st.sampled_from([-180.0, 180.0, 0.0, -0.0, 179.9999999999]),
    form=st.sampled_from(["seconds", "minutes", "degrees", "signed", "float"]),
)
def test_any_position_on_the_globe_comes_back_within_a_decimetre(tmp_path_factory, latitude, longitude, form):
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    signed = form == "signed"
    north, east = ("S" if latitude < 0 else "N"), ("W" if longitude < 0 else "E")
    values = [_written(angle if signed and angle < -1e-6 else abs(angle), form) for angle in (latitude, longitude)]
    letters = [None if signed and angle < -1e-6 else letter for angle, letter in ((latitude, north), (longitude, east))]
    save_photo(path, gps_entries(values[0], letters[0], values[1], letters[1]))
    place = read_place(path)
    if place.latitude is None:  # exactly 0, 0 after rounding, which stands for no position
        assert abs(latitude) < 1e-6 and abs(longitude) < 1e-6
    else:
        assert distance_in_metres(Place("", *degrees(place)), Place("", latitude, longitude)) < 0.1


def _written(angle, form):
    """Return an angle as a camera or a program writes it."""
    if form == "float":
        return DOUBLE, [angle]
    if form == "degrees":
        return RATIONAL, [(round(angle * 1e7), 10**7), (0, 1), (0, 0)]
    if form == "minutes":
        units = round(abs(angle) * 60 * 10**6)
        return RATIONAL, [(units // 60_000_000, 1), (units % 60_000_000, 10**6), (0, 1)]
    units = round(abs(angle) * 3600 * 10**4)
    parts = [units // 36_000_000, units // 600_000 % 60, units % 600_000]
    sign = -1 if angle < 0 else 1
    kind = SRATIONAL if form == "signed" else RATIONAL
    return kind, [(sign * parts[0], 1), (sign * parts[1], 1), (sign * parts[2], 10**4)]


@given(
    moment=st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 30), timezones=st.just(UTC)),
    offset=st.integers(-12 * 4, 14 * 4),
    form=st.sampled_from(["offset", "in the text", "gps", "xmp", "takeout"]),
)
def test_any_instant_in_any_form_is_the_same_instant(tmp_path_factory, moment, offset, form):
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    local = moment.astimezone(timezone(timedelta(minutes=15 * offset)))
    sign, minutes = ("-" if offset < 0 else "+"), 15 * abs(offset)
    zone, fraction = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}", f"{local.microsecond:06d}"
    gps, photo = None, None
    xmp = b""
    if form == "offset":
        photo = _texts({ORIGINAL: f"{local:%Y:%m:%d %H:%M:%S}", OFFSET_ORIGINAL: zone, SUBSEC_ORIGINAL: fraction})
    elif form == "in the text":
        photo = _texts({DIGITIZED: f"{local:%Y:%m:%d %H:%M:%S}.{fraction}{zone}"})
    elif form == "gps":
        seconds = (moment.second * 10**6 + moment.microsecond, 10**6)
        gps = {GPS_DATE: text(f"{moment:%Y:%m:%d}"), GPS_TIME: dms((moment.hour, 1), (moment.minute, 1), seconds)}
    elif form == "xmp":
        xmp = packet(f'xmp:CreateDate="{local.isoformat()}"')
    else:
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() or 1e-6  # 0 stands for an unknown time
        path.with_name("a.jpg.json").write_text(json.dumps({"photoTakenTime": {"timestamp": f"{seconds:.6f}"}}))
    save_photo(path, gps, photo, xmp=xmp)
    assert to_seconds(read_place(path).timestamp) == pytest.approx(moment.timestamp(), abs=1e-5)


def test_damaged_exif_stops_no_folder_and_is_remarked(tmp_path):
    good = exif_block(rio())
    contents = {
        "head": b"Exif\0\0XX\0*\0\0\0\x08",
        "cut": good[:60],
        "empty": exif_block({}),
        "far": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8825, LONG, 1, 9999, 0),
        "type": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x8825, ASCII, 4, b"abc\0", 0),
        "good": good,
    }
    for name, block in contents.items():
        draw(0).save(tmp_path / f"{name}.jpg", exif=block)
    table = read_places(tmp_path)
    assert [place.path for place in table.places if place.has_position] == ["good.jpg"]
    assert {remark.kind for remark in table.remarks} == {"skipped"}
    assert sum(remark.count for remark in table.remarks) == 5


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_block_that_ends_early_never_loses_a_position_without_a_remark(tmp_path, order):
    """Pillow reads the entries that are there and only warns."""
    good = exif_block(rio(), _texts({ORIGINAL: "2024:05:01 12:00:00", OFFSET_ORIGINAL: "Z"}), order=order)
    path = tmp_path / "a.jpg"
    for length in range(len("Exif\0\0"), len(good) + 1):
        draw(0).save(path, exif=good[:length])
        table = read_photo(path)
        if table.places[0].has_position:
            assert degrees(table.places[0]) == pytest.approx(RIO)
            assert table.places[0].timestamp or table.remarks
        else:
            assert [remark.kind for remark in table.remarks] == ["skipped"]
    assert table.places[0].has_position and table.places[0].timestamp and not table.remarks


def test_a_photo_without_a_position_is_not_damaged(tmp_path):
    for block in (exif_block(), exif_block(None, {}), exif_block(None, None, {CHANGED: text("2024:05:01 12:00:00+00:00")})):
        draw(0).save(tmp_path / "a.jpg", exif=block)
        assert not [remark for remark in read_photo(tmp_path / "a.jpg").remarks if remark.kind == "skipped"]


ODD_VALUES = [
    (BYTE, b"\x05"),
    (ASCII, b"5\0"),
    (ASCII, b"\xff\xfe\xfd\0"),
    (SHORT, [5]),
    (SHORT, [5, 6, 7]),
    (LONG, [4_294_967_295]),
    (RATIONAL, [(0, 0)]),
    (RATIONAL, [(5, 0), (4_294_967_295, 1), (1, 4_294_967_295)]),
    (UNDEFINED, b"\0\1\2\3"),
    (SRATIONAL, [(-5, -1), (5, -1), (0, -1)]),
    (FLOAT, [math.nan, math.inf, -1e30]),
    (DOUBLE, [1e300]),
]
GPS_TAGS = [LATITUDE, LONGITUDE, 1, 3, GPS_TIME, GPS_DATE, STATUS, DIRECTION, DIRECTION_REF, DATUM]
TIME_TAGS = [ORIGINAL, DIGITIZED, OFFSET_ORIGINAL, OFFSET_CHANGED, OFFSET_DIGITIZED, SUBSEC_ORIGINAL]


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_values_of_any_type_in_any_tag_give_a_place_that_can_be_stored(tmp_path, odd):
    """A number as DateTimeOriginal stopped the indexing of a whole folder when Arrow stored it."""
    gps = rio() | {GPS_DATE: text("2024:05:01"), GPS_TIME: dms((12, 1), (0, 1), (0, 1)), DIRECTION: (RATIONAL, [(9, 1)])}
    times = _texts({ORIGINAL: "2024:05:01 12:00:00", OFFSET_ORIGINAL: "+09:00", SUBSEC_ORIGINAL: "25"})
    for tag in GPS_TAGS:
        save_photo(tmp_path / f"gps{tag}.jpg", gps | {tag: odd}, times)
    for tag in TIME_TAGS:
        save_photo(tmp_path / f"time{tag}.jpg", gps, times | {tag: odd})
    for tag in (CHANGED, 0x8769, 0x8825, 0x112):
        save_photo(tmp_path / f"top{tag}.jpg", None, None, {tag: odd})
    places = read_places(tmp_path).places
    table = pa.Table.from_pylist([asdict(place) for place in places], schema=PLACE_SCHEMA)
    assert table.num_rows == len(GPS_TAGS) + len(TIME_TAGS) + 4
    located = [place for place in places if place.has_position]
    assert all(degrees(place) == pytest.approx(RIO) for place in located if place.path not in ("gps2.jpg", "gps4.jpg"))


@given(block=st.binary(max_size=200), position=st.integers(0, 400))
def test_changed_exif_blocks_raise_nothing(tmp_path_factory, block, position):
    whole = exif_block(rio() | {DIRECTION: (RATIONAL, [(1, 1)])}, _texts({ORIGINAL: "2024:05:01 21:00:00"}))
    start = 6 + position % (len(whole) - 6)
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    draw(0, 8, 8).save(path, exif=(whole[:start] + block + whole[start + len(block) :])[:60_000])
    place = read_place(path)
    assert place.timestamp is None or isinstance(place.timestamp, str)
    assert place.heading is None or isinstance(place.heading, float)


@pytest.mark.parametrize(
    "odd", [{0x10F: (RATIONAL, [(5, 1)])}, {0x13B: (DOUBLE, [1.5])}, {0x131: (SRATIONAL, [(1, 2), (3, 4)])}]
)
@pytest.mark.parametrize(("orientation", "corner"), [(6, (15, 0)), (3, (15, 7)), (8, (0, 15))])
def test_a_photo_whose_exif_cannot_be_written_again_is_turned(tmp_path, odd, orientation, corner):
    """Texts of another type: Pillow reads them, and raises AttributeError when it writes them without the orientation."""
    size = (16, 8)
    picture = Image.new("RGB", size)
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(tmp_path / "a.png", exif=exif_block(top=odd | {0x112: (SHORT, [orientation])}))
    upright = open_photo(tmp_path / "a.png")
    expected = {6: (7, 0), 3: (15, 7), 8: (0, 15)}[orientation]
    assert upright.getpixel(expected) == (255, 255, 255)
    assert upright.getexif().get(0x112) is None


@pytest.mark.parametrize("orientation", [None, 6])
def test_exif_in_jpeg_2000_is_read(tmp_path, orientation):
    """Pillow does not read the box that ExifTool and scanners write it to."""
    exif = gps_exif(43.5, 11.5, 90.0)
    if orientation is not None:
        exif[Base.Orientation] = orientation
    block = exif.tobytes()[6:]
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    path = save(tmp_path / "a.jp2", 1)
    boxes = ((b"JpgTiffExif->JP2", block), (bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), xmp))
    with path.open("ab") as file:
        for identity, content in boxes:
            file.write(struct.pack(">I", 24 + len(content)) + b"uuid" + identity + content)
    place = read_place(path)
    assert (place.latitude, place.longitude, place.heading) == pytest.approx((43.5, 11.5, 90.0))
    assert open_photo(path).size == ((60, 90) if orientation else (90, 60))
