"""Indexes, models and Spaces on the Hub of the tests."""

from d2vpr_hf import PlaceEncoder, index_photos
from tests.photos import save_row


def folder_files(folder):
    """Return the files of a folder by their paths in it, without hidden ones, such as locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def put_index(hub, folder, model=None, name="user/map", **options):
    """Put an index of a few photos on the Hub; return its commit and the photos' folder, where the index does not find them."""
    photos = save_row(folder / "photos")
    index, _ = index_photos(photos, folder / "index", PlaceEncoder(model))
    index.close()
    return hub.put(name, folder_files(folder / "index"), "datasets", **options), photos.rename(folder / "moved-photos")
