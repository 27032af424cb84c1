"""Hugging Face data sets of every kind in one form, streamed or not, and indexed as a folder is."""

import json
import logging
import shutil

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import utm
from PIL import Image
from PIL.ExifTags import Base

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.readers import iter_photos, load_places, open_photo, read_gsv_cities, read_places, to_dataset
from d2vpr_hf.readers.place_dataset import place_features
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.command_line import run
from tests.photos import at_name, draw, gps_exif, save, save_bad_files
from tests.readers.test_gsv_cities import row as gsv_row
from tests.readers.test_gsv_cities import write_city

NUM_ROWS = 5
POSITIONS = {"lat": [43.5 + i / 100 for i in range(NUM_ROWS)], "Lon": [11.5 + i / 10 for i in range(NUM_ROWS)]}
NAMES = [f"{'ab'[i % 2]}/1.jpg" if i < 2 else f"{i}.jpg" for i in range(NUM_ROWS)]  # two files of one name


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return PlaceEncoder(tiny_folder, batch_size=4)


def image_folder(folder):
    """Photos next to `metadata.csv`, like Hub repositories of images."""
    for i, name in enumerate(NAMES):
        save(folder / "train" / name, i)
    lines = [f"{name},{lat},{lon}" for name, lat, lon in zip(NAMES, *POSITIONS.values(), strict=True)]
    (folder / "train" / "metadata.csv").write_text("\n".join(["file_name,lat,Lon", *lines]))
    return folder


def embedded(folder, **more):
    """A data set that holds the photos' contents and the last part of their names, as `push_to_hub` leaves them."""
    image_folder(folder)
    contents = [{"bytes": (folder / "train" / name).read_bytes(), "path": name.split("/")[-1]} for name in NAMES]
    made = datasets.Dataset.from_dict({"image": contents, **POSITIONS, **more})
    return made.cast_column("image", datasets.Image())


def parquet_folder(folder):
    embedded(folder / "source").to_parquet(folder / "parquet" / "train-00000.parquet")
    return folder / "parquet"


def parquet_file(folder):
    return parquet_folder(folder) / "train-00000.parquet"


def saved_folder(folder):
    embedded(folder / "source").save_to_disk(folder / "saved")
    return folder / "saved"


def saved_splits(folder):
    datasets.DatasetDict(train=embedded(folder / "source")).save_to_disk(folder / "saved")
    return folder / "saved"


def json_lines(folder):
    """Paths as text, in files that say nothing of their types."""
    image_folder(folder)
    rows = [
        {"image": str(folder / "train" / name), "lat": lat, "Lon": lon}
        for name, lat, lon in zip(NAMES, *POSITIONS.values(), strict=True)
    ]
    (folder / "lines").mkdir()
    (folder / "lines" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "lines"


def zipped_folder(folder):
    (folder / "zipped").mkdir(parents=True)
    shutil.make_archive(str(folder / "zipped" / "photos"), "zip", image_folder(folder / "source"))
    return folder / "zipped"


def in_hub_cache(folder):
    """Write the files that a data set from the Hub leaves in the cache of `datasets`; offline only these are read."""
    cache = datasets.config.HF_DATASETS_CACHE
    shutil.copytree(parquet_folder(folder), folder / "streets")
    datasets.load_dataset(str(folder / "streets"))
    shutil.move(cache / "streets", cache / "user___streets")
    return "user/streets"


FORMS = (image_folder, parquet_folder, parquet_file, saved_folder, saved_splits, json_lines, zipped_folder, in_hub_cache)


def without_images(dataset):
    return [{name: value for name, value in row.items() if name != "image"} for row in dataset.remove_columns("image")]


# ---- the common form


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_streamed_or_not(tmp_path, form):
    """The same columns, rows and pixels: a stream that forgot its split, decoded twice or shifted its rows would differ."""
    name = form(tmp_path / "data")
    whole, stream = load_places(name), load_places(name, streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    assert whole.features == stream.features == place_features()
    assert without_images(whole) == without_images(stream)
    for i, (first, second) in enumerate(zip(whole, stream, strict=True)):
        assert (first["latitude"], first["longitude"]) == (POSITIONS["lat"][i], POSITIONS["Lon"][i])
        assert first["utm_east"] == utm.from_latlon(first["latitude"], first["longitude"])[0]
        assert (first["utm_zone"], first["heading"], first["place_id"]) == ("32T", None, None)
        expected = open_photo(save(tmp_path / "expected.jpg", i)).tobytes()
        assert first["image"].tobytes() == second["image"].tobytes() == expected
    for dataset in (whole, stream):
        assert [open_photo(photo).tobytes() for _, photo in iter_photos(dataset)] == [row["image"].tobytes() for row in whole]


def test_photos_are_named_by_their_file_or_their_row(tmp_path):
    """A file of its own is named by it; contents by row and name, as `1.jpg` is there twice."""
    folder = image_folder(tmp_path / "files")
    assert list(load_places(folder)["path"]) == [str(folder / "train" / name) for name in NAMES]
    name = in_hub_cache(tmp_path / "data")
    expected = [f"user/streets/train/{i}/{file.split('/')[-1]}" for i, file in enumerate(NAMES)]
    assert list(load_places(name)["path"]) == expected


def test_columns_of_other_names_can_be_chosen(tmp_path):
    more = {
        "street": ["a"] * NUM_ROWS,
        "compass": [float(i) for i in range(NUM_ROWS)],
        "TIME": ["2026-05-04"] * NUM_ROWS,
        "place_id": [7, 7, 8, 8, None],
    }
    made = embedded(tmp_path / "source", **more).rename_columns({"image": "front", "lat": "y", "Lon": "x"})
    made.save_to_disk(tmp_path / "saved")
    columns = {"latitude": "y", "longitude": "x", "heading": "compass"}
    for streaming in (False, True):
        rows = without_images(load_places(tmp_path / "saved", columns=columns, streaming=streaming))
        assert [row["latitude"] for row in rows] == POSITIONS["lat"]
        assert [row["heading"] for row in rows] == more["compass"]
        assert [row["place_id"] for row in rows] == more["place_id"]
        assert {row["timestamp"] for row in rows} == {"2026-05-04"}
        assert {(row["x"], row["y"]) for row in rows} == {(None, None)}  # they are not a local frame here


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "photo"}, r"has the columns image, lat, Lon, but not photo"),
        ({"picture": "image"}, r"There is no field picture to fill\. The fields are image, path, latitude, longitude"),
        ({"utm_east": "lat"}, r"has the columns image, lat, Lon: utm_east and utm_north belong together.*`columns=.*utm_north"),
    ],
)
def test_wrong_columns_are_errors_that_list_them(tmp_path, columns, message):
    name = saved_folder(tmp_path)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            load_places(name, columns=columns, streaming=streaming)


def test_two_columns_for_one_number_are_an_error_that_asks(tmp_path):
    embedded(tmp_path / "source", GPS_Latitude=[0.0] * NUM_ROWS).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"lat and GPS_Latitude both name the latitude\. Choose one with `columns="):
        load_places(tmp_path / "saved")
    assert list(load_places(tmp_path / "saved", columns={"latitude": "lat"})["latitude"]) == POSITIONS["lat"]


@pytest.mark.parametrize("streaming", [False, True])
def test_doubtful_positions_of_rows_are_reported(tmp_path, caplog, streaming):
    """Null island, and eastings of the British grid next to degrees."""
    metres = {"easting": [530268.0] * NUM_ROWS, "northing": [179640.0] * NUM_ROWS}
    made = embedded(tmp_path / "source", **metres).remove_columns(["lat", "Lon"])
    made.add_column("lat", [0.0, 51.5, 51.5, 51.5, 51.5]).add_column("lon", [0.0, 1, 1, 1, 1]).save_to_disk(tmp_path / "saved")
    rows = without_images(load_places(tmp_path / "saved", streaming=streaming))
    assert [row["utm_zone"] for row in rows] == ["31N", *["31U"] * 4]
    assert "1 positions at latitude 0" in caplog.text and "5 rows whose eastings and northings" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_remarks_on_rows_are_in_the_json_report(tmp_path, tiny_folder, caplog, streaming):
    embedded(tmp_path / "source", time=["yesterday"] * NUM_ROWS).to_parquet(tmp_path / "a.parquet")
    options = ["--dataset", tmp_path / "a.parquet", "--model", tiny_folder, "--out", tmp_path / "i", "--json"]
    status, out, err = run("index", *options, *(["--streaming"] if streaming else []))
    assert status == 0, err
    report = json.loads(out)
    assert (report["source"], report["photos"], report["positions"]) == ("dataset", 5, 5)
    assert [(remark["kind"], remark["count"]) for remark in report["remarks"]] == [("skipped", NUM_ROWS)]
    assert caplog.text.count("5 times that cannot be read") == 1


def test_data_sets_without_images_are_refused(tmp_path):
    datasets.Dataset.from_dict(POSITIONS).save_to_disk(tmp_path / "a")
    with pytest.raises(ValueError, match=r"has the columns lat, Lon, none of them images .*`columns=.*image.*COLUMN"):
        load_places(tmp_path / "a")
    with pytest.raises(ValueError, match=r"The column lat holds .*float64.*, which are not images"):
        load_places(tmp_path / "a", columns={"image": "lat"})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("lat", 91.0, r"saved, row 3: latitude must be in \[-90, 90\]"),
        ("lat", None, "saved, row 3: latitude and longitude belong together"),
        ("lat", float("nan"), "saved, row 3: latitude and longitude belong together"),
        ("lat", float("inf"), "saved, row 3: expected a finite number, got inf"),
        ("place_id", 1.5, r"saved, row 3: place_id must be a whole number, got 1\.5"),
    ],
)
def test_bad_rows_are_named(tmp_path, column, value, message):
    columns = POSITIONS | {"place_id": [0.0] * NUM_ROWS}
    columns[column] = [*columns[column][:3], value, *columns[column][4:]]
    made = embedded(tmp_path / "source").remove_columns(["lat", "Lon"])
    datasets.concatenate_datasets([made, datasets.Dataset.from_dict(columns)], axis=1).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=message):
        load_places(tmp_path / "saved")
    with pytest.raises(ValueError, match=message):
        list(load_places(tmp_path / "saved", streaming=True))


def test_rows_without_a_position_stay(tmp_path):
    made = embedded(tmp_path / "source").remove_columns(["lat", "Lon"])
    made = made.add_column("lat", [None, 1.5] * 2 + [None]).add_column("lon", [None, 2.5] * 2 + [None])
    made.save_to_disk(tmp_path / "saved")
    assert [place.has_position for place, _ in iter_photos(load_places(tmp_path / "saved"))] == [False, True] * 2 + [False]


def test_shuffled_data_sets_keep_rows_and_images_together(tmp_path):
    """A shuffled data set is a list of row numbers and the rows; ignoring the list would swap the positions."""
    embedded(tmp_path / "source").shuffle(seed=1).save_to_disk(tmp_path / "saved")
    for streaming in (False, True):
        for row in load_places(tmp_path / "saved", streaming=streaming):
            i = POSITIONS["lat"].index(row["latitude"])
            assert row["image"].tobytes() == open_photo(save(tmp_path / "expected.jpg", i)).tobytes()


# ---- splits, revisions, names


def test_one_of_several_splits_must_be_chosen(tmp_path):
    made = embedded(tmp_path / "source")
    made.to_parquet(tmp_path / "parquet" / "train-0.parquet")
    made.select([0]).to_parquet(tmp_path / "parquet" / "test-0.parquet")
    datasets.DatasetDict(train=made, test=made.select([0])).save_to_disk(tmp_path / "saved")
    for folder in (tmp_path / "parquet", tmp_path / "saved"):
        for streaming in (False, True):
            with pytest.raises(ValueError, match=r"has 2 splits \(train, test\)\. Choose one with `split=\.\.\.`"):
                load_places(folder, streaming=streaming)
            with pytest.raises(ValueError, match=r"val.*train"):
                load_places(folder, split="val", streaming=streaming)
            assert len(list(load_places(folder, split="test", streaming=streaming))) == 1


def test_a_revision_is_not_ignored(tmp_path):
    """Offline, `datasets` gives whatever it loaded last."""
    name = in_hub_cache(tmp_path / "data")
    with pytest.raises(ValueError, match=r"The Hub cannot be reached.*uses the last revision"):
        load_places(name, revision="0" * 40)
    with pytest.raises(ValueError, match="is on this machine and has no revisions"):
        load_places(tmp_path / "data" / "streets", revision="main")


def test_names_of_no_data_set_are_refused(tmp_path):
    with pytest.raises(ConnectionError, match="Couldn't reach 'user/nothing' on the Hub"):
        load_places("user/nothing")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"Expected a Hub id, a folder or a \.parquet file, got the file .*notes\.txt"):
        load_places(tmp_path / "notes.txt")
    (tmp_path / "broken.parquet").write_text("not a table")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read as a data set: .*[Pp]arquet"):
        load_places(tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match="The data set's name is empty"):
        load_places("")


# ---- tables


def test_a_table_becomes_a_data_set_without_decoding(tmp_path):
    """Nothing is decoded before it is touched: a folder of a million photos is a data set at once."""
    for i in range(3):
        save(tmp_path / "photos" / at_name(544000 + i, 4172758, heading=str(i)), i)
    (tmp_path / "photos" / at_name(544009, 4172758)).write_text("not a photo")
    table = read_places(tmp_path / "photos")
    dataset = to_dataset(table)
    assert dataset.features == place_features()
    assert [(place.utm_east, place.heading) for place, _ in iter_photos(dataset)] == [
        (place.utm_east, place.heading) for place in table.places
    ]
    assert list(dataset["path"]) == [place.path for place in table.places]
    assert dataset[1]["image"].tobytes() == open_photo(table.photo(table.places[1])).tobytes()
    with pytest.raises(OSError, match="cannot identify"):
        dataset[3]["image"]


def test_gsv_cities_become_a_data_set_with_place_ids(tmp_path):
    write_city(tmp_path, "Rome", [gsv_row("Rome", place_id, i) for place_id in (5, 3) for i in range(2)])
    dataset = to_dataset(read_gsv_cities(tmp_path, images_per_place=2))
    assert list(dataset["place_id"]) == [1, 1, 0, 0]
    assert dataset[0]["image"].size == (90, 60) and dataset[0]["timestamp"] == "2015-01"


def test_data_sets_not_in_the_common_form_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks path, latitude, .*place_id\. `load_places` brings it to"):
        next(iter_photos(embedded(tmp_path)))


# ---- indexing


@pytest.mark.parametrize("streaming", [False, True])
def test_indexing_a_data_set_equals_indexing_its_photos(tmp_path, encoder, streaming):
    """Orientation by EXIF included: a photo on its side would match no place."""
    exif = gps_exif(1.0, 2.0)
    exif[Base.Orientation] = 8
    folder = image_folder(tmp_path / "data") / "train"
    save(folder / NAMES[2], 2, exif=exif)
    expected, _ = index_photos(folder, tmp_path / "expected", encoder)
    contents = [{"bytes": (folder / name).read_bytes(), "path": name} for name in NAMES]
    datasets.Dataset.from_dict({"image": contents, **POSITIONS}).save_to_disk(tmp_path / "saved")
    for number, name in enumerate((tmp_path / "data", tmp_path / "saved")):
        built, report = index_photos(load_places(name, streaming=streaming), tmp_path / f"index{number}", encoder)
        by_position = {place.latitude: row for row, place in enumerate(built.places)}
        order = [by_position[place.latitude] for place in expected.places]
        assert np.allclose(built.descriptors.take(order), expected.descriptors[:], atol=1e-3)  # half precision
        assert report.skipped == {} and list(PlaceIndex.open(tmp_path / f"index{number}").places) == list(built.places)
        _, report = index_photos(load_places(name, streaming=streaming), tmp_path / f"index{number}", encoder)
        assert (report.kept, report.added, report.changed, report.removed) == (5, 0, 0, 0)


def test_matches_of_a_data_set_of_files_are_files(tmp_path, encoder):
    """The index names the folder that they have in common, and photos in it."""
    folder = image_folder(tmp_path / "data") / "train"
    built, _ = index_photos(load_places(tmp_path / "data"), tmp_path / "index", encoder)
    assert (built.settings.photo_folder, [place.path for place in built.places]) == (folder, NAMES)
    match = built.search(encoder.encode([folder / NAMES[3]]).descriptors, 1)[0][0]
    assert match.photo == folder / NAMES[3]


def test_matches_of_a_hub_data_set_are_named_by_it(tmp_path, encoder):
    built, _ = index_photos(load_places(in_hub_cache(tmp_path / "data")), tmp_path / "index", encoder)
    assert str(built.search(built.descriptors[1:2], 1)[0][0].photo) == "user/streets/train/1/1.jpg"


@pytest.mark.parametrize("streaming", [False, True])
def test_unreadable_images_are_named_and_skipped(tmp_path, encoder, caplog, streaming):
    """One bad row must not stop the other rows, nor shift their positions."""
    (tmp_path / "bad").mkdir()
    bad = save_bad_files(tmp_path / "bad")
    good = save(tmp_path / "good.jpg", 0).read_bytes()
    contents = [{"bytes": (tmp_path / "bad" / name).read_bytes(), "path": name} for name in bad]
    contents = [*contents, {"bytes": None, "path": str(tmp_path / "gone.jpg")}, None, {"bytes": good, "path": None}]
    columns = {"image": contents, "lat": [float(i) for i in range(7)], "lon": [0.0] * 7}
    features = datasets.Features(image=datasets.Image(), lat=datasets.Value("float64"), lon=datasets.Value("float64"))
    pq.write_table(datasets.Dataset.from_dict(columns, features).with_format("arrow")[:], tmp_path / "a.parquet")
    rows = load_places(tmp_path / "a.parquet", streaming=streaming)
    with caplog.at_level(logging.WARNING):
        built, report = index_photos(rows, tmp_path / "index", encoder)
    assert [(place.path.split("/")[-1], place.latitude) for place in built.places] == [("6", 6.0)]
    reasons = [*bad.values(), "no such file", "the file is empty"]
    skipped = report.skipped
    assert len(skipped) == 6 and "6 of 7 photos were skipped" in caplog.text
    assert all(reason in found for reason, found in zip(reasons, skipped.values(), strict=True))
    assert [path.split("/")[-1] for path in skipped] == [*bad, "gone.jpg", "5"]
    with pytest.raises(ValueError, match="6 of 7 photos were skipped"):
        index_photos(load_places(tmp_path / "a.parquet", streaming=streaming), tmp_path / "strict", encoder, strict=True)


def test_streams_are_read_as_they_are_encoded(tiny_folder):
    """Memory is bounded: a stream of a million photos must not be collected first."""
    taken = []

    def rows():
        for i in range(100):
            taken.append(i)
            yield {"image": draw(i), **dict.fromkeys(place_features().keys() - {"image"}), "path": str(i)}

    stream = datasets.IterableDataset.from_generator(rows, features=place_features())
    ahead = []
    encoder = PlaceEncoder(tiny_folder, batch_size=2, num_workers=1)
    encoder.encode((photo for _, photo in iter_photos(stream)), progress=lambda count: ahead.append(len(taken)))
    assert ahead[0] < 20 < ahead[-1] == 100


# ---- command line


@pytest.mark.parametrize("streaming", [False, True])
def test_the_command_indexes_a_data_set(tmp_path, tiny_folder, streaming):
    embedded(tmp_path / "source").rename_columns({"lat": "y", "Lon": "x"}).to_parquet(tmp_path / "a.parquet")
    options = ["--dataset", tmp_path / "a.parquet", "--split", "train", *(["--streaming"] if streaming else [])]
    options += ["--column", "latitude=y", "--column", "longitude=x", "--model", tiny_folder, "--out", tmp_path / "i"]
    status, out, err = run("index", *options)
    assert status == 0, err
    assert ("Streaming photos from" if streaming else "5 photos in") in out
    assert "Indexed 5 photos, 5 with a position, as descriptors" in out
    query = Image.open(save(tmp_path / "query.jpg", 3))
    match = PlaceIndex.open(tmp_path / "i").search(PlaceEncoder(tiny_folder).encode([query]).descriptors, 1)[0][0]
    assert match.place.latitude == POSITIONS["lat"][3]
    assert match.place.path == (f"{tmp_path}/a.parquet/train/" if streaming else "") + "3/3.jpg"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either PHOTOS or `--dataset NAME`"),
        (["{tmp}", "--dataset", "user/name"], "Give either PHOTOS or `--dataset NAME`"),
        (["{tmp}", "--split", "train", "--config", "a"], "PHOTOS is not a data set; omit --config, --split, or give"),
        (["--dataset", "user/name", "--column", "image"], "Expected `--column FIELD=NAME`, got 'image'"),
        (["--dataset", "user/name", "--positions", "exif"], "A data set has its positions in columns; omit --positions"),
        (["--dataset", "user/name"], "Couldn't reach 'user/name'"),
    ],
)
def test_the_command_refuses_options_that_do_not_fit(tmp_path, arguments, message):
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    status, _, err = run("index", *filled, "--out", tmp_path / "index")
    assert status == 1 and err.startswith("d2vpr: ") and message in err
