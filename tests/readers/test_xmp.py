"""Positions, headings and times in XMP: in photos of every format, in any of its notations, and never from hostile XML."""

import contextlib
import struct

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import ReadOptions, read_photo, read_place, read_places
from d2vpr_hf.readers.metadata.xmp import parse_xmp
from tests.photos import draw
from tests.readers.exif_blocks import ORIGINAL, RATIONAL, exif_block, gps_entries, text

RIO = (-22.9519, -43.2105)
NOON = 1_714_564_800.0  # 2024-05-01T12:00:00Z
EXIF, DRONE = 'xmlns:exif="http://ns.adobe.com/exif/1.0/"', 'xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"'
LATITUDE_AND_LONGITUDE = 'exif:GPSLatitude="22,57.114S" exif:GPSLongitude="43,12.63W"'
OTHER = gps_entries((RATIONAL, [(10, 1), (0, 1), (0, 1)]), "N", (RATIONAL, [(20, 1), (0, 1), (0, 1)]), "E")


def packet(attributes="", elements="", beginning='<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'):
    """Return an XMP packet with a description of the photo."""
    names = 'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
    return (
        f'{beginning}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {EXIF} {DRONE} {names} {attributes}>{elements}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def read(tmp_path, xmp, **options):
    """Return the place in a photo's XMP, next to EXIF without a position, and the kinds and texts of the remarks."""
    draw(0).save(tmp_path / "a.jpg", xmp=xmp, **options)
    table = read_photo(tmp_path / "a.jpg")
    return table.places[0], [(remark.kind, remark.text) for remark in table.remarks]


def degrees(place):
    return None if place.latitude is None else (place.latitude, place.longitude)


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        ("22,57.114S", "43,12.63W"),
        ("22,57,6.84S", "43,12,37.8W"),
        ("22,57,6.84 s", "43, 12, 37.8 w"),
        ("-22.9519", "-43.2105"),
        ("22.9519S", "W43.2105"),
        ("22/1,57/1,684/100S", "43/1,12/1,378/10W"),
        ("22 deg 57' 6.84&quot; S", "43° 12′ 37.8″ W"),
    ],
)
@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_positions_are_read_in_every_notation(tmp_path, latitude, longitude, form):
    if form == "attributes":
        xmp = packet(f'exif:GPSLatitude="{latitude}" exif:GPSLongitude="{longitude}"')
    else:
        xmp = packet("", f"<exif:GPSLatitude>{latitude}</exif:GPSLatitude> <exif:GPSLongitude>{longitude}</exif:GPSLongitude>")
    place, remarks = read(tmp_path, xmp)
    assert degrees(place) == pytest.approx(RIO, abs=1e-9) and place.utm_zone == "23K" and not remarks


@pytest.mark.parametrize(
    "attributes",
    [
        'drone-dji:GpsLatitude="-22.9519" drone-dji:GpsLongitude="-43.2105"',
        'drone-dji:GpsLatitude="-22.9519" drone-dji:GpsLongtitude="-43.2105"',
        'drone-dji:Latitude="-22.9519" drone-dji:Longitude="-43.2105"',
        'exif:GPSLatitude="0,0S" exif:GPSLongitude="0,0W" drone-dji:GpsLatitude="-22.9519" drone-dji:GpsLongitude="-43.2105"',
    ],
)
def test_positions_of_drones_are_signed_degrees(tmp_path, attributes):
    assert degrees(read(tmp_path, packet(attributes))[0]) == pytest.approx(RIO)


def test_the_signs_of_drones_mean_the_hemisphere_without_a_letter(tmp_path):
    for plus in ("", "+"):
        place, remarks = read(tmp_path, packet(f'drone-dji:GpsLatitude="{plus}22.9519" drone-dji:GpsLongitude="{plus}43.2105"'))
        assert degrees(place) == pytest.approx((22.9519, 43.2105)) and not remarks


@pytest.mark.parametrize(
    "attributes",
    [
        'exif:GPSLatitude="22.9519" exif:GPSLongitude="43.2105"',
        'exif:GPSLatitude="22,57.114" exif:GPSLongitude="43,12.63"',
        'exif:GPSLatitude="22,57.114S"',
        'exif:GPSLatitude="0,0N" exif:GPSLongitude="0,0E"',
        'exif:GPSLatitude="22,5S" exif:GPSLongitude="43,2W"',  # 22° 5', or 22.5°
        'drone-dji:GpsLatitude="-22.9519"',
        'drone-dji:GpsLongtitude="-43.2105"',
        'drone-dji:GpsLatitude="0.00000000" drone-dji:GpsLongitude="0.00000000"',
        'exif:GPSLatitude="22,75.0S" exif:GPSLongitude="43,12.63W"',
        'drone-dji:GpsLatitude="-22,9" drone-dji:GpsLongitude="-43,2"',  # a decimal comma, or 22° 9'
        'exif:GPSLatitude="N22.9519S" exif:GPSLongitude="43,12.63W"',
        'exif:GPSLatitude="95,0.0S" exif:GPSLongitude="43,12.63W"',
        'exif:GPSLatitude="south" exif:GPSLongitude="43,12.63W"',
        'exif:GPSLatitude="-22,57.114N" exif:GPSLongitude="43,12.63W"',
    ],
)
def test_positions_that_are_not_complete_are_unknown_and_counted(tmp_path, attributes):
    place, remarks = read(tmp_path, packet(attributes))
    assert place == Place("a.jpg") and [kind for kind, _ in remarks] == ["skipped"]


@pytest.mark.parametrize(
    "status", ['drone-dji:RtkFlag="0"', 'drone-dji:GpsStatus="Invalid"', 'exif:GPSStatus="V"', 'drone-dji:RtkFlag="50"']
)
def test_positions_that_a_receiver_did_not_measure_are_counted(tmp_path, status):
    positions = (LATITUDE_AND_LONGITUDE, 'drone-dji:GpsLatitude="-22.9519" drone-dji:GpsLongitude="-43.2105"')
    for position in positions:
        place, remarks = read(tmp_path, packet(f"{position} {status}"))
        is_failed = status[:4] == position[:4] and "50" not in status
        assert degrees(place) == pytest.approx(RIO) and [kind for kind, _ in remarks] == ["assumed"] * is_failed


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0" encoding="UTF-16"?>'])
def test_packets_in_every_encoding_of_unicode_are_read(tmp_path, encoding, declaration):
    if declaration and encoding == "utf-8-sig":
        return
    text = packet(LATITUDE_AND_LONGITUDE, "", declaration or '<?xpacket begin="\ufeff"?>').decode() + " " * 50
    assert degrees(read(tmp_path, text.encode(encoding))[0]) == pytest.approx(RIO)


def write_extended(path, attributes, extended, count=None):
    """Write a photo with XMP and the first parts of an extended packet, in segments of 40 kB; `None` for all."""
    identity = b"0123456789ABCDEF" * 2
    parts = [(start, extended[start : start + 40_000]) for start in range(0, len(extended), 40_000)]
    segments = b""
    for start, part in reversed(parts[:count]):
        content = b"http://ns.adobe.com/xmp/extension/\0" + identity + struct.pack(">II", len(extended), start) + part
        segments += b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    note = f'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{identity.decode()}" {attributes}'
    draw(0).save(path, xmp=packet(note))
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + segments + jpeg[2:])


@pytest.mark.parametrize("is_whole", [True, False])
def test_properties_in_the_extended_packet_are_read(tmp_path, is_whole):
    """Programs move properties there if a packet would exceed 64 kB, such as by a depth map."""
    path = tmp_path / "a.jpg"
    extended = packet(LATITUDE_AND_LONGITUDE) + b" " * 70_000
    write_extended(path, 'exif:GPSImgDirection="90"', extended, None if is_whole else 1)
    assert degrees(read_place(path)) == (pytest.approx(RIO, abs=1e-9) if is_whole else None)


def test_a_damaged_extended_packet_leaves_the_packet(tmp_path):
    """Its error took the position of the photo's good packet away."""
    write_extended(tmp_path / "a.jpg", LATITUDE_AND_LONGITUDE, b"<x:xmpmeta" * 10)
    table = read_photo(tmp_path / "a.jpg")
    assert degrees(table.places[0]) == pytest.approx(RIO, abs=1e-9)
    assert [remark.text for remark in table.remarks] == ["extended XMP blocks in photos that are damaged"]


def test_the_profile_that_imagemagick_writes_into_png_is_read(tmp_path):
    for content, kinds in ((packet(LATITUDE_AND_LONGITUDE).hex(), []), ("zz", ["skipped"])):
        info = PngInfo()
        info.add_text("Raw profile type xmp", f"\nxmp\n    {len(content) // 2}\n{content[:72]}\n{content[72:]}\n", zip=True)
        draw(0).save(tmp_path / "a.png", pnginfo=info)
        table = read_photo(tmp_path / "a.png")
        assert table.places[0].has_position == (not kinds) and [remark.kind for remark in table.remarks] == kinds


def test_north_and_east_may_be_assumed(tmp_path):
    draw(0).save(tmp_path / "a.jpg", xmp=packet('exif:GPSLatitude="22.9519" exif:GPSLongitude="43.2105"'))
    table = read_photo(tmp_path / "a.jpg", ReadOptions(assume_north_east=True))
    assert degrees(table.places[0]) == pytest.approx((22.9519, 43.2105)) and table.remarks[0].kind == "assumed"


def test_the_place_that_a_photo_shows_is_not_its_position(tmp_path):
    """IPTC's LocationShown is a structure with GPS properties of its own."""
    shown = (
        '<Iptc:LocationShown xmlns:Iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><rdf:Bag><rdf:li><rdf:Description '
        f"{LATITUDE_AND_LONGITUDE}/></rdf:li></rdf:Bag></Iptc:LocationShown>"
        '<Iptc:LocationShown xmlns:Iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" rdf:parseType="Resource">'
        "<exif:GPSLatitude>22,57.114S</exif:GPSLatitude><exif:GPSLongitude>43,12.63W</exif:GPSLongitude></Iptc:LocationShown>"
    )
    assert read(tmp_path, packet("", shown)) == (Place("a.jpg"), [])


def test_any_prefix_of_the_namespace_is_read_and_other_namespaces_are_not(tmp_path):
    other = packet('xmlns:e="http://ns.adobe.com/exif/1.0/" e:GPSLatitude="22,57.114S" e:GPSLongitude="43,12.63W"')
    assert degrees(read(tmp_path, other)[0]) == pytest.approx(RIO)
    false = packet(LATITUDE_AND_LONGITUDE).replace(b"http://ns.adobe.com/exif/1.0/", b"http://example.org/")
    assert degrees(read(tmp_path, false)[0]) is None


def test_a_comment_inside_a_value_does_not_cut_it(tmp_path):
    elements = "<exif:GPSLatitude>22,57<!-- -->.114S</exif:GPSLatitude><exif:GPSLongitude>43,12.63W</exif:GPSLongitude>"
    assert degrees(read(tmp_path, packet("", elements))[0]) == pytest.approx(RIO)


def test_exif_has_precedence_and_xmp_fills_its_gaps(tmp_path):
    yaw = 'drone-dji:GimbalYawDegree="-88.5" exif:DateTimeOriginal="2024-05-01T21:00:00+09:00"'
    place, remarks = read(tmp_path, packet(f"{LATITUDE_AND_LONGITUDE} {yaw}"), exif=exif_block(OTHER))
    assert degrees(place) == pytest.approx((10, 20))
    assert place.heading == 271.5 and to_seconds(place.timestamp) == NOON and not remarks


def test_xmp_replaces_an_unusable_position_of_exif_with_a_remark(tmp_path):
    without_letters = {tag: value for tag, value in OTHER.items() if tag not in (1, 3)}
    place, remarks = read(tmp_path, packet(LATITUDE_AND_LONGITUDE), exif=exif_block(without_letters))
    assert degrees(place) == pytest.approx(RIO)
    assert [kind for kind, _ in remarks] == ["corrected"] and "read from XMP instead" in remarks[0][1]


@pytest.mark.parametrize(
    ("attributes", "heading", "kinds"),
    [
        ('drone-dji:GimbalYawDegree="-90.0" drone-dji:FlightYawDegree="+10.0"', 270.0, []),
        ('drone-dji:GimbalYawDegree="+179.9"', 179.9, []),
        ('drone-dji:FlightYawDegree="-10.5"', 349.5, ["assumed"]),
        ('exif:GPSImgDirection="2715/10" exif:GPSImgDirectionRef="T" drone-dji:GimbalYawDegree="0"', 271.5, []),
        ('exif:GPSImgDirection="90" exif:GPSImgDirectionRef="M"', 90.0, ["assumed"]),
        ('exif:GPSImgDirection="400/1"', None, ["skipped"]),
        ('exif:GPSImgDirection="0/0"', None, []),
        ('drone-dji:GimbalYawDegree="left"', None, []),
    ],
)
def test_headings_of_cameras_and_drones(tmp_path, attributes, heading, kinds):
    place, remarks = read(tmp_path, packet(f"{LATITUDE_AND_LONGITUDE} {attributes}"))
    assert place.heading == heading and [kind for kind, _ in remarks] == kinds


@pytest.mark.parametrize(
    ("attributes", "seconds", "is_remarked"),
    [
        ('exif:DateTimeOriginal="2024-05-01T21:00:00+09:00" xmp:CreateDate="2025-01-01"', NOON, False),
        ('exif:DateTimeOriginal="2024-05-01T12:00:00.25"', NOON + 0.25, True),
        ('exif:DateTimeOriginal="0000-00-00T00:00:00" xmp:CreateDate="2024-05-01T12:00:00Z"', NOON, False),
        ('photoshop:DateCreated="2024-05-01T12:00"', NOON, True),
        ('exif:GPSTimeStamp="2024-05-01T12:00:00Z"', NOON, False),
        ('exif:GPSTimeStamp="12:00:00" xmp:ModifyDate="2024-05-01T12:00:00Z"', None, False),
    ],
)
def test_times_of_xmp_are_the_last_resort(tmp_path, attributes, seconds, is_remarked):
    place, remarks = read(tmp_path, packet(attributes))
    assert place.timestamp is None if seconds is None else to_seconds(place.timestamp) == seconds
    assert remarks == ([("assumed", "times without a zone, read as UTC")] if is_remarked else [])
    exif = exif_block({}, {ORIGINAL: text("2020:01:01 00:00:00")})
    assert read(tmp_path, packet(attributes), exif=exif)[0].timestamp == "2020:01:01 00:00:00"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif", "a.heic", "a.mpo"])
def test_xmp_of_every_format_is_read(tmp_path, name):
    xmp = packet(LATITUDE_AND_LONGITUDE)
    picture = draw(0)
    if name.endswith("png"):
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        picture.save(tmp_path / name, pnginfo=info)
    elif name.endswith("tif"):
        picture.save(tmp_path / name, tiffinfo={700: xmp})
    elif name.endswith("heic"):
        pillow_heif.from_pillow(picture).save(tmp_path / name, xmp=xmp)
    elif name.endswith("mpo"):
        picture.save(tmp_path / name, save_all=True, append_images=[draw(1)], xmp=xmp)
    else:
        picture.save(tmp_path / name, xmp=xmp)
    assert degrees(read_place(tmp_path / name)) == pytest.approx(RIO)


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    "xmp",
    [
        BOMB + packet('exif:GPSLatitude="22,57.114S"', "<exif:GPSLongitude>&b;</exif:GPSLongitude>", ""),
        OUTSIDE + packet('exif:GPSLatitude="22,57.114S"', "<exif:GPSLongitude>&a;</exif:GPSLongitude>", ""),
        b"<!DOCTYPE x>" + packet(LATITUDE_AND_LONGITUDE, "", ""),
        packet(LATITUDE_AND_LONGITUDE)[:-40],
        b"not XML",
        b"<a>" * 10_000,
        b'<?xml version="1.0" encoding="klingon"?><a/>',
        packet(LATITUDE_AND_LONGITUDE).replace(b"22,57", b"\xff\xfe"),
    ],
)
def test_hostile_and_damaged_xmp_is_skipped_and_counted(tmp_path, xmp):
    place, remarks = read(tmp_path, xmp)
    assert place == Place("a.jpg") and remarks == [("skipped", "XMP blocks in photos that are damaged")]


@given(st.binary(max_size=60), st.integers(0, 2000))
def test_changed_packets_raise_only_value_errors(noise, position):
    whole = packet(LATITUDE_AND_LONGITUDE)
    start = position % len(whole)
    with contextlib.suppress(ValueError):
        parse_xmp(whole[:start] + noise + whole[start + len(noise) :])


def test_utf_16_and_byte_order_marks_are_read():
    xmp = packet(LATITUDE_AND_LONGITUDE, "", "").decode()
    for content in (xmp.encode("utf-16"), xmp.encode("utf-8-sig"), b" \n" + xmp.encode() + b"  \n\0\0"):
        assert parse_xmp(content)["exif:GPSLatitude"] == "22,57.114S"


@given(
    latitude=st.floats(-90, 90, allow_subnormal=False) | st.sampled_from([-90.0, 90.0, 0.0, -1e-7]),
    longitude=st.floats(-180, 180, allow_subnormal=False) | st.sampled_from([-180.0, 180.0, 179.99999999]),
)
def test_any_position_on_the_globe_comes_back_within_a_decimetre(tmp_path_factory, latitude, longitude):
    """As a sidecar file of Adobe's programs: minutes with seven decimals."""
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    texts = [_adobe(latitude, "NS"), _adobe(longitude, "EW")]
    path.with_suffix(".xmp").write_bytes(packet(f'exif:GPSLatitude="{texts[0]}" exif:GPSLongitude="{texts[1]}"'))
    place = read_places(path.parent).places[0]
    if place.latitude is None:
        assert abs(latitude) < 1e-6 and abs(longitude) < 1e-6
    else:
        assert distance_in_metres(Place("", *degrees(place)), Place("", latitude, longitude)) < 0.1


def _adobe(angle, letters):
    whole, minutes = divmod(round(abs(angle) * 60e7), 60 * 10**7)
    return f"{whole},{minutes / 1e7:.7f}{letters[angle < 0]}"
