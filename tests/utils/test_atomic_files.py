"""Files and folders are stored completely or not at all; tests/index/test_crashes.py tests their use by the index."""

import errno

import pytest

from d2vpr_hf.utils.atomic_files import make_empty, replace_folder, restore_folder, store_file


def fill(folder, text):
    make_empty(folder)
    (folder / "inner").mkdir()
    (folder / "inner" / "config.json").write_text(text)
    return folder


def test_a_stored_file_replaces_an_old_one(tmp_path):
    path = tmp_path / "new" / "table.csv"
    for text in ("first", "second"):
        store_file(path, lambda scratch, text=text: scratch.write_text(f"{text} as {scratch.name}"))
        assert path.read_text() == f"{text} as table.csv"
        assert list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_halfway_leaves_the_old_one(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(scratch):
        scratch.write_text("half a ta")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="The disk is full"):
        store_file(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_replaced_folder_keeps_no_old_file(tmp_path):
    """A file of the old one that the new one lacks must not stay."""
    place = fill(tmp_path / "best", "old")
    (place / "stale").touch()
    replace_folder(fill(tmp_path / "scratch", "new"), place)
    assert (place / "inner" / "config.json").read_text() == "new" and not (place / "stale").exists()
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_is_restored_after_an_interrupted_replacement(tmp_path, monkeypatch):
    """Killed between the two renames: the new one is not there yet, the old one is aside."""
    place, new = fill(tmp_path / "best", "old"), fill(tmp_path / "scratch", "new")
    rename = type(place).rename

    def killed(path, target):
        if path == new:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(place), "rename", killed)
        replace_folder(new, place)
    assert not place.exists()
    for _ in range(2):
        restore_folder(place)
        assert (place / "inner" / "config.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "scratch"]
