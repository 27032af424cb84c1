"""Thumbnails of photos: small, upright, without metadata; they travel in the table of places, and are read one by one."""

import io

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.ExifTags import Base

from d2vpr_hf.hub import place_tables
from d2vpr_hf.hub.place_tables import write_place_table, write_thumbnail_table
from d2vpr_hf.hub.thumbnails import make_thumbnail, read_thumbnails
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import Place
from tests.index.workers import begin
from tests.photos import draw, gps_exif, jpeg, save


def decode(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def unit_row(number: int) -> np.ndarray:
    return np.eye(16)[number % 16 : number % 16 + 1]


@pytest.fixture
def index(tmp_path) -> PlaceIndex:
    """Seven photos, of which one is damaged and one was removed from the index."""
    made = begin(tmp_path / "index", photo_folder=tmp_path / "photos")
    for number in range(8):
        save(tmp_path / "photos" / f"{number}.jpg", number)
        made.add(unit_row(number), Place(f"{number}.jpg", 48.0 + number / 100, 11.0))
    (tmp_path / "photos" / "5.jpg").write_bytes(b"no photo")
    made.remove(["3.jpg"])
    return made


def test_a_thumbnail_is_small_upright_and_bare():
    """EXIF has the position and the camera; a comment or a profile may name a person."""
    exif = gps_exif(48.0, 11.0)
    exif[Base.Orientation], exif[Base.Artist] = 6, "Somebody"
    photo = jpeg(exif=exif, comment=b"Somebody", icc_profile=b"Somebody", dpi=(72, 72))
    content = make_thumbnail(photo, 40)
    image = decode(content)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (27, 40))  # 90x60, turned
    assert not image.getexif() and b"Somebody" not in content and b"Exif" not in content
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    upright = draw(1).rotate(-90, expand=True).resize((27, 40))
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 12


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_thumbnails_of_all_modes(mode, tmp_path):
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    grey = np.asarray(draw(1).convert("L"), np.uint16)
    image = Image.fromarray(256 * grey) if mode == "I;16" else draw(1).convert(mode)
    image.save(path)
    assert decode(make_thumbnail(path, 30)).size == (30, 20)


def test_a_small_photo_is_not_enlarged():
    assert decode(make_thumbnail(jpeg(), 500)).size == (90, 60)


def test_a_table_without_thumbnails(index, tmp_path):
    [file] = write_place_table(index.places.to_table(), tmp_path / "data")
    assert file.name == "train-00000-of-00001.parquet"
    assert pq.read_table(file).column("path").to_pylist() == [place.path for place in index.places]
    assert len(read_thumbnails(tmp_path)) == 0 and len(read_thumbnails(index.folder)) == 0


def test_thumbnails_are_written_and_read(index, tmp_path, monkeypatch):
    """Files, groups of rows and parts of every size must hold the rows in order."""
    for name, size in {"_ROWS_WITH_IMAGES": 5, "_ROWS_OF_GROUP": 2, "_ROWS_AT_ONCE": 4}.items():
        monkeypatch.setattr(place_tables, name, size)
    counts = []
    files, skipped = write_thumbnail_table(
        index.places.to_table(), tmp_path / "data", index.settings.photo_folder, 30, counts.append
    )
    assert [file.name for file in files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert sum(counts) == 7 and skipped == {"5.jpg": "not an image"}
    thumbnails = read_thumbnails(tmp_path)
    assert list(thumbnails) == [place.path for place in index.places if place.path != "5.jpg"] and len(thumbnails) == 6
    for path, content in thumbnails.items():
        assert content == make_thumbnail(index.settings.photo_folder / path, 30)
    assert "5.jpg" not in thumbnails and thumbnails.get("3.jpg") is None


def test_datasets_shows_the_table(index, tmp_path):
    write_thumbnail_table(index.places.to_table(), tmp_path / "data", index.settings.photo_folder)
    dataset = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.features["image"] == datasets.Image() and dataset["path"][:] == [place.path for place in index.places]
    assert dataset["latitude"][:] == [place.latitude for place in index.places]
    images = {row["path"]: row["image"] for row in dataset}
    assert images["0.jpg"].size == (90, 60) and images["5.jpg"] is None


def test_a_table_without_rows(tmp_path):
    empty = begin(tmp_path / "index")
    [file] = write_place_table(empty.places.to_table(), tmp_path / "data")
    assert pq.read_table(file).num_rows == 0
    _, skipped = write_thumbnail_table(empty.places.to_table(), tmp_path / "data", tmp_path)
    assert skipped == {} and len(read_thumbnails(tmp_path)) == 0
