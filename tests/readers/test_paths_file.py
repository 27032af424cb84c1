"""`<folder>_images_paths.txt` next to a folder, read instead of walking the folder."""

import logging

import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.readers import find_photos, read_places
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.photos import at_name, save


def write_list(folder, *lines):
    listing = folder.with_name(f"{folder.name}_images_paths.txt")
    listing.write_text("".join(f"{line}\n" for line in lines))
    return listing


def test_the_list_replaces_the_walk(tmp_path):
    """Order and choice are the list's; blank lines are ignored; an @ in a parent folder and .JPG are read too."""
    folder = tmp_path / "@sf@xl" / "database"
    names = [
        f"{kind}/{at_name(east, 2).replace('.jpg', ending)}" for kind, east, ending in (("b", 1, ".JPG"), ("a", 3, ".jpg"))
    ]
    for i, name in enumerate([*names, at_name(5, 2)]):
        save(folder / name, i)
    write_list(folder, names[0], "", f"./{names[1]}  ", "  ")
    table = read_places(folder)
    assert (table.source, [place.path for place in table.places]) == ("names", names)
    assert [place.utm_east for place in table.places] == [1.0, 3.0]


def test_the_list_is_found_for_the_current_folder(tmp_path, monkeypatch):
    """`Path(".")` has no name; the list is named after the folder that it resolves to."""
    save(tmp_path / "photos" / "a.jpg", 0)
    save(tmp_path / "photos" / "b.jpg", 1)
    write_list(tmp_path / "photos", "b.jpg")
    monkeypatch.chdir(tmp_path / "photos")
    assert [place.path for place in read_places(".").places] == ["b.jpg"]


def test_missing_photos_are_named_and_counted(tmp_path, tiny_folder, caplog):
    folder = tmp_path / "database"
    names = [at_name(east, 2) for east in (1, 2, 3)]
    save(folder / names[1], 0)
    write_list(folder, *names)
    with caplog.at_level(logging.WARNING):
        index, report = index_photos(folder, tmp_path / "index", PlaceEncoder(tiny_folder))
    assert [place.path for place in index.places] == [names[1]]
    assert report.skipped == {names[0]: "no such file", names[2]: "no such file"}
    assert "2 of 3 photos were skipped" in caplog.text


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (
            ["database/a.jpg"],
            FileNotFoundError,
            r"None of the 1 photos .* such as .*database/database/a\.jpg\. .* relative to",
        ),
        ([], FileNotFoundError, "None of the 0 photos"),
        (["a.jpg", "/etc/a.jpg"], ValueError, "line 2: expected a path inside the folder"),
        (["../b.jpg"], ValueError, "line 1: expected a path inside the folder"),
        (["a.jpg", "", "./a.jpg"], ValueError, r"line 3: a\.jpg is listed in line 1 already"),
    ],
)
def test_malformed_lists_are_refused(tmp_path, lines, error, message):
    """Paths relative to the parent would all be missing: that is said once, not once a photo."""
    save(tmp_path / "database" / "a.jpg", 0)
    write_list(tmp_path / "database", *lines)
    with pytest.raises(error, match=message):
        find_photos(tmp_path / "database")


def test_lists_in_another_encoding_are_refused(tmp_path):
    save(tmp_path / "database" / "a.jpg", 0)
    write_list(tmp_path / "database").write_bytes("Straße.jpg\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not a text in UTF-8"):
        find_photos(tmp_path / "database")
