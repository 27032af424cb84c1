"""GSV-Cities in its form on disk: names made of rows, ids that collide between cities, photos that are not there."""

import csv
import logging

import numpy as np
import pytest

from d2vpr_hf.readers import open_photo, read_gsv_cities
from tests.photos import save

HEADER = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")


def row(city, place_id, number, lat="13.7465", lon="100.5327"):
    """A row as its table has it; the number tells the photos of a place apart."""
    return (place_id, 2015, number % 12 + 1, 7 * number, city, lat, lon, f"pano_{number}-A")


def write_table(root, city, rows, header=HEADER):
    (root / "Dataframes").mkdir(parents=True, exist_ok=True)
    with (root / "Dataframes" / f"{city}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def photo_name(place_id, year, month, northdeg, city, lat, lon, panoid):
    return (
        f"Images/{city}/{city}_{place_id:07d}_{year:04d}_{month:02d}_{northdeg:03d}_{float(lat)!r}_{float(lon)!r}_{panoid}.jpg"
    )


def write_city(root, city, rows):
    """A table and a photo for each of its rows; gives the photos' paths."""
    write_table(root, city, rows)
    names = [photo_name(*values) for values in rows]
    for i, name in enumerate(names):
        save(root / name, i)
    return names


def test_photos_are_found_by_the_names_of_the_format(tmp_path):
    """Written out by hand: padded numbers, and degrees as Python prints them (51.5), not as the table does (51.500)."""
    rows = [
        (12, 2008, 3, 5, "London", "51.500", "-0.1200", "AbC_d-1"),
        (12, 2019, 11, 355, "London", "51.50001234567891", "-0.12", "AbC_d-1"),
    ]
    write_table(tmp_path / "@gsv", "London", rows)
    names = [
        "Images/London/London_0000012_2008_03_005_51.5_-0.12_AbC_d-1.jpg",
        "Images/London/London_0000012_2019_11_355_51.50001234567891_-0.12_AbC_d-1.jpg",
    ]
    for i, name in enumerate(names):
        save(tmp_path / "@gsv" / name, i)
    table = read_gsv_cities(tmp_path / "@gsv", images_per_place=2)
    assert (table.source, table.skipped, [place.path for place in table.places]) == ("gsv-cities", {}, names)
    first = table.places[0]
    assert (first.latitude, first.longitude, first.heading, first.timestamp) == (51.5, -0.12, 5.0, "2008-03")
    assert first.utm_zone == "30U" and first.utm_east == pytest.approx(699_930, abs=1000)
    assert open_photo(table.photo(first)).size == (90, 60)


def test_equal_place_ids_in_two_cities_are_two_places(tmp_path):
    """Place 1 of Rome is not place 1 of Osaka: one batch would call them the same place."""
    write_city(tmp_path, "Rome", [row("Rome", place_id, i) for place_id in (9, 1) for i in range(2)])
    write_city(tmp_path, "Osaka", [row("Osaka", place_id, i) for place_id in (1, 700000) for i in range(2)])
    table = read_gsv_cities(tmp_path, images_per_place=2)
    assert table.place_ids.dtype == np.int64
    assert table.place_ids.tolist() == [0, 0, 1, 1, 3, 3, 2, 2]
    assert [place.path.split("/")[1] for place in table.places] == ["Osaka"] * 4 + ["Rome"] * 4


def test_cities_can_be_chosen(tmp_path):
    for city in ("Rome", "Osaka", "PRG"):
        write_city(tmp_path, city, [row(city, 1, i) for i in range(4)])
    table = read_gsv_cities(tmp_path, ["Rome", "PRG"])
    assert [place.path.split("/")[1] for place in table.places] == ["Rome"] * 4 + ["PRG"] * 4
    with pytest.raises(FileNotFoundError, match=r"has no table of Paris\. It has Osaka, PRG, Rome"):
        read_gsv_cities(tmp_path, ["Rome", "Paris"])


def test_missing_photos_and_small_places_are_named_and_counted(tmp_path, caplog):
    """A place counts the photos that are there: with one of four gone it is too small, and the ids stay without gaps."""
    rows = [row("Rome", place_id, i) for place_id in (3, 4, 5) for i in range(5 if place_id == 3 else 4)]
    names = write_city(tmp_path, "Rome", rows)
    for gone in (1, 6):  # one of five, and one of four
        (tmp_path / names[gone]).unlink()
    with caplog.at_level(logging.WARNING):
        table = read_gsv_cities(tmp_path)
    assert [place.path for place in table.places] == [names[i] for i in (0, 2, 3, 4, 9, 10, 11, 12)]
    assert table.place_ids.tolist() == [0] * 4 + [1] * 4
    assert table.skipped == {f"{names[i]} (line {i + 2})": "no such file" for i in (1, 6)} | {
        f"{names[i]} (line {i + 2})": "place 4 has 3 photos, fewer than 4" for i in (5, 7, 8)
    }
    assert "Places skipped because they have fewer than 4 photos: 1." in caplog.text


def test_a_photo_listed_twice_counts_once(tmp_path):
    """The same pixels would be their own positive."""
    rows = [row("Rome", 1, i) for i in (0, 1, 1)]
    names = write_city(tmp_path, "Rome", rows)
    table = read_gsv_cities(tmp_path, images_per_place=2)
    assert len(table.places) == 2 and table.skipped == {f"{names[2]} (line 4)": "listed in line 3 already"}
    with pytest.raises(ValueError, match=r"No place in .* has 3 photos\. Images/Rome/.* \(line 2\): place 1 has 2 photos"):
        read_gsv_cities(tmp_path, images_per_place=3)


def test_files_that_no_table_lists_are_ignored(tmp_path):
    names = write_city(tmp_path, "Rome", [row("Rome", 1, i) for i in range(4)])
    save(tmp_path / "Images" / "Rome" / "other.jpg", 9)
    table = read_gsv_cities(tmp_path)
    assert ([place.path for place in table.places], table.skipped) == (names, {})


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            [row("Rome", 1, 0)[:-1]],
            HEADER[:-1],
            r"Rome\.csv is not a table of GSV-Cities .*panoid.*the columns place_id",
        ),
        ([row("Rome", "one", 0)], HEADER, r"Rome\.csv is not a table of GSV-Cities .*'one'"),
        ([row("Rome", 1, 0), row("Rome", 1, 1, lat="")], HEADER, r"Rome\.csv, line 3: lat is missing"),
        ([row("Rome", 1, 0), row("Bonn", 1, 0)], HEADER, r"Rome\.csv: expected the photos of one city, got 2 \(Bonn, Rome\)"),
        ([], HEADER, r"Rome\.csv: expected the photos of one city, got 0"),
    ],
)
def test_bad_tables_are_named(tmp_path, rows, header, message):
    write_table(tmp_path, "Rome", rows, header)
    (tmp_path / "Images" / "Rome").mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        read_gsv_cities(tmp_path)


def test_positions_off_the_globe_are_refused(tmp_path):
    write_city(tmp_path, "Rome", [row("Rome", 1, 0), row("Rome", 1, 1, lat="91.0")])
    with pytest.raises(ValueError, match=r"Rome\.csv, line 3: latitude must be in"):
        read_gsv_cities(tmp_path, images_per_place=2)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No table in .*Dataframes: expected <City>\.csv"):
        read_gsv_cities(tmp_path)
    write_table(tmp_path, "Rome", [row("Rome", 1, 0)])
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*Rome\. Unpack its photos there"):
        read_gsv_cities(tmp_path)
