"""Places made of photos with positions: cells and directions computed by hand, groups that keep neighbours apart, the table."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import utm
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import evaluate
from d2vpr_hf.evaluation.positives import angle_between
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import with_utm
from d2vpr_hf.readers import PlaceGrid, PlaceTable, describe_places, group_places, read_places, to_dataset, write_places
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.photos import at_name, save


def utm_photo(number, east, north, heading=None, zone="10S", **details):
    return Place(f"{number:04d}.jpg", utm_east=east, utm_north=north, utm_zone=zone, heading=heading, **details)


def group(places, min_photos=1, min_days=1, **grid):
    return group_places(PlaceTable(Path("photos"), places, "csv"), PlaceGrid(**grid), min_photos=min_photos, min_days=min_days)


def ids(table):
    """The place of each photo by its number."""
    return {int(place.path[:4]): number for place, number in zip(table.places, table.place_ids.tolist(), strict=True)}


def test_photos_of_one_cell_and_direction_show_one_place():
    """Cells are half-open: 10.0 begins the second. Bins too: 30.0 begins the second."""
    photos = [(500, 4000, 0), (509.99, 4009.99, 29.99), (510, 4000, 0), (500, 4010, 0), (500, 4000, 30), (500, 4000, 359.9)]
    table = group([utm_photo(i, *values) for i, values in enumerate(photos)])
    assert ids(table) == {0: 0, 1: 0, 4: 1, 5: 2, 3: 3, 2: 4}
    assert table.place_ids.dtype == table.group_ids.dtype == np.int64
    assert (table.folder, table.source, table.skipped) == (Path("photos"), "csv", {})


def test_negative_coordinates_are_floored():
    """Cut towards zero, the cell around the origin would be two cells wide."""
    photos = [(-0.5, -0.5), (0.5, -0.5), (-10, -10), (-10.1, -10), (9.9, 0)]
    table = group([Place(f"{i:04d}.jpg", x=x, y=y, yaw=0.0) for i, (x, y) in enumerate(photos)])
    assert ids(table) == {3: 0, 0: 1, 2: 1, 1: 2, 4: 3}


@pytest.mark.parametrize(("heading", "bin_mate"), [(360.0, 0), (-1e-15, 359), (-10, 359), (720.5, 0), (359.999, 359)])
def test_headings_wrap_around(heading, bin_mate):
    """-1e-15 % 360 is 360 in floating point, which would be a bin beyond the last."""
    table = group([utm_photo(0, 1, 1, 0), utm_photo(359, 1, 1, 359), utm_photo(1, 1, 1, heading)])
    assert len(set(ids(table).values())) == 2
    assert ids(table)[1] == ids(table)[bin_mate]


def test_zones_and_frames_never_mix():
    """The same metres in another zone, hemisphere or frame, or of nowhere, are another place, in another group."""
    here = {"utm_east": 500.0, "utm_north": 4000.0, "heading": 5.0}
    zones = [Place(f"000{i}.jpg", utm_zone=zone, **here) for i, zone in enumerate(["10S", "11S", "10M", None])]
    rooms = [
        Place(f"000{i}.jpg", x=500.0, y=4000.0, frame=frame, heading=5.0) for i, frame in ((4, "hall"), (5, "attic"), (6, None))
    ]
    table = group([*zones, *rooms])
    assert sorted(table.place_ids) == sorted(table.group_ids) == list(range(7))
    assert len(set(group([utm_photo(0, 500, 4000, 5, "10S"), utm_photo(1, 500, 4000, 5, "10T")]).place_ids)) == 1  # one zone


def test_places_of_different_frames_are_not_neighbours():
    """Groups fill up frame by frame; a place in another frame is not a neighbour."""
    photos = [utm_photo(0, 0, 0, 0), utm_photo(1, 0, 0, 0, "11S"), utm_photo(2, 1000, 0, 0, "11S")]
    assert group(photos).group_ids.tolist() == [0, 1, 1]


def test_places_on_two_sides_of_a_zone_border_share_no_group():
    """Photos 9 m apart around 6° E are in zones 31 and 32: different places, which must not share a batch."""
    table = group(
        [with_utm(Place(f"000{i}.jpg", 50.0, longitude, heading=0.0)) for i, longitude in enumerate((5.99994, 6.00006))]
    )
    assert [place.utm_zone for place in table.places] == ["31U", "32U"]
    assert sorted(table.group_ids) == [0, 1]


def along_parallel(latitude, border, steps, spacing=1.0):
    """Photos `spacing` metres apart along a parallel, from west to east of a meridian."""
    degree = 111_195 * np.cos(np.radians(latitude))
    longitudes = [(border + spacing * step / degree + 180) % 360 - 180 for step in steps]
    return [with_utm(Place(f"{i:04d}.jpg", latitude, longitude, heading=0.0)) for i, longitude in enumerate(longitudes)]


@pytest.mark.parametrize(("latitude", "border"), [(51.5, 0.0), (-16.8, 180.0), (59.3, 18.0), (60.4, 3.0), (78.0, 9.0)])
def test_a_grid_continues_over_a_zone_border(latitude, border):
    """A metre apart over 40 m: cells of 10 m have ten photos each, except at the ends, also the one with the border."""
    photos = along_parallel(latitude, border, range(-20, 20))
    assert len({place.utm_zone for place in photos}) == 2
    table = group(photos)
    sizes = np.bincount(table.place_ids)
    assert len(sizes) <= 6 and sorted(sizes.tolist())[-3:] == [10, 10, 10]
    assert sorted(place.path for place in table.places) == [place.path for place in photos]
    assert {place.utm_zone for place in table.places} == {place.utm_zone for place in photos}  # only the grid is moved
    neighbours = group(along_parallel(latitude, border, range(-20, 20), 10.0)).group_ids
    assert len(set(neighbours.tolist())) >= 4  # places 10 m apart share no group


def test_a_grid_continues_over_the_equator():
    photos = [with_utm(Place(f"{i:04d}.jpg", (i - 20) / 110_600, 10.0, heading=0.0)) for i in range(40)]
    assert {place.utm_zone for place in photos} == {"32M", "32N"}
    assert sorted(np.bincount(group(photos).place_ids).tolist())[-3] >= 10  # with the middle one, on the equator


def test_one_spot_in_two_zones_is_one_place():
    """Data sets give a whole city the zone of most of its photos."""
    here = with_utm(Place("0000.jpg", 51.5, 0.001, heading=0.0))
    east, north, _, _ = utm.from_latlon(51.5, 0.001, force_zone_number=30)
    forced = Place("0001.jpg", utm_east=east, utm_north=north, utm_zone="30U", heading=0.0)
    assert len(set(group([here, forced]).place_ids.tolist())) == 1


def test_cities_far_from_borders_keep_their_zones_and_cells():
    london, berlin, sydney = (along_parallel(latitude, longitude, range(30)) for latitude, longitude in CITIES)
    alone = [group(city).place_ids.tolist() for city in (london, berlin, sydney)]
    photos = [replace(place, path=f"{i:04d}.jpg") for i, place in enumerate([*london, *berlin, *sydney])]
    place_of = ids(group(photos))
    for number, expected in enumerate(alone):
        numbers = [place_of[30 * number + i] for i in range(30)]
        assert [value - min(numbers) for value in numbers] == expected
    assert len(set(group(photos).group_ids.tolist())) >= 3


CITIES = [(51.5, -1.0), (52.5, 13.4), (-33.86, 151.2)]


def test_places_without_heights_share_no_group_with_any_height_there():
    """A photo without a height may be on any floor, so it must not be a negative of photos above or below it."""
    heights = [0.0, 100.0, 200.0, None]
    places = [Place(f"{i:04d}.jpg", x=1.0, y=1.0, z=z, yaw=0.0, frame="hall") for i, z in enumerate(heights)]
    places[3] = replace(places[3], x=12.0)  # in the next cell
    table = group(places)
    group_of = {int(place.path[:4]): number for place, number in zip(table.places, table.group_ids.tolist(), strict=True)}
    assert group_of[0] == group_of[1] == group_of[2] != group_of[3]
    assert [str(remark) for remark in table.remarks] == [
        "Assumed: 1 photos without a height, in local frames with heights, are compared in the plane, such as 0003.jpg."
    ]
    assert group(places[:3]).remarks == group([replace(place, z=None) for place in places]).remarks == ()


def test_photos_without_a_height_join_the_only_floor():
    places = [Place(f"{i:04d}.jpg", x=1.0, y=1.0, z=z, yaw=0.0) for i, z in enumerate([31.0, None, 35.0])]
    assert len(set(group(places, cell=10).place_ids.tolist())) == 1


def test_local_frames_have_floors_and_yaw():
    """Cells are cubes; yaw and compass of one frame are not compared, as the frame's x axis has no known direction."""
    places = [
        Place("0000.jpg", x=1.0, y=1.0, z=1.0, yaw=10.0),
        Place("0001.jpg", x=1.0, y=1.0, yaw=20.0),
        Place("0002.jpg", x=1.0, y=1.0, z=4.0, yaw=10.0),
        Place("0003.jpg", x=1.0, y=1.0, z=1.0, heading=10.0, yaw=200.0),
    ]
    found = ids(group(places, cell=3))
    assert found[0] == found[1] and len({found[0], found[2], found[3]}) == 3
    assert len(set(ids(group(places, cell=3, heading=360)).values())) == 2  # floors only


def test_skipped_photos_are_named():
    places = [utm_photo(i, 500, 4000, 10) for i in range(3)]
    places += [
        Place("0003.jpg"),
        utm_photo(4, 500, 4000),
        utm_photo(5, 900, 4000, 10),
        Place("0006.jpg", 85.0, 10.0, heading=1.0),
    ]
    table = PlaceTable(Path("photos"), places, "csv", {"unlisted.jpg": "not listed in places.csv"})
    grouped = group_places(table, min_photos=3)
    assert [place.path for place in grouped.places] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    assert grouped.skipped == {
        "unlisted.jpg": "not listed in places.csv",
        "0003.jpg": "no position",
        "0004.jpg": "no heading",
        "0005.jpg": "its place has 1 photos, fewer than 3",
        "0006.jpg": "no position in metres: UTM ends at 80° S and 84° N",
    }
    whole = group_places(table, PlaceGrid(heading=360), min_photos=3)
    assert len(whole.places) == 4 and "0004.jpg" not in whole.skipped  # headings do not matter, so none is needed


@pytest.mark.parametrize(
    ("first", "second", "num_days"),
    [
        ("2026:05:04 23:59:59", "2026-05-04T00:00:01Z", 1),  # EXIF and ISO 8601
        ("20260504", "2026/05/05", 2),
        ("2015-06", "2015-07", 2),  # no days are known, but these are two
        ("201506", "201506", 1),
        ("1462320000", "1462406399.5", 1),  # both ends of 2016-05-04 in seconds
        ("1462320000", "1462406400", 2),
        ("1462320000", "1462406399000", 1),  # thousandths
        ("1462320000000000000", "1462406400000000000", 2),  # billionths
        ("2016:05:04 12:00:00", "1462320000", 1),  # a camera's time and a robot's
        ("12.5", "3600", 1),  # an hour of a clock that began at 0
        ("2026-05-04T09:50:00+10:00", "2026-05-04T10:10:00+10:00", 1),  # of two days by UTC
        ("20260504_120000", "20260504_120001", 1),
        ("noon", "dusk", 0),  # no times
        ("01/05/2024 10:00", "01/05/2024 10:01", 0),
        ("2026-05-04", None, 1),
        (None, None, 0),
    ],
)
def test_times_in_any_form_count_as_days(first, second, num_days):
    """Two photos of one morning are almost one photo, however their times are written."""
    places = [utm_photo(0, 1, 1, 0, timestamp=first), utm_photo(1, 1, 1, 0, timestamp=second)]
    text = describe_places(group(places))
    assert f"one known day only: {int(num_days == 1)}; of unknown days: {int(num_days == 0)}." in text
    if num_days >= 2:
        assert group(places, min_days=2).skipped == {}
        return
    others = [utm_photo(i, 900, 900, 0, timestamp=f"2026-05-0{i}") for i in (2, 3)]
    reason = f"its place has {num_days} known days, fewer than 2"
    assert group([*places, *others], min_days=2).skipped == {"0000.jpg": reason, "0001.jpg": reason}


def test_days_are_counted_place_by_place():
    """Two places of one day each have two days together."""
    places = [utm_photo(i, 100 * (i // 2), 0, 0, timestamp=f"2026-05-0{1 + i // 2}") for i in range(4)]
    assert "one known day only: 2; of unknown days: 0." in describe_places(group(places))


def drawn_photos(count=400, seed=5, side=120.0):
    generator = np.random.default_rng(seed)
    numbers = zip(*generator.uniform(0, side, (2, count)), generator.uniform(0, 360, count), strict=True)
    return [utm_photo(i, 500_000 + east, 4e6 + north, heading) for i, (east, north, heading) in enumerate(numbers)]


@pytest.mark.parametrize(
    "grid", [{}, {"heading": 120}, {"heading": 72, "spacing": 10}, {"cell": 7, "spacing": 20.5}, {"heading": 360}]
)
def test_places_of_a_group_do_not_overlap(grid):
    """Neighbouring cells and directions show the same street: in one batch they would be false negatives."""
    table = group(drawn_photos(), **grid)
    rule = PlaceGrid(**grid)
    assert len(set(table.group_ids)) > 1 and len(set(table.place_ids)) > len(set(table.group_ids))
    for first, second in itertools.combinations(range(len(table.places)), 2):
        if table.group_ids[first] == table.group_ids[second] and table.place_ids[first] != table.place_ids[second]:
            here, there = table.places[first], table.places[second]
            apart = np.hypot(here.utm_east - there.utm_east, here.utm_north - there.utm_north)
            assert apart >= rule.spacing or angle_between(here.heading, there.heading) > rule.heading


def test_neighbouring_places_get_different_groups():
    """Spacing 25 m and cells of 10 m: every fourth cell, which leaves 30 m between them; and every other direction.

    A full grid takes no more groups than that: 4 x 4 x 2.
    """
    photos = [utm_photo(i, 10 * i, 0, 0) for i in range(9)] + [utm_photo(10 + i, 0, 0, 30 * i) for i in range(1, 12)]
    table = group(photos)
    group_of = {int(place.path[:4]): number for place, number in zip(table.places, table.group_ids.tolist(), strict=True)}
    assert group_of[0] == group_of[4] == group_of[8] and len({group_of[i] for i in range(4)}) == 4
    assert {group_of[10 + i] for i in range(2, 12, 2)} == {group_of[0]}
    assert {group_of[10 + i] for i in range(1, 12, 2)} == {group_of[11]} != {group_of[0]}
    full = [(10 * x, 10 * y, 30 * turn) for x in range(8) for y in range(8) for turn in range(12)]
    assert np.bincount(group([utm_photo(i, *values) for i, values in enumerate(full)]).group_ids).tolist() == [24] * 32


def test_a_place_has_one_group():
    table = group(drawn_photos(), min_photos=2)
    pairs = set(zip(table.place_ids.tolist(), table.group_ids.tolist(), strict=True))
    assert len(pairs) == len(set(table.place_ids)) == table.place_ids.max() + 1
    assert sorted(set(table.group_ids)) == list(range(table.group_ids.max() + 1))


def test_the_order_of_the_photos_does_not_matter():
    photos = [*drawn_photos(), utm_photo(900, 5, 5, 5, "9S"), Place("0901.jpg", x=1.0, y=1.0, heading=0.0)]
    first, second = group(photos), group([photos[i] for i in np.random.default_rng(1).permutation(len(photos))])
    assert first == second
    keys = list(zip(first.place_ids.tolist(), [place.path for place in first.places], strict=True))
    assert keys == sorted(keys)
    np.testing.assert_array_equal(first.place_ids, second.place_ids)
    np.testing.assert_array_equal(first.group_ids, second.group_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": 0}, r"cell must be above 0 metres, got 0\."),
        ({"cell": float("nan")}, "cell must be above 0 metres, got nan"),
        ({"spacing": float("inf")}, "spacing must be above 0 metres, got inf"),
        ({"heading": 0}, "whole fraction of 360 degrees, such as 30, or 360 to ignore headings; got 0"),
        ({"heading": 50}, "whole fraction of 360 degrees"),
        ({"heading": 720}, "whole fraction of 360 degrees"),
        ({"heading": float("nan")}, "whole fraction of 360 degrees"),
        ({"min_photos": 0}, "must be at least 1, got 0 and 1"),
        (
            {"min_photos": 2},
            r"No place has 2 photos \(cells of 10 m, directions of 30°, .*\)\. 0000\.jpg: its place has 1",
        ),
        ({"min_days": 2}, "No place has 1 photos of 2 days"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        group([utm_photo(0, 1, 1, 0)], **options)


def test_the_error_without_headings_names_the_option_that_ignores_them():
    with pytest.raises(ValueError, match=r"0000\.jpg: no heading\. .*`heading=360`"):
        group([utm_photo(0, 1, 1)])


# --- the table ---


@pytest.fixture
def drive(tmp_path):
    """A street driven twice, three photos each time 1 m apart, and back once; one photo elsewhere."""
    folder = tmp_path / "drive"
    for i, (north, heading) in enumerate(
        [(1, "10"), (2, "11"), (3, "12.5"), (4, "5"), (5, "6"), (6, "7"), (5, "190"), (90, "10")]
    ):
        save(folder / at_name(544380 + i / 100, 4172750 + north, latitude="37.7", longitude="-122.5", heading=heading), i)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["places", *map(str, arguments)])


def test_a_written_table_is_read_back(tmp_path, drive):
    """The written table has the grouped photos, also if it is written and read through a link of another depth."""
    grouped = group_places(read_places(drive))
    for folder in ("tables", "deep"):
        (tmp_path / folder).mkdir()
    (tmp_path / "deep" / "link").symlink_to(tmp_path / "tables")
    write_places(grouped, tmp_path / "deep" / "link" / "places.csv")
    for folder in ("tables", "deep/link"):
        table = read_places(tmp_path / folder / "places.csv")
        assert [table.photo(place).name for place in table.places] == [place.path for place in grouped.places]
        assert all(table.photo(place).is_file() for place in table.places)
    details = ("latitude", "longitude", "heading", "timestamp", "condition")
    assert [[getattr(place, name) for name in details] for place in table.places] == [
        [getattr(place, name) for name in details] for place in grouped.places
    ]
    np.testing.assert_array_equal(table.place_ids, grouped.place_ids)
    np.testing.assert_array_equal(table.group_ids, grouped.group_ids)
    assert to_dataset(table)["place_id"][:] == [0] * 6
    assert group_places(table).place_ids.tolist() == [0] * 6  # read again, grouped again


def test_a_written_table_is_indexed_and_evaluated(tmp_path, drive, tiny_folder):
    write_places(group_places(read_places(drive)), tmp_path / "places.csv")
    index, report = index_photos(tmp_path / "places.csv", tmp_path / "index", PlaceEncoder(tiny_folder))
    assert (len(index), report.skipped) == (6, {})
    found = evaluate(tmp_path / "places.csv", tmp_path / "places.csv", PlaceEncoder(tiny_folder), recall_values=(1,))
    assert found.recall()["recall@1"]["recall"] == 1


def test_a_written_table_keeps_every_kind_of_position(tmp_path):
    """Positions of all kinds keep their frames, numbers their last digit; metres without degrees stay UTM metres."""
    places = [
        with_utm(Place("a.jpg", 1 / 3, -2 / 3, heading=1 / 7, timestamp="2026:05:04 03:02:01", condition='snow, "wet"')),
        Place("b, c.jpg", x=-1 / 3, y=0.1, z=-3.0, yaw=4.5, frame="hall"),
        Place("d.jpg", utm_east=12.5, utm_north=-7.0, heading=3.0),
    ]
    table = PlaceTable(tmp_path, places, "csv", place_ids=np.array([0, 1, 2]))
    write_places(table, tmp_path / "t" / "p.csv")
    read = read_places(tmp_path / "t" / "p.csv")
    assert [place.path for place in read.places] == ["../a.jpg", "../b, c.jpg", "../d.jpg"]
    for before, after in zip(places, read.places, strict=True):
        assert {**vars(before), "path": ""} == {**vars(after), "path": ""}
    assert read.place_ids.tolist() == [0, 1, 2] and read.group_ids is None


def test_the_command_writes_and_reports_places(tmp_path, drive, caplog):
    result = run(drive, "--out", tmp_path / "places.csv", "--cell", 10, "--heading", 30)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "Places: cells of 10 m, directions of 30°, 25 m between places of a group.",
        "8 photos, 8 with a position (from: names).",
        "1 places of 6 to 6 photos, 6 in all, in 1 groups of 1 to 1 places.",
        "Places with photos of one known day only: 1; of unknown days: 0.",
        f"Wrote {tmp_path / 'places.csv'}.",
    ]
    assert "2 of 8 photos were skipped" in caplog.text and "its place has 1 photos, fewer than 4" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "places.csv"]  # nothing half-written
    with (tmp_path / "places.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "latitude", "longitude", "heading", "timestamp", "place_id", "group_id"]


def test_the_same_command_gives_the_same_bytes(tmp_path, drive):
    contents = []
    for options in ([], ["--overwrite"]):
        assert run(drive, "--out", tmp_path / "p.csv", *options).exit_code == 0
        contents.append((tmp_path / "p.csv").read_bytes())
    assert contents[0] == contents[1]


def test_a_refused_command_changes_no_file(tmp_path, drive):
    """The user's table must not be replaced, and a new one must not take the place of the photos' folder."""
    table = tmp_path / "places.csv"
    table.write_text("mine")
    for arguments, message in (
        ([drive, "--out", table], "exists already"),
        ([drive, "--out", table, "--overwrite", "--strict"], "2 of 8 photos were skipped"),
        ([drive, "--out", drive / "places.csv"], "would be taken for the table of all its photos"),
        ([drive, "--out", tmp_path / "places.txt"], "ends in .csv"),
        ([drive, "--out", table, "--overwrite", "--min-photos", 7], "No place has 7 photos"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1 and message in str(result.exception)
        assert table.read_text() == "mine"
    assert not (drive / "places.csv").exists()


def test_a_failing_disk_leaves_the_old_table(tmp_path, drive, monkeypatch):
    grouped = group_places(read_places(drive))
    write_places(grouped, tmp_path / "p.csv")
    before = (tmp_path / "p.csv").read_bytes()

    def fail(table, *_):
        table.write_text("half a ta")
        raise OSError("No space left on device")

    monkeypatch.setattr("d2vpr_hf.readers.folder.write_csv", fail)
    with pytest.raises(OSError, match="No space left"):
        write_places(grouped, tmp_path / "p.csv", overwrite=True)
    assert (tmp_path / "p.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "p.csv"]


def test_photos_of_a_gridtown_place_share_its_place_and_direction(tmp_path):
    """A town's own numbers agree: photos of one place in the table were taken at one of its places and look one of its ways."""
    simulate(tmp_path / "town", 3, 3, tier="easy", photos_per_place=20, image_size=14)
    result = run(tmp_path / "town" / "images" / "test", "--out", tmp_path / "p.csv", "--cell", 10, "--heading", 30)
    assert result.exit_code == 0, result.output
    assert "72 photos, 72 with a position (from: names)." in result.output
    table = read_places(tmp_path / "p.csv")
    assert all(table.photo(place).is_file() for place in table.places)
    views = np.array([Path(place.path).name.split("@")[7].rsplit("-", 1)[0] for place in table.places])  # city, place, way
    rows = [np.flatnonzero(table.place_ids == number) for number in range(table.place_ids.max() + 1)]
    assert len(rows) >= 6 and all(len(of_place) >= 4 and len(set(views[of_place])) == 1 for of_place in rows)


# --- tables of other programs ---


def read_table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return read_places(tmp_path / "t.csv")


def test_ids_are_numbered_without_gaps(tmp_path):
    """In the order of the numbers; ids of 19 digits that differ in the last are different, which floats would miss."""
    rows = ("path,x,y,Place_ID, group_id", "a.jpg,1,2,9223372036854775808,7", "b.jpg,1,2,-4,-1")
    table = read_table(tmp_path, "\n".join([*rows, "c.jpg,1,2,9223372036854775809,7", "d.jpg,1,2,-4.0,-1"]))
    assert (table.place_ids.tolist(), table.group_ids.tolist()) == ([1, 0, 2, 0], [1, 0, 1, 0])
    assert table.place_ids.dtype == np.int64


@pytest.mark.parametrize("column", ["place_id", "group_id"])
def test_columns_without_place_ids_are_ignored(tmp_path, column):
    """An empty column is ignored; so are groups without places, such as another program's words."""
    cells = ("", "") if column == "place_id" else ("train", "val")
    table = read_table(tmp_path, f"path,x,y,{column}\na.jpg,1,2,{cells[0]}\nb.jpg,1,2,{cells[1]}\n")
    assert table.place_ids is None and table.group_ids is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("1,1", ",1"), r"t\.csv, line 3: place_id is missing\. Remove the lines of photos without a place"),
        (("1,1", "2"), "line 3: group_id is missing"),
        (("1,1", "1.5,1"), r"line 3: place_id must be a whole number, got 1\.5"),
        (("1,1", "nan,1"), "line 3: place_id must be a whole number, got nan"),
        (("x1,1", "1,1"), "line 2: place_id must be a whole number, got x1"),
        (("1_0,1", "1,1"), "line 2: place_id must be a whole number, got 1_0"),
        (("3,1", "3,2"), "line 3: place 3 is of group 1, here it is of 2"),
    ],
)
def test_bad_ids_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path, f"path,x,y,place_id,group_id\na.jpg,1,2,{rows[0]}\nb.jpg,1,2,{rows[1]}\n")


@pytest.mark.parametrize(
    "centre", [(51.4779, 0.0), (0.0, 6.0), (-16.8, 180.0), (60.4, 3.0), (72.0, 33.0), (78.0, 21.0), (83.9, 180.0), (-79.9, 6.0)]
)
def test_places_of_a_group_are_apart_on_the_sphere(centre):
    """Great circles by the haversine formula, for photos around the corner of zones or hemispheres."""
    rng = np.random.default_rng(0)
    latitudes = centre[0] + rng.normal(0, 6e-4, 200)
    longitudes = (centre[1] + rng.normal(0, 6e-4, 200) / np.cos(np.radians(centre[0])) + 180) % 360 - 180
    headings = rng.choice([0.0, 29.0, 30.0, 100.0, 355.0], 200)
    rows = zip(latitudes.tolist(), longitudes.tolist(), headings.tolist(), strict=True)
    photos = [Place(f"{number:03}", *position, heading=heading) for number, (*position, heading) in enumerate(rows)]
    table = group_places(PlaceTable(Path(), photos, "csv"), PlaceGrid(), min_photos=1)
    order = [int(place.path) for place in table.places]
    phi, turn = np.radians(latitudes[order]), np.radians(longitudes[order])
    squares = np.sin((phi[:, None] - phi) / 2) ** 2
    squares += np.cos(phi)[:, None] * np.cos(phi) * np.sin((turn[:, None] - turn) / 2) ** 2
    distances = 2 * 6_371_008.8 * np.arcsin(np.sqrt(squares))
    bins = headings[order] // 30
    steps = np.abs(bins[:, None] - bins)
    is_neighbour = (distances < 25 * 0.995) & (np.minimum(steps, 12 - steps) <= 1)  # UTM metres differ by up to 0.5 %
    is_same_place = table.place_ids[:, None] == table.place_ids
    is_same_group = table.group_ids[:, None] == table.group_ids
    assert not (is_neighbour & is_same_group & ~is_same_place).any()
    assert distances[is_same_place].max() < 10 * 2**0.5 * 1.005 and (steps[is_same_place] == 0).all()
