"""Positions are read from names, EXIF and tables; damaged and malformed files are named."""

import math
import os
import zipfile
from pathlib import Path

import pillow_heif
import pytest
import utm
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.place import all_with_utm
from d2vpr_hf.readers import UnreadablePhotoError, find_photos, open_photo, read_places
from d2vpr_hf.readers.at_names import place_from_name
from tests.photos import at_name, draw, gps_exif, save, save_bad_files


def test_at_names_are_parsed(tmp_path):
    """The example of the convention's documentation; an @ in a folder above must not confuse the parser."""
    name = "@0544388.51@4172758.25@10@S@037.70098@-122.49646@kPnABhWJ1kA61eMNPLs1vQ@@210@@@@201606@@.jpg"
    folder = tmp_path / "@me@home"
    save(folder / "deep" / name, 0)
    table = read_places(folder)
    assert table.source == "names"
    assert table.places == [
        Place(
            f"deep/{name}",
            latitude=37.70098,
            longitude=-122.49646,
            utm_east=544388.51,
            utm_north=4172758.25,
            utm_zone="10S",
            heading=210.0,
            timestamp="201606",
        )
    ]
    assert table.photo(table.places[0]).is_file()


def test_conditions_are_read_from_names_and_tables(tmp_path):
    """The note of @ names and a column of a table; empty ones are not known."""
    name = "@544388.51@4172758.25@10@S@@@@@@@@@201606@night@.jpg"
    save(tmp_path / "names" / name, 0)
    save(tmp_path / "names" / name.replace("night", ""), 0)
    assert [place.condition for place in read_places(tmp_path / "names").places] == [None, "night"]
    save(tmp_path / "table" / "a.jpg", 0)
    (tmp_path / "table" / "p.csv").write_text("path,x,y,Condition\na.jpg,1,2,snow\nb.jpg,1,2,\n")
    assert [place.condition for place in read_places(tmp_path / "table").places] == ["snow", None]


def test_latitude_follows_from_utm(tmp_path):
    save(tmp_path / at_name(544388.51, 4172758.25), 0)
    place = read_places(tmp_path).places[0]
    assert (place.latitude, place.longitude) == pytest.approx((37.70098, -122.49646), abs=1e-4)


def test_mock_coordinates_without_a_zone_have_no_latitude(tmp_path):
    """SPED, AmsterTime and Nordland: metres of nowhere."""
    save(tmp_path / at_name(100, 200, zone="@"), 0)
    place = read_places(tmp_path).places[0]
    assert (place.utm_east, place.utm_zone, place.latitude, place.has_position) == (100.0, None, None, True)


def test_mock_coordinates_with_a_zone_have_no_latitude(tmp_path):
    save(tmp_path / at_name(100, 200), 0)
    place = read_places(tmp_path).places[0]
    assert (place.utm_east, place.utm_zone, place.latitude) == (100.0, "10S", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("@1@.jpg", r"@1@\.jpg: the name has 3 parts between @, not 16"),
        ("@1@b@c@.jpg", "could not convert string to float: 'b'"),
        ("@@2" + "@" * 13 + ".jpg", "east or north is missing"),
        ("@x@2" + "@" * 13 + ".jpg", "could not convert string to float: 'x'"),
        ("@nan@2" + "@" * 13 + ".jpg", "expected a finite number, got nan"),
        (at_name(1, 2, latitude="99", longitude="0"), r"latitude must be in \[-90, 90\]"),
    ],
)
def test_bad_at_names_are_named(tmp_path, name, message):
    save(tmp_path / name, 0)
    with pytest.raises(ValueError, match=message) as raised:
        read_places(tmp_path)
    assert "@east@north@" in str(raised.value)


def test_one_plain_name_among_at_names_is_an_error(tmp_path):
    save(tmp_path / at_name(1, 2), 0)
    save(tmp_path / "plain.jpg", 1)
    with pytest.raises(ValueError, match=r"plain\.jpg: the name has 1 parts"):
        read_places(tmp_path)


@pytest.mark.parametrize(("latitude", "longitude"), [(43.7711, 11.2486), (-33.8568, -151.2153), (0.5, -0.25)])
def test_positions_are_read_from_exif(tmp_path, latitude, longitude):
    """South and west are letters next to positive numbers."""
    save(tmp_path / "a.jpg", 0, exif=gps_exif(latitude, longitude, heading=271.5))
    save(tmp_path / "b.jpg", 1)
    table = read_places(tmp_path)
    assert (table.source, table.num_positions) == ("exif", 1)
    place, unknown = table.places
    assert (place.latitude, place.longitude) == pytest.approx((latitude, longitude), abs=1e-7)
    assert (place.heading, place.timestamp) == (271.5, "2026:05:04 03:02:01")
    east, north, number, letter = utm.from_latlon(latitude, longitude)
    assert (place.utm_east, place.utm_north) == pytest.approx((east, north), abs=0.05)
    assert place.utm_zone == f"{number}{letter}"
    assert unknown == Place("b.jpg")


def test_exif_without_a_fix_is_no_position(tmp_path):
    """Cameras write 0/0 before they have a fix; 0° N 0° E would be in the sea off Ghana."""
    nothing = (IFDRational(0, 0),) * 3
    exif = Image.Exif()
    exif[IFD.GPSInfo] = {
        GPS.GPSLatitudeRef: "N",
        GPS.GPSLatitude: nothing,
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: nothing,
    }
    save(tmp_path / "a.jpg", 0, exif=exif)
    assert read_places(tmp_path).num_positions == 0


def test_malformed_gps_blocks_are_no_position(tmp_path):
    """Latitude as one number instead of three."""
    exif = Image.Exif()
    exif[IFD.GPSInfo] = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: 43.5, GPS.GPSLongitudeRef: "E", GPS.GPSLongitude: 11.5}
    save(tmp_path / "a.jpg", 0, exif=exif)
    assert read_places(tmp_path).num_positions == 0


def test_positions_are_read_from_csv(tmp_path):
    for i, name in enumerate(("b.jpg", "sub/a.jpg", "unlisted.jpg")):
        save(tmp_path / name, i)
    (tmp_path / "places.csv").write_text("File, LAT, lon, heading\nsub/a.jpg, 43.5, 11.5, 90\nb.jpg, , , \n")
    table = read_places(tmp_path)
    assert (table.source, table.num_positions) == ("csv", 1)
    assert [place.path for place in table.places] == ["sub/a.jpg", "b.jpg"]
    assert (table.places[0].latitude, table.places[0].heading, table.places[0].utm_zone) == (43.5, 90.0, "32T")
    assert table.skipped == {"unlisted.jpg": "not listed in places.csv"}
    assert read_places(tmp_path / "places.csv").places == table.places


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_with_other_separators_is_read(tmp_path, separator):
    save(tmp_path / "a.jpg", 0)
    text = "\ufeff" + "path,lat,lon\r\n./a.jpg,1.5,2.5\r\n".replace(",", separator)
    (tmp_path / "places.csv").write_text(text, encoding="utf-8")
    assert [(place.path, place.longitude) for place in read_places(tmp_path).places] == [("a.jpg", 2.5)]


def test_csv_in_another_encoding_is_refused(tmp_path):
    save(tmp_path / "a.jpg", 0)
    (tmp_path / "places.csv").write_bytes("path,lat,lon\nStraße.jpg,1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"places\.csv is not a table in UTF-8"):
        read_places(tmp_path)


def test_csv_of_a_local_frame_is_read(tmp_path):
    save(tmp_path / "a.jpg", 0)
    (tmp_path / "poses.csv").write_text("path,x,y,z,yaw,frame\na.jpg,1.5,-2,0.25,90,hall\n")
    place = read_places(tmp_path).places[0]
    assert place == Place("a.jpg", x=1.5, y=-2.0, z=0.25, yaw=90.0, frame="hall")
    assert place.is_local and place.has_position


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lat\na.jpg,1\n", "expected the columns path, latitude, longitude"),
        ("", "expected the columns"),
        ("path,lat,lon\n", "lists no photo"),
        ("path,lat,lon\na.jpg,1,x\n", "line 2: could not convert string to float: 'x'"),
        ("path,lat,lon\na.jpg,1,2\nb.jpg,91,2\n", r"line 3: latitude must be in \[-90, 90\]"),
        ("path,lat,lon\na.jpg,nan,2\n", "line 2: expected a finite number"),
        ("path,lat,lon\na.jpg,1_0,2\n", "line 2: expected a finite number"),
        ("path,path,lat,lon\na.jpg,b.jpg,1,2\n", "every column needs a name of its own"),
        ("path,lat,lon\n,1,2\n", "line 2: the path is missing"),
        ("path,lat,lon\na.jpg,1\n", "line 2: latitude and longitude belong together"),
        ("path,lat,lon\na.jpg,10,5,11,5\n", r"line 2: there are more fields than columns: \['11', '5'\]"),
        ("path,lat,lon\na.jpg,1,2\n./a.jpg,3,4\n", r"line 3: a\.jpg is listed in line 2 already"),
        ("path,lat,lon\n" + "a" * 200_000 + ",1,2\n", r"line 2: the line cannot be read \(field larger than field limit"),
    ],
)
def test_bad_csv_is_refused_with_its_line(tmp_path, text, message):
    save(tmp_path / "a.jpg", 0)
    (tmp_path / "places.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_places(tmp_path)


def test_a_folder_with_two_tables_is_refused(tmp_path):
    save(tmp_path / "a.jpg", 0)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path,lat,lon\n")
    with pytest.raises(ValueError, match=r"several CSV files \(a\.csv, b\.csv\)"):
        read_places(tmp_path)


def test_photos_are_listed_in_order(tmp_path):
    for i, name in enumerate(("b.JPG", "a.png", "sub/c.jpeg")):
        save(tmp_path / name, i)
    (tmp_path / "notes.txt").write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in find_photos(tmp_path)] == ["a.png", "b.JPG", "sub/c.jpeg"]


def test_linked_folders_are_entered_once(tmp_path):
    save(tmp_path / "real" / "a.jpg", 0)
    save(tmp_path / "library" / "b.jpg", 1)
    (tmp_path / "library" / "album").symlink_to("../real")
    (tmp_path / "library" / "circle").symlink_to("..")
    found = [path.relative_to(tmp_path / "library").as_posix() for path in find_photos(tmp_path / "library")]
    assert found == ["album/a.jpg", "b.jpg"]


def test_files_that_cannot_be_opened_are_listed(tmp_path):
    """Opening them names the problem; a list without them would lose them silently."""
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "._mac.jpg").write_text("files that macOS adds to photos")
    (tmp_path / ("x" * 240 + ".jpg")).write_text("")
    reasons = {}
    for path in find_photos(tmp_path):
        with pytest.raises(UnreadablePhotoError) as raised:
            open_photo(path)
        reasons[path.name] = str(raised.value)
    assert reasons.pop("x" * 240 + ".jpg") == "the file is empty"
    assert reasons == {
        "circle.jpg": reasons["circle.jpg"],
        "gone.jpg": "no such file",
        "pipe.jpg": "not a regular file",
    }
    for name in ("x" * 300 + ".jpg", "nul\0.jpg"):
        with pytest.raises(UnreadablePhotoError, match="damaged"):
            open_photo(tmp_path / name)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        read_places(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="No photo in"):
        read_places(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        read_places(tmp_path / "file")


def test_errors_of_bad_photos_name_the_problem(tmp_path):
    for name, reason in save_bad_files(tmp_path).items():
        with pytest.raises(UnreadablePhotoError, match=reason):
            open_photo(tmp_path / name)
    with pytest.raises(UnreadablePhotoError, match="no such file"):
        open_photo(tmp_path / "gone.jpg")


def test_bad_photos_do_not_stop_the_reader(tmp_path):
    bad = save_bad_files(tmp_path)
    assert [place.path for place in read_places(tmp_path).places] == sorted(bad)


def test_many_positions_are_converted_as_one_by_one():
    """Zones, hemispheres and Norway's wide zone side by side; what has UTM coordinates keeps them, the poles have none."""
    degrees = [(43.5, 11.5), (-33.9, 18.4), (60.4, 5.3), (43.5, 12.1), (0.1, 11.5), (-0.1, 11.5), (78.2, 15.6)]
    places = [Place("a", *pair) for pair in degrees]
    with_metres = Place("b", 1.0, 2.0, utm_east=3.0, utm_north=4.0)
    polar, unknown = Place("c", 89.0, 2.0), Place("d")
    done = all_with_utm([with_metres, *places, polar, unknown])
    assert (done[0], done[-2], done[-1]) == (with_metres, polar, unknown)
    for place, pair in zip(done[1:-2], degrees, strict=True):
        east, north, number, letter = utm.from_latlon(*pair)
        assert (place.utm_east, place.utm_north, place.utm_zone) == (east, north, f"{number}{letter}")


def test_contents_and_urls_are_opened_as_files_are(tmp_path):
    """As data sets hold photos: turned upright all the same, HEIC without a rotation box included."""
    exif = gps_exif(43.5, 11.5)
    exif[Base.Orientation] = 6
    save(tmp_path / "a.jpg", 0, exif=exif)
    pillow_heif.from_pillow(draw(0)).save(tmp_path / "a.heic", exif=exif)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.jpg", "deep/a.jpg")
    for path, url in (("a.jpg", f"zip://deep/a.jpg::{tmp_path / 'a.zip'}"), ("a.heic", f"file://{tmp_path / 'a.heic'}")):
        expected = open_photo(tmp_path / path)
        assert expected.size == (60, 90)
        for source in ((tmp_path / path).read_bytes(), str(tmp_path / path), url):
            assert open_photo(source).tobytes() == expected.tobytes()


def test_errors_of_bad_contents_and_urls_name_the_problem(tmp_path):
    for name, reason in save_bad_files(tmp_path).items():
        with pytest.raises(UnreadablePhotoError, match=reason):
            open_photo((tmp_path / name).read_bytes())
    sources = {
        f"file://{tmp_path / 'gone.jpg'}": "no such file",
        f"zip://a.jpg::{tmp_path / 'text.jpg'}": "it could not be fetched .*zip",
        "nothing://a.jpg": "an address that is not read",
    }
    for source, reason in sources.items():
        with pytest.raises(UnreadablePhotoError, match=reason):
            open_photo(source)


def test_distances_are_planar_in_one_frame_and_spherical_across_zones():
    """Planar in one zone and hemisphere, on the sphere across zones, unknown otherwise."""
    first = Place("a", 0.0, 0.0, utm_east=100.0, utm_north=200.0, utm_zone="31N")
    assert distance_in_metres(first, Place("b", utm_east=103.0, utm_north=204.0, utm_zone="31P")) == 5.0
    assert distance_in_metres(first, Place("b", utm_east=103.0, utm_north=204.0, utm_zone="31M")) is None
    degree = 2 * math.pi * 6_371_008.8 / 360
    across = Place("b", 0.0, 6.5, utm_east=100.0, utm_north=200.0, utm_zone="32N")
    assert distance_in_metres(first, across) == pytest.approx(6.5 * degree)
    assert distance_in_metres(Place("a", 10.0, 179.5), Place("b", 10.0, -179.5)) < 111_000
    assert distance_in_metres(Place("a", x=0.0, y=0.0, frame="hall"), Place("b", x=3.0, y=4.0, frame="hall")) == 5.0
    assert distance_in_metres(Place("a", x=0.0, y=0.0, frame="hall"), Place("b", x=3.0, y=4.0, frame="yard")) is None
    assert distance_in_metres(Place("a"), first) is None


def test_heights_on_one_side_are_compared_in_the_plane():
    high = Place("map", x=1.0, y=2.0, z=30.0)
    assert distance_in_metres(high, Place("query", x=4.0, y=6.0)) == 5.0
    assert distance_in_metres(Place("query", x=1.0, y=2.0), high) == 0.0
    assert distance_in_metres(Place("a", x=1.0, y=2.0, frame="hall"), Place("b", x=1.0, y=2.0, z=9.0, frame="hall")) == 0.0
    assert distance_in_metres(high, Place("query", x=1.0, y=2.0, z=0.0)) == 30.0


@pytest.mark.parametrize(
    ("name", "latitude", "zone"),
    [
        (at_name(334900.57, 6252288.75, "56@S", "-33.8568", "151.2153"), -33.8568, "56H"),  # S for the southern hemisphere
        (at_name(334900.57, 6252288.75, "56@S"), -33.8568, "56H"),
        (at_name(334900.57, 6252288.75, "56@h"), -33.8568, "56H"),
        (at_name(334900.57, 6252288.75, "056@H"[1:], "-33.8568", "151.2153"), -33.8568, "56H"),
        (at_name(334900.57, 6252288.75, "56@", "-33.8568", "151.2153"), -33.8568, "56H"),  # the latitude settles it
        (at_name(334900.57, 6252288.75, "@", "-33.8568", "151.2153"), -33.8568, "56H"),  # metres and degrees agree there
        ("@@@@@89.5@-45.25@@@@@@@@@.jpg", 89.5, None),  # UTM ends at 84° N
        ("@@@@@-85@10@@@@@@@@@.jpg", -85.0, None),
    ],
)
def test_zones_and_poles_of_at_names_are_read(tmp_path, name, latitude, zone):
    save(tmp_path / name, 0)
    place = read_places(tmp_path).places[0]
    assert place.latitude == pytest.approx(latitude, abs=1e-4) and place.utm_zone == zone


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (at_name(334900.57, 6252288.75, "10@H", "-33.8568", "151.2153"), "km from its latitude"),
        (at_name(334900.57, 6252288.75, "56@T", "-33.8568", "151.2153"), "km from its latitude"),
        (at_name(334900.57, 6252288.75, "99@H"), "expected a UTM zone"),
        (at_name(334900.57, 6252288.75, "56@I"), "expected a UTM zone"),
        (at_name(334900.57, 6252288.75, "56@"), "neither a letter nor a hemisphere"),
        (at_name(334900.57, 6252288.75, "@H"), "expected a UTM zone"),
        (at_name(334900.57, 6252288.75, "56@H", "-33.8568"), "latitude and longitude belong together"),
    ],
)
def test_at_names_with_contradicting_positions_are_named(tmp_path, name, message):
    save(tmp_path / name, 0)
    with pytest.raises(ValueError, match=message) as raised:
        read_places(tmp_path)
    assert name in str(raised.value)


@given(st.floats(-90, 90), st.floats(-180, 180))
@example(84.0, 180.0)
@example(-80.0, -180.0)
@example(60.4, 3.0)
@example(78.0, 33.0)
@example(0.0, -0.0)
def test_any_position_survives_an_at_name(latitude, longitude):
    """Written with two decimals of metres, as the field's data sets are: with degrees, or without them where UTM is defined."""
    place = all_with_utm([Place("", latitude, longitude)])[0]
    texts = [f"{latitude:.7f}", f"{longitude:.7f}"]
    names = [f"@@@@@{texts[0]}@{texts[1]}@@@@@@@@@.jpg"]
    if place.utm_zone is not None:
        zone = f"{place.utm_zone[:-1]}@{place.utm_zone[-1]}"
        names = [at_name(place.utm_east, place.utm_north, zone, *degrees) for degrees in ([], texts)]
    for name in names:
        read = place_from_name(Path(name), Path())
        assert distance_in_metres(Place("", latitude, longitude), Place("", read.latitude, read.longitude)) < 0.1
