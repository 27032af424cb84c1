"""CSV files as people have them: two positions in a row, open quotes, absolute paths, decimal commas, unusual columns."""

import csv
import shutil

import numpy as np
import pytest
import utm
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.place import all_with_utm
from d2vpr_hf.readers import PlaceTable, ReadOptions, read_places, write_places
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.photos import save, save_row


@pytest.fixture
def read(tmp_path):
    """A function that writes a table and reads it."""

    def read_text(text, **options):
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "places.csv").write_bytes(content)
        return read_places(tmp_path / "places.csv", ReadOptions(**options))

    return read_text


def positions(table):
    return [(place.latitude, place.longitude) for place in table.places]


def remark_texts(table):
    return [f"{remark.count} {remark.text}" for remark in table.remarks]


# ---- x and y next to degrees


def mercator(latitude, longitude):
    return 6_378_137 * np.radians(longitude), 6_378_137 * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))


DEGREES = [(48.13743, 11.57549), (48.20012, 11.60001), (48.05, 11.41234)]
BESIDE = {
    "repeat the degrees": [(lon, lat) for lat, lon in DEGREES],
    "repeat the degrees in the other order": DEGREES,
    "are the degrees in metres of a web map": [mercator(*pair) for pair in DEGREES],
    "are the degrees in UTM metres": [utm.from_latlon(*pair)[:2] for pair in DEGREES],
    "are the degrees in UTM metres in the other order": [utm.from_latlon(*pair)[1::-1] for pair in DEGREES],
    "look like pixels": [(1024, 768), (0, 0), (4031, 12)],
}


@pytest.mark.parametrize("reason", BESIDE)
def test_degrees_win_over_copies_and_pixels(read, reason):
    """As metres of a local frame, x and y would put photos 7 km apart next to each other."""
    rows = [f"{i}.jpg,{lat},{lon},{BESIDE[reason][i][0]},{BESIDE[reason][i][1]}" for i, (lat, lon) in enumerate(DEGREES)]
    table = read("\n".join(["path,lat,lon,X,Y", *rows]))
    assert positions(table) == DEGREES and not any(place.is_local for place in table.places)
    assert remark_texts(table) == [f"3 rows whose x and y {reason}: the other position is used"]
    assert table.remarks[0].example == "places.csv, line 2" and table.remarks[0].kind == "assumed"
    assert distance_in_metres(*table.places[:2]) > 7000


def test_rounded_columns_are_still_copies(read):
    table = read("path,x,y,lat,lon\na.jpg,11.58,48.14,48.13743,11.57549\nb.jpg,-0.5,48.20,48.2001,-0.5\n")
    assert len(table.remarks) == 1 and not any(place.is_local for place in table.places)
    table = read("path,x,y,lat,lon\na.jpg,190.5,-40.25,-40.25,-169.5\nb.jpg,170,-41,-41,170\n")
    assert len(table.remarks) == 1 and positions(table)[0] == (-40.25, -169.5)


def test_the_whole_column_decides(read):
    """One row in which x and y are whole, or near the degrees by chance, decides nothing."""
    with pytest.raises(ValueError, match=r"places\.csv, line 2: x 3\.0 and y 4\.0 are another position than latitude 48\.1"):
        read("path,x,y,lat,lon\na.jpg,3,4,48.1,11.5\nb.jpg,3.5,4,48.1,11.5\n")
    with pytest.raises(ValueError, match=r"are another position"):
        read("path,x,y,lat,lon\na.jpg,11.5,48.1,48.1,11.5\nb.jpg,12.5,48.1,48.1,11.5\n")
    with pytest.raises(ValueError, match=r"are another position than utm_east"):
        read("path,x,y,easting,northing\na.jpg,1.5,2.5,691000,5334000\n")


def test_one_of_two_positions_can_be_chosen(read):
    text = "path,x,y,z,lat,lon\na.jpg,1.5,2.5,3,48.1,11.5\nb.jpg,2.5,2.5,3,48.1,11.5\n"
    degrees = read(text, columns={"latitude": "lat", "longitude": "lon"}).places[0]
    assert (degrees.latitude, degrees.x, degrees.z) == (48.1, None, None)
    local = read(text, columns={"x": "x", "y": "y"}).places[0]
    assert (local.x, local.y, local.z) == (1.5, 2.5, 3.0)


def test_rows_of_a_named_frame_keep_both_positions(read):
    place = read("path,x,y,frame,lat,lon\na.jpg,1.5,2.5,hall,48.1,11.5\n").places[0]
    assert (place.x, place.frame, place.latitude) == (1.5, "hall", 48.1)
    with pytest.raises(ValueError, match="are another position"):
        read("path,x,y,frame,lat,lon\na.jpg,1.5,2.5,17,48.1,11.5\n")  # the number of a frame in a video


def test_rows_with_only_pixels_have_no_position(read):
    table = read("path,x,y,lat,lon\na.jpg,10,20,48.1,11.5\nb.jpg,30,40,,\n")
    assert [place.has_position for place in table.places] == [True, False]
    assert sorted(remark.kind for remark in table.remarks) == ["assumed", "skipped"]


def test_rows_with_one_position_each_keep_it(read):
    table = read("path,x,y,lat,lon\na.jpg,1.5,2.5,,\nb.jpg,,,48.1,11.5\n")
    assert [place.is_local for place in table.places] == [True, False] and table.remarks == ()


# ---- UTM columns


def test_utm_columns_are_read(read):
    east, north, number, letter = utm.from_latlon(-33.8568, 151.2153)
    for zone in (f"{number}{letter}", f"{number} {letter.lower()}", f"{number} south"):
        place = read(f"path,Easting,Northing,UTM_Zone\na.jpg,{east},{north},{zone}\n").places[0]
        assert (place.latitude, place.longitude) == pytest.approx((-33.8568, 151.2153), abs=1e-6)
        assert place.utm_zone == f"{number}{letter}" or place.utm_zone[:2] == str(number)
    with pytest.raises(ValueError, match=r"line 3: .*expected a UTM zone"):
        read(f"path,easting,northing,utm zone\na.jpg,{east},{north},56H\nb.jpg,{east},{north},61H\n")
    place = read("path,easting,northing\na.jpg,12.5,-7\n").places[0]
    assert (place.utm_east, place.utm_zone, place.latitude) == (12.5, None, None)


def test_eastings_of_another_projection_give_way_to_degrees(read):
    """The British grid: Big Ben."""
    table = read("path,easting,northing,latitude,longitude\na.jpg,530268,179640,51.5007,-0.1246\n")
    place = table.places[0]
    east, north, _, _ = utm.from_latlon(51.5007, -0.1246)
    assert (place.utm_east, place.utm_north, place.utm_zone) == (east, north, "30U")
    assert "eastings and northings are not UTM metres" in table.remarks[0].text
    with pytest.raises(ValueError, match=r"line 2: utm_east .* km from its latitude"):
        read("path,easting,northing,utm_zone,lat,lon\na.jpg,530268,5179640,33T,51.5,-0.12\n")


# ---- quotes, lines, bytes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,lat,lon,note\na.jpg,1,2,x\nb.jpg,1,2,"y\n', "line 3: a cell begins with a quote that is not closed"),
        ('path,lat,lon,note\n"a.jpg,1,2,x\nb.jpg",1,2,y\n', "line 2: a cell that begins with a quote ends in line 3"),
        ('path,lat,lon,note\na.jpg,1,2,"two\nlines"\n', "line 2: a cell .* no cell may hold a line break"),
        ('path,lat,lon,note\r\na.jpg,1,2,"two\rlines"\r\n', "line 2: a cell .* no cell may hold a line break"),
        ('path,lat,lon,"note\na.jpg,1,2,x\n', "line 1: a cell begins with a quote that is not closed"),
        ('path,lat,lon,note\na.jpg,1,2,"x"y\n', "line 2: text follows the closing quote"),
        ("path,lat,lon\na.jpg,1,2\nb\0.jpg,1,2\n", "line 3: there is a NUL byte"),
        ("path,lat,lon\ra.jpg,1,2\rb\0.jpg,1,2\r", "line 3: there is a NUL byte"),
        ("path,lat,lon\na.jpg,1,2\n".encode("utf-16-le"), "line 1: there is a NUL byte.* UTF-16 without"),
        ("path,lat,lon\na.jpg,1,2\nü.jpg,1,2\n".encode("latin-1"), r"not a table in UTF-8 \(line 3: "),
        ("path,lat,lon,heading,note\na.jpg,1,2,3,x\nb.jpg,1,2", "line 3: the last line has 3 cells for 5 columns"),
    ],
)
def test_damaged_lines_are_errors_with_their_number(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        "path,lat,lon\na.jpg,48.5,11.5\n",
        "path,lat,lon\ra.jpg,48.5,11.5\r",
        "path,lat,lon\r\na.jpg,48.5,11.5\n\n  \n,,\n",
        "path,lat,lon\na.jpg,48.5,11.5,,\n",
        "\n\npath,lat,lon\na.jpg,48.5,11.5",
        "\ufeffpath,lat,lon\na.jpg,48.5,11.5\n",
        "sep=;\npath;lat;lon\na.jpg;48.5;11.5\n",
        '"sep=|"\r\npath|lat|lon\r\na.jpg|48.5|11.5\r\n',
        '"path","lat","lon"\n"a.jpg", "48.5", "11.5"\n',
        "path\tlat\tlon\na.jpg\t48.5\t11.5\n".encode("utf-16"),
        b"\xfe\xff" + "path;lat;lon\na.jpg;48.5;11.5\n".encode("utf-16-be"),
        "path;lat;lon;words, more, and more\na.jpg;48.5;11.5;x\n",
    ],
)
def test_tables_of_all_programs_are_read(read, text):
    """Line ends of three systems, byte order marks, Excel's Unicode text and its line `sep=;`."""
    table = read(text)
    assert [(place.path, *pair) for place, pair in zip(table.places, positions(table), strict=True)] == [("a.jpg", 48.5, 11.5)]
    assert table.remarks == ()


def test_short_lines_are_counted(read):
    """Excel leaves separators out where the last columns are empty."""
    table = read("path,lat,lon,condition\na.jpg,1,2,night\nb.jpg,1,3\n")
    assert [place.condition for place in table.places] == ["night", None]
    assert remark_texts(table) == ["1 lines with fewer cells than columns, read with empty cells at their end"]


# ---- numbers


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read(read, separator):
    rows = [["path", "lat", "lon", "heading"], ["a.jpg", "48,1374", "11,5755", "90"], ["b.jpg", "-0,5", "1,234", "1,250"]]
    table = read("\n".join(separator.join(row) for row in rows))
    assert positions(table) == [(48.1374, 11.5755), (-0.5, 1.234)] and table.places[1].heading == 1.25
    assert remark_texts(table) == ["5 numbers with a comma, read as a decimal comma"]


def test_quoted_decimal_commas_are_read_between_commas(read):
    assert positions(read('path,lat,lon\na.jpg,"48,1374","11,5755"\n')) == [(48.1374, 11.5755)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;x;y\na.jpg;1,250;2,000\n", r"line 2: x 1,250 may be 1\.250 or 1250"),
        ("path;x;y\na.jpg;1.250,5;2\n", r"line 2: x 1\.250,5 has a comma"),
        ("path;x;y\na.jpg;1,250,000;2\n", "line 2: x 1,250,000 has a comma"),
        (
            "path;lat;lon\na.jpg;48,13;11,5\nb.jpg;48.14;11,5\n",
            r"line 3: latitude 48\.14 has a decimal point, but latitude 48,13",
        ),
        ("path;x;y\na.jpg;1 250;2\n", "line 2: could not convert string to float: '1 250'"),
        ("path;x;y\na.jpg;1'250;2\n", "line 2: could not convert"),
        ("path,lat,lon\na.jpg,48.1°,11.5\n", r"line 2: could not convert .*latitude must be decimal degrees such as"),
        ("path,lat,lon\na.jpg,48°08'N,11.5\n", "line 2: could not convert .*decimal degrees"),
        ("path,lat,lon\na.jpg,48.1,11.5 E\n", "line 2: could not convert .*longitude must be decimal degrees"),
        ("path,x,y\na.jpg,12 m,3\n", "line 2: could not convert .* a number without a unit"),
        ("path,lat,lon\na.jpg,151.2,-33.8\n", "line 2: latitude must be in .*are the two columns swapped"),
        ("path,lat,lon,heading\na.jpg,1,2,400\n", "line 2: heading must be in"),
    ],
)
def test_numbers_of_other_forms_are_refused(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


def test_doubtful_values_are_counted(read):
    table = read("path,lat,lon,time\na.jpg,0,0,yesterday\nb.jpg,0.0,-0.0,2024-05-01\nc.jpg,1,0,noon\n")
    assert positions(table)[:2] == [(0.0, 0.0), (0.0, 0.0)]
    assert remark_texts(table) == [
        "2 times that cannot be read; these photos have no time",
        "2 positions at latitude 0 and longitude 0, which often stand for an unknown position",
    ]


# ---- columns


@pytest.mark.parametrize(
    "header",
    [
        ",path,lat,lon",
        "Unnamed: 0,File Name, LATITUDE ,Long",
        "id,SourceFile,GPSLatitude,GPSLongitude",
        ",image,gps_lat,gps-lng",
        "note,FILE_PATH,Gps Latitude,gps longitude",
    ],
)
def test_columns_are_found_by_usual_names(read, header):
    """pandas writes its row numbers without a name, exiftool its own names."""
    assert positions(read(f"{header}\n0,a.jpg,48.5,11.5\n1,b.jpg,48.6,11.6\n")) == [(48.5, 11.5), (48.6, 11.6)]


def test_two_columns_for_one_field_must_agree(read):
    assert positions(read("path,lat,latitude,lon\na.jpg,1,1,2\n")) == [(1.0, 2.0)]
    text = "path,lat,latitude,lon\na.jpg,1,1,2\nb.jpg,3,4,2\n"
    with pytest.raises(ValueError, match="line 3: the columns latitude and lat both name the latitude and differ: 4 and 3"):
        read(text)
    assert positions(read(text, columns={"latitude": "lat"})) == [(1.0, 2.0), (3.0, 2.0)]


def test_columns_can_be_chosen(read):
    text = "path;Breite;Länge;Ort\na.jpg;48,5;11,5;3\n"
    columns = {"latitude": "Breite", "longitude": "Länge", "place_id": "Ort"}
    table = read(text, columns=columns)
    assert positions(table) == [(48.5, 11.5)] and table.place_ids.tolist() == [0]
    with pytest.raises(ValueError, match="has the columns path, Breite, Länge, Ort, but not Hoehe"):
        read(text, columns={"z": "Hoehe"})
    with pytest.raises(ValueError, match="There is no field altitude to fill"):
        read(text, columns={"altitude": "Ort"})


def test_a_table_of_something_else_is_ignored_by_choice(tmp_path):
    save_row(tmp_path)
    (tmp_path / "log.csv").write_text("time,battery\n1,2\n")
    with pytest.raises(ValueError, match=r"got time, battery\..*`positions=\"names\"` or `positions=\"exif\"` ignores it"):
        read_places(tmp_path)
    assert read_places(tmp_path, ReadOptions(positions="names")).source == "names"


# ---- paths


def spellings(folder):
    (folder.parent / "link").symlink_to(folder)
    return {
        "absolute": f"{folder}/a b.jpg",
        "with dots": f"{folder}/sub/../a b.jpg",
        "link": f"{folder.parent}/link/a b.jpg",
        "relative and out": f"../{folder.name}/a b.jpg",
        "relative by a link": "../link/./a b.jpg",
        "URL": f"file://{folder}/a%20b.jpg",
        "URL of this machine": f"file://localhost{folder}/a b.jpg",
    }


def test_every_spelling_of_a_photo_of_the_folder_is_that_photo(tmp_path):
    folder = tmp_path / "photos"
    save(folder / "a b.jpg", 0)
    for spelling, path in spellings(folder).items():
        (folder / "places.csv").write_text(f"path,lat,lon\n{path},1,2\n")
        table = read_places(folder)
        assert [place.path for place in table.places] == ["a b.jpg"] and table.skipped == {}, spelling
    (folder / "places.csv").write_text(f"path,lat,lon\na b.jpg,1,2\nc.jpg,1,2\n{tmp_path}/link/a b.jpg,1,2\n")
    with pytest.raises(ValueError, match=r"line 4: a b\.jpg is listed in line 2 already"):
        read_places(folder)


def test_backslashes_are_separators_if_there_is_such_a_file(tmp_path):
    save(tmp_path / "sub" / "a.jpg", 0)
    save(tmp_path / "odd\\name.jpg", 1)
    (tmp_path / "places.csv").write_text("path,lat,lon\nsub\\a.jpg,1,2\nodd\\name.jpg,1,2\nsub\\gone.jpg,1,2\n")
    table = read_places(tmp_path)
    assert [place.path for place in table.places] == ["sub/a.jpg", "odd\\name.jpg", "sub\\gone.jpg"] and table.skipped == {}
    assert remark_texts(table) == ["1 paths with backslashes, read as paths with forward slashes"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("C:\\photos\\a.jpg", r"line 2: C:\\photos\\a\.jpg is a path of Windows.*such as a\.jpg"),
        ("d:/photos/a.jpg", "is a path of Windows"),
        ("\\\\server\\share\\a.jpg", "is a path of Windows"),
        ("file:///C:/photos/a.jpg", "is a path of Windows"),
        ("https://example.org/a.jpg", "is a URL; expected the path of a file"),
        ("s3://bucket/a.jpg", "is a URL"),
        ("file://server/share/a.jpg", "is a file of the machine server"),
        (".", "expected the path of a photo"),
    ],
)
def test_paths_that_cannot_be_opened_here_are_refused(read, path, message):
    with pytest.raises(ValueError, match=message):
        read(f"path,lat,lon\n{path},1,2\n")


def test_a_row_with_an_absolute_path_leaves_the_index(tmp_path, tiny_folder):
    photos = save_row(tmp_path / "photos")
    names = sorted(path.name for path in photos.iterdir())
    (tmp_path / "link").symlink_to(photos)
    encoder = PlaceEncoder(tiny_folder)
    for prefix in (photos, tmp_path / "link", f"file://{photos}"):
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        for count in (9, 8):
            rows = [f"{prefix}/{name},1,{i}" for i, name in enumerate(names[:count])]
            (photos / "places.csv").write_text("\n".join(["path,lat,lon", *rows]))
            index, report = index_photos(photos, tmp_path / "index", encoder)
            assert len(index) == count and set(report.skipped) == set(names[count:])
        assert report.removed == 1


def test_rows_with_absolute_paths_of_an_earlier_version_are_replaced(tmp_path, tiny_folder):
    """Earlier versions indexed such photos by their absolute paths, which no update removed; they would be there twice."""
    photos = save_row(tmp_path / "photos")
    names = sorted(path.name for path in photos.iterdir())
    encoder = PlaceEncoder(tiny_folder)
    earlier = PlaceTable(photos, [Place(f"{photos}/{name}", 1.0, 2.0) for name in names], "csv")
    index_photos(earlier, tmp_path / "index", encoder)
    (photos / "places.csv").write_text("\n".join(["path,lat,lon", *(f"{photos}/{name},1,2" for name in names[:5])]))
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert sorted(place.path for place in index.places) == names[:5] and report.removed == 9


# ---- written and read again

LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)


@settings(max_examples=100)
@given(degrees=st.lists(st.tuples(LATITUDES, LONGITUDES), min_size=1, max_size=4))
def test_any_position_survives_a_table(tmp_path_factory, degrees):
    """Written by `write_places`, and by hand with decimal commas; poles and the date line included."""
    folder = tmp_path_factory.mktemp("tables")
    places = all_with_utm([Place(f"{i}.jpg", *pair) for i, pair in enumerate(degrees)])
    write_places(PlaceTable(folder / "photos", places, "names"), folder / "written.csv")
    rows = [f"{place.path};{place.latitude:.10f};{place.longitude:.10f}".replace(".", ",") for place in places]
    (folder / "comma.csv").write_text("\n".join(["datei;lat;lon", *rows]).replace(",jpg", ".jpg"))
    tables = [read_places(folder / "written.csv"), read_places(folder / "comma.csv", ReadOptions({"path": "datei"}))]
    for table in tables:
        for before, after in zip(degrees, positions(table), strict=True):
            assert distance_in_metres(Place("", *before), Place("", *after)) < 0.1
    assert [place.utm_zone for place in tables[0].places] == [place.utm_zone for place in places]


@settings(max_examples=100)
@given(latitude=st.floats(-80, 84), longitude=st.floats(-180, 179.999))
def test_any_utm_position_survives_a_table(tmp_path_factory, latitude, longitude):
    """Metres without degrees, near the borders of zones and hemispheres too."""
    folder = tmp_path_factory.mktemp("tables")
    east, north, number, letter = utm.from_latlon(latitude, longitude)
    before = Place("a.jpg", utm_east=float(east), utm_north=float(north), utm_zone=f"{number}{letter}")
    write_places(PlaceTable(folder / "photos", [before], "names"), folder / "written.csv")
    with (folder / "written.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["path", "utm_east", "utm_north", "utm_zone"]
    after = read_places(folder / "written.csv").places[0]
    assert (after.utm_east, after.utm_north) == (before.utm_east, before.utm_north)
    assert distance_in_metres(Place("", latitude, longitude), Place("", after.latitude, after.longitude)) < 0.1


def test_local_frames_of_earlier_tables_are_read(read):
    """Earlier versions wrote UTM metres as x and y of a frame with the name of the zone."""
    place = read("path,x,y,frame\nd.jpg,12.5,-7.0,UTM metres without a zone\n").places[0]
    assert place == Place("d.jpg", x=12.5, y=-7.0, frame="UTM metres without a zone")


def test_both_positions_survive_a_table(tmp_path):
    place = all_with_utm([Place("a.jpg", 48.5, 11.5, x=1.5, y=2.5)])[0]
    write_places(PlaceTable(tmp_path / "photos", [place], "csv"), tmp_path / "p.csv")
    after = read_places(tmp_path / "p.csv").places[0]
    assert (after.latitude, after.x, after.y, after.frame) == (48.5, 1.5, 2.5, "local")


# ---- hemispheres and zone letters in columns of their own


@pytest.mark.parametrize(
    ("header", "cells", "degrees"),
    [
        ("GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef", "33.85,S,151.2,E", (-33.85, 151.2)),
        ("GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef", "-33.85,South,151.2,East", (-33.85, 151.2)),
        ("lat,lat_ref,lon,lon_ref", "38.5,N,77.5,west", (38.5, -77.5)),
        ("latitude,N/S,longitude,E/W", "38.5, n,77.5, w", (38.5, -77.5)),
        ("lat,NS,lon,EW", "0.5,S,0,E", (-0.5, 0.0)),
        ("Latitude,Latitude Hemisphere,Longitude", "1.5,S,-2", (-1.5, -2.0)),
        ("lat,lat_dir,lon,lon_dir", "1.5,S,2,W", (-1.5, -2.0)),
        ("RefLat,lat (deg),RefLon,lon (deg)", "S,1.5,E,2", (-1.5, 2.0)),
        ("lat,lat_sign,lon,lon_sign", "1.5,-1,2,+", (-1.5, 2.0)),
        ("lat,lat_min,lat_max,lon", "1.5,1,2,2", (1.5, 2.0)),
        ("utm_east,utm_north,utm_zone,utm_letter", "691608.5,5334765.1,32,U", (48.13726, 11.57557)),
        ("Easting,Northing,Zone", "691608.5,5334765.1,32U", (48.13726, 11.57557)),
        (
            "easting,northing,zone_number,hemisphere",
            "334000,4250000.0,56,S",
            utm.to_latlon(334000, 4250000, 56, northern=False),
        ),
        (
            "easting,northing,zone_number,hemisphere",
            "334000,4250000.0,56,North",
            utm.to_latlon(334000, 4250000, 56, northern=True),
        ),
    ],
)
def test_a_column_may_complete_another(read, header, cells, degrees):
    """exiftool -n writes EXIF's degrees without a sign, and their hemisphere next to them."""
    assert positions(read(f"path,{header}\na.jpg,{cells}\n"))[0] == pytest.approx(degrees, abs=1e-5)


def test_minutes_in_columns_of_their_own_are_an_error(read):
    """The degrees alone would be up to 111 kilometres away."""
    for header in ("lat_deg,lat_min,lon_deg,lon_min", "lat,lat minutes,lon,lon minutes", "Latitude,Latitude (min),Longitude,q"):
        with pytest.raises(ValueError, match=r"are the minutes of .*decimal degrees in one column"):
            read(f"path,{header}\na.jpg,33,51.4,151,12.9\n")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("-33.85,N,151.2,E", "line 2: latitude -33.85 has a minus sign, and its hemisphere is N"),
        ("33.85,,151.2,E", "line 2: the hemisphere of the latitude must be N or S, got an empty cell"),
        ("33.85,S,151.2,O", "line 2: the hemisphere of the longitude must be E or W, got O"),
    ],
)
def test_hemispheres_that_cannot_be_read_are_errors(read, cells, message):
    with pytest.raises(ValueError, match=message):
        read(f"path,lat,lat_ref,lon,lon_ref\na.jpg,{cells}\n")


# ---- headers and separators


@pytest.mark.parametrize(
    "header",
    [
        "filename,lat (deg),lon (deg)",
        "File,Latitude [°],Longitude [°]",
        "image_path,lat_deg,lon_deg",
        "#Label,Y/Latitude,X/Longitude",
    ],
)
def test_units_may_follow_names(read, header):
    assert positions(read(f"{header}\na.jpg,48.5,11.5\n")) == [(48.5, 11.5)]


def test_other_units_are_not_read(read):
    for header in ("path,lat (rad),lon (rad)", "path,latitudeE7,longitudeE7", "path,x (deg),y (deg)"):
        with pytest.raises(ValueError, match="expected the columns"):
            read(f"{header}\na.jpg,0.5,0.5\n")


@pytest.mark.parametrize(
    "text",
    [
        "# exported 2024, version 2\n#\npath,lat,lon\na.jpg,48.5,11.5\n",
        "\n# path, then position\n\npath;lat;lon\na.jpg;48.5;11.5\n",
        "#path,lat,lon\na.jpg,48.5,11.5\n",
        "path|lat|lon\na.jpg|48.5|11.5\n",
        "\ufeff\ufeffpath\u200b,lat,lon\na.jpg,48.5,11.5\n",
        "path,lat,lon\na.jpg,+48.5,1.15e1\n",
        'path,lat,lon,note\na.jpg,48.5,11.5,12" lens\n',
        "path,lat,lon,gps_lat\na.jpg,48.5,11.5,48.50\n",
        "path,lat,lon\r\r\na.jpg,48.5,11.5\r\r\n",
    ],
)
def test_headers_with_comments_and_other_signs_are_read(read, text):
    table = read(text)
    assert [(place.path, *pair) for place, pair in zip(table.places, positions(table), strict=True)] == [("a.jpg", 48.5, 11.5)]
    assert sum(remark.count for remark in table.remarks) == text.count("# ") + text.count("#\n")  # the comments


def test_a_minus_sign_of_texts_is_a_minus_sign(read):
    assert positions(read("path,lat,lon\na.jpg,\N{MINUS SIGN}33.85,151.2\n")) == [(-33.85, 151.2)]
    with pytest.raises(ValueError, match="line 2: could not convert"):
        read("path,lat,lon\na.jpg,\N{EN DASH}33.85,151.2\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;lat;lon\na.jpg,1,2\n", "line 2: this line is separated by commas, and the header by semicolons"),
        ("path,lat,lon\na.jpg,1,2\nb.jpg;1;2\n", "line 3: this line is separated by semicolons, and the header by commas"),
        ("path,lat,lon\na.jpg\t1\t2\n", "line 2: this line is separated by tabs"),
        ("a.jpg,48.1,11.5\nb.jpg,48.2,11.6\n", "got a.jpg, 48.1, 11.5. The first line has values"),
        ("1326030975726043,0,0,0\n", "The first line has values"),
        ("path lat lon\na.jpg 1 2\n", "separated by commas, semicolons, tabs or vertical bars"),
        ('"filename","lat","lon"\n"1","a.jpg",48.1,11.5\n', "line 2: .* as R writes it, begin the header with an empty name"),
        ("path,lat,lon\na.jpg,NA,NA\n", 'line 2: .* R with na=""'),
        ("path,lat,lon\na.jpg,-,-\n", "line 2: .* exiftool without -f"),
        ("path,lat,lon\na.jpg,N48.1,E11.5\n", "line 2: .* exiftool writes decimal degrees with its option -n"),
        ('path,lat,lon\na.jpg,"48 deg 8\' 14.64"" N","11 deg 34\' 31.80"" E"\n', "line 2: .* with its option -n"),
    ],
)
def test_errors_name_the_remedy(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


def test_x_and_y_that_may_be_degrees_are_counted(read):
    """GDAL's `GEOMETRY=AS_XY` writes X and Y; without other columns they cannot be told from metres."""
    text = "X,Y,path\n11.57549,48.13743,a.jpg\n11.60001,48.20012,b.jpg\n"
    assert "2 rows whose x and y may be longitude and latitude" in remark_texts(read(text))[0]
    for header, cells in (
        ("x,y,z", "11.57549,48.13743,1.5"),
        ("x,y,frame", "11.57549,48.13743,hall"),
        ("x,y", "11.5,248.13743"),
    ):
        assert read(f"path,{header}\na.jpg,{cells}\n").remarks == ()


# ---- names of files


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("IMG_1.JPG", "img_1.jpg"),
        ("Sub/a.jpg", "sub/a.JPG"),
        ("u\u0308.jpg", "\u00fc.jpg"),
        ("my%20a.jpg", "my a.jpg"),
        ("./Sub/../IMG_1.JPG", "img_1.jpg"),
    ],
)
def test_other_spellings_of_a_file_are_counted(tmp_path, path, name):
    save(tmp_path / name, 0)
    (tmp_path / "places.csv").write_text(f"path,lat,lon\n{path},1,2\n")
    for photos in (tmp_path, tmp_path / "places.csv"):
        table = read_places(photos)
        assert [place.path for place in table.places] == [name] and table.skipped == {}
        assert remark_texts(table)[0].startswith("1 paths in another case, Unicode form or percent-encoding")


def test_a_spelling_of_two_files_is_not_decided(tmp_path):
    for name in ("a.jpg", "A.jpg"):
        save(tmp_path / name, 0)
    (tmp_path / "places.csv").write_text("path,lat,lon\na.jpg,1,2\nA.JPG,1,2\n")
    if len({path.name for path in tmp_path.iterdir()}) == 3:  # file systems without case have one of them
        assert [place.path for place in read_places(tmp_path).places] == ["a.jpg", "A.JPG"]


def test_the_column_of_paths_is_the_one_with_files(tmp_path):
    """exiftool -csv -r writes `SourceFile`, and `FileName` without its folder."""
    save(tmp_path / "one" / "a.jpg", 0)
    save(tmp_path / "two" / "a.jpg", 1)
    rows = "".join(f"{folder}/a.jpg,a.jpg,./{folder}/a.jpg,48.5,11.5\n" for folder in ("one", "two"))
    (tmp_path / "places.csv").write_text(f"id,FileName,SourceFile,lat,lon\n{rows}")
    assert [place.path for place in read_places(tmp_path).places] == ["one/a.jpg", "two/a.jpg"]
    text = f"file,image,name,lat,lon\nvideo.mp4,one/a.jpg,{'a long description ' * 20},48.5,11.5\n"
    (tmp_path / "places.csv").write_text(text)
    assert [place.path for place in read_places(tmp_path).places] == ["one/a.jpg"]


def test_tables_in_subfolders_are_counted(tmp_path):
    save_row(tmp_path / "photos")
    for name in ("one", "two"):
        (tmp_path / "photos" / name).mkdir()
        (tmp_path / "photos" / name / "places.CSV").write_text("path,lat,lon\na.jpg,1,2\n")
    table = read_places(tmp_path / "photos")
    assert [(remark.kind, remark.count, remark.example) for remark in table.remarks] == [("skipped", 2, "one/places.CSV")]
    assert read_places(tmp_path / "photos", ReadOptions(positions=table.source)).remarks == ()
