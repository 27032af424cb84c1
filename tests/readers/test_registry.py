"""New readers and new collections of photos must work without changes elsewhere."""

import pytest

from d2vpr_hf import index_photos, read_places
from d2vpr_hf.places import Place
from d2vpr_hf.readers import READERS, PlaceReader, PlaceTable, registry
from tests.index.workers import BytesEncoder, write_photos


def test_a_path_that_no_reader_accepts_names_all_readers(tmp_path):
    """A user with a file of another kind has to learn which kinds there are."""
    (tmp_path / "photos.txt").write_text("a.jpg")
    with pytest.raises(NotADirectoryError, match=r"photos\.txt is not a folder") as error:
        read_places(tmp_path / "photos.txt")
    assert all(reader.accepted in str(error.value) and f"({reader.name})" in str(error.value) for reader in READERS)


def test_a_reader_is_added_by_one_entry(tmp_path, monkeypatch):
    """One that comes first wins, for files that no other reader accepts and for folders that others accept too."""

    def read(path, options):
        folder = path if path.is_dir() else path.parent
        lines = (folder / "poses.txt").read_text().split()
        return PlaceTable(folder, [Place(path, x=float(x), y=0.0) for path, x in (line.split(",") for line in lines)], "poses")

    poses = PlaceReader("poses", "a poses.txt", lambda path: path.name == "poses.txt" or (path / "poses.txt").exists(), read)
    monkeypatch.setattr(registry, "READERS", (poses, *READERS))
    write_photos(tmp_path, 2)
    (tmp_path / "poses.txt").write_text("01.jpg,5\n")
    for path in (tmp_path, tmp_path / "poses.txt"):
        assert read_places(path) == PlaceTable(tmp_path, [Place("01.jpg", x=5.0, y=0.0)], "poses")


class Camera:
    """Photos whose paths are known only while they are read."""

    count = paths = None
    skipped = {"broken.jpg": "no light"}

    def __init__(self, photos, base_folder):
        self.photos, self.base_folder = photos, base_folder

    def items(self):
        return ((Place(photo.name), photo) for photo in self.photos)

    def rebase(self, folder):
        return Camera(self.photos, folder)


def test_a_collection_is_any_object_of_this_form(tmp_path):
    """Indexing and updating asked for a table's or a data set's own attributes."""
    photos = sorted(write_photos(tmp_path / "photos", 4).folder.iterdir())
    index, report = index_photos(Camera(photos, tmp_path / "photos"), tmp_path / "index", BytesEncoder())
    assert (report.added, report.skipped, len(index)) == (4, {"broken.jpg": "no light"}, 4)
    photos[0].write_bytes(b"a new photo")
    index, report = index_photos(Camera(photos[:3], tmp_path), tmp_path / "index", BytesEncoder())
    assert (report.changed, report.kept, report.removed) == (1, 2, 1)
    assert index.settings.photo_folder == tmp_path / "photos"
