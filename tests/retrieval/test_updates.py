"""An update encodes only new and changed photos; photos can be added and removed without the others."""

import hashlib
import json
import logging
import os
import shutil

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.place_rows import PhotoFile
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos, remove_photos
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.retrieval.updates import UpdateReport
from tests.command_line import run
from tests.index.workers import BytesEncoder, begin, contents, frame, write_photos
from tests.photos import at_name, save


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 8, bad=(3,))
    return tmp_path / "photos"


@pytest.fixture
def encoder():
    return BytesEncoder()


def paths_of(index):
    return index.places.column("path")


def descriptor_of(photo):
    """Return the descriptor of a photo that is alone in its batch."""
    return BytesEncoder(batch_size=1).encode([photo]).descriptors[0]


def test_an_update_without_changes_changes_no_byte(photos, tmp_path, encoder):
    """Only photos that could not be read are tried again; no byte changes."""
    _, report = index_photos(photos, tmp_path / "index", encoder, shard_size=3)
    assert report == UpdateReport(7, 0, 0, 0, {"03.jpg": "not an image"}) and len(encoder.seen) == 8
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "index").iterdir()}
    encoder.seen.clear()
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert report == UpdateReport(0, 0, 7, 0, {"03.jpg": "not an image"}) and encoder.seen == ["03.jpg"]
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "index").iterdir()}
    assert index.complete and index.skipped == {"03.jpg": "not an image"}


def test_images_that_are_not_read_are_skipped_and_counted(photos, tmp_path, encoder, caplog):
    (photos / "new.jxl").write_bytes(b"\xff\x0a" + bytes(20))
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails" / "00.jpg").write_bytes(b"small")
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert (len(index), list(report.skipped)) == (7, ["new.jxl", "03.jpg"])
    assert [remark.count for remark in report.remarks] == [1]
    assert "2 of 9 photos were skipped" in caplog.text and "Skipped: 1 photos that are thumbnails" in caplog.text
    results = search_photos(index, [photos], encoder)
    assert {result.query.name: result.error for result in results if result.error} == {
        "03.jpg": "not an image",
        "new.jxl": "JPEG XL is not a format that is read; convert it to JPEG or PNG",
    }
    with pytest.raises(ValueError, match=r"(?s)skipped.*new\.jxl: JPEG XL"):
        index_photos(photos, tmp_path / "index", encoder, strict=True)


def test_pipes_and_devices_are_not_read(photos):
    """Hashing one would never end."""
    os.mkfifo(photos / "pipe.jpg")
    (photos / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(OSError, match="not a regular file"):
            PhotoFile().with_hash(photos / name)


def test_changed_photos_are_encoded_and_missing_ones_removed(photos, tmp_path, encoder):
    index_photos(photos, tmp_path / "index", encoder, shard_size=3)
    (photos / "00.jpg").unlink()
    (photos / "01.jpg").write_bytes(b"other content")
    (photos / "02.jpg").write_bytes(b"PHOTO 2")  # as long as before
    (photos / "03.jpg").write_bytes(b"can be read now")
    (photos / "04.jpg").write_bytes(b"bad")
    (photos / "08.jpg").write_bytes(b"new")
    encoder.seen.clear()
    index, report = index_photos(photos, tmp_path / "index", BytesEncoder(batch_size=2), shard_size=99)
    assert report == UpdateReport(added=2, changed=2, kept=3, removed=2, skipped={"04.jpg": "not an image"})
    assert sorted(paths_of(index)) == ["01.jpg", "02.jpg", "03.jpg", "05.jpg", "06.jpg", "07.jpg", "08.jpg"]
    assert index.skipped == {"04.jpg": "not an image"} and index.verify() == [] and index.settings.shard_size == 3
    row = paths_of(index).index("03.jpg")
    assert np.allclose(index.descriptors.take([row])[0], descriptor_of(photos / "03.jpg"), atol=1e-3)
    hashes = dict(zip(paths_of(index), index.places.column("content_hash"), strict=True))
    assert hashes["02.jpg"] == hashlib.sha256(b"PHOTO 2").hexdigest()


def test_a_file_with_another_time_and_the_same_content_is_not_encoded(photos, tmp_path, encoder):
    """The content is compared with the recorded hash once, and the new time is recorded."""
    index_photos(photos, tmp_path / "index", encoder)
    os.utime(photos / "05.jpg", ns=(1, 1))
    before = PlaceIndex.open(tmp_path / "index")
    encoder.seen.clear()
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert report.kept == 7 and report.changed == 0 and encoder.seen == ["03.jpg"]
    rows = [paths_of(one).index("05.jpg") for one in (before, index)]
    assert np.array_equal(before.descriptors.take(rows[:1]), index.descriptors.take(rows[1:]))
    assert index.places.column("file_mtime_ns")[rows[1]] == 1 and len(index) == 7


def test_a_new_position_needs_no_encoding(photos, tmp_path, encoder):
    (photos / "p.csv").write_text("path,lat,lon\n00.jpg,1,1\n01.jpg,2,2\n")
    index_photos(photos, tmp_path / "index", encoder)
    (photos / "p.csv").write_text("path,lat,lon\n00.jpg,1,1\n01.jpg,3,3\n")
    encoder.seen.clear()
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert report.kept == 2 and encoder.seen == []
    assert {place.path: place.latitude for place in index.places} == {"00.jpg": 1.0, "01.jpg": 3.0}


def test_a_resumed_build_encodes_the_same_batches(photos, tmp_path):
    """Descriptors here depend on their batch, as with a cross-image encoder; another batch size is therefore refused."""
    index_photos(photos, tmp_path / "whole", BytesEncoder(), shard_size=3)

    class Interrupted(BytesEncoder):
        def encode(self, photos, progress=None, *, order=None):
            if len(self.seen) >= 6:
                raise KeyboardInterrupt
            return super().encode(photos, progress, order=order)

    with pytest.raises(KeyboardInterrupt):
        index_photos(photos, tmp_path / "index", Interrupted(), shard_size=3)
    assert paths_of(PlaceIndex.open(tmp_path / "index")) == ["00.jpg", "01.jpg", "02.jpg", "04.jpg", "05.jpg"]
    with pytest.raises(ValueError, match="of a batch, so on its size: 2 in the index, 3 in this run"):
        index_photos(photos, tmp_path / "index", BytesEncoder(batch_size=3))
    encoder = BytesEncoder()
    index_photos(photos, tmp_path / "index", encoder)
    assert encoder.seen == ["06.jpg", "07.jpg", "03.jpg"]
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")


def test_other_photos_do_not_empty_an_index(photos, tmp_path, encoder):
    """Another folder by mistake would remove everything; a folder that was moved would not."""
    index_photos(photos, tmp_path / "index", encoder)
    write_photos(tmp_path / "other", 8)
    with pytest.raises(ValueError, match=r"holds the photos of .*/photos, which is another folder than .*/other"):
        index_photos(tmp_path / "other", tmp_path / "index", encoder)
    (tmp_path / "photos").rename(tmp_path / "moved")
    index, report = index_photos(tmp_path / "moved", tmp_path / "index", encoder)
    assert report.kept == 7 and index.settings == PlaceIndex.open(tmp_path / "index").settings
    assert index.settings.photo_folder == tmp_path / "moved"
    (tmp_path / "moved").rename(tmp_path / "away")
    for path in (tmp_path / "other").iterdir():
        path.rename(path.with_stem(f"x{path.stem}"))
    with pytest.raises(ValueError, match=r"Not one of the photos that the index .* holds is among the given photos"):
        index_photos(tmp_path / "other", tmp_path / "index", encoder)
    assert len(PlaceIndex.open(tmp_path / "index")) == 7


def test_another_model_or_type_is_refused(photos, tmp_path, encoder):
    index_photos(photos, tmp_path / "index", encoder)
    another_encoder = BytesEncoder()
    another_encoder.fingerprint = "other"
    with pytest.raises(ValueError, match="built with another model"):
        index_photos(photos, tmp_path / "index", another_encoder)
    with pytest.raises(ValueError, match="holds float16, not float32"):
        index_photos(photos, tmp_path / "index", encoder, dtype="float32")
    index, _ = index_photos(photos, tmp_path / "index", another_encoder, dtype="float32", overwrite=True)
    assert (index.settings.dtype, index.settings.fingerprint) == ("float32", "other")


def test_strict_stores_nothing_of_a_portion_with_a_bad_photo(photos, tmp_path, encoder):
    with pytest.raises(ValueError, match=r"1 of 8 photos were skipped:\n  03\.jpg: not an image"):
        index_photos(photos, tmp_path / "index", encoder, strict=True, shard_size=2)
    assert paths_of(PlaceIndex.open(tmp_path / "index")) == ["00.jpg", "01.jpg"]


def test_a_photo_that_is_listed_twice_is_indexed_once(photos, tmp_path, encoder, caplog):
    """Two rows of one name could not be told apart later."""
    table = PlaceTable(photos, [Place("00.jpg", 1.0, 1.0), Place("01.jpg"), Place("00.jpg", 2.0, 2.0)], "csv")
    with caplog.at_level(logging.WARNING):
        index, report = index_photos(table, tmp_path / "index", encoder)
    assert [(place.path, place.latitude) for place in index.places] == [("00.jpg", 1.0), ("01.jpg", None)]
    assert report.skipped == {"00.jpg": "listed twice; the first is used"} and "00.jpg: listed twice" in caplog.text


def test_a_photo_whose_name_is_not_utf_8_is_skipped(photos, tmp_path, encoder):
    """Linux allows any bytes; the tables and the manifest of an index hold text."""
    (photos / os.fsdecode(b"\xff.jpg")).write_bytes(b"a photo")
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert report.skipped[r"\udcff.jpg"] == "its name is not UTF-8" and len(index) == 7


def test_progress_counts_every_photo_once(photos, tmp_path, encoder):
    for added in (0, 2):
        write_photos(photos, 8 + added, bad=(3,))
        seen = []
        index_photos(photos, tmp_path / "index", encoder, shard_size=3, progress=seen.append)
        assert sum(seen) == 8 + added


# ---- adding and removing single photos


def test_photos_can_be_added_from_any_folder_and_stay(photos, tmp_path, encoder):
    index_photos(photos, tmp_path / "index", encoder)
    elsewhere = tmp_path / "elsewhere"
    write_photos(elsewhere, 3)
    (photos / "09.jpg").write_bytes(b"nine")
    (photos / "01.jpg").write_bytes(b"changed")
    index, report = add_photos(
        tmp_path / "index", [elsewhere, photos / "09.jpg", photos / "01.jpg", photos / "02.jpg"], encoder
    )
    assert (report.added, report.changed, report.kept, report.removed) == (4, 1, 1, 0)
    outside = [f"{elsewhere}/{number:02d}.jpg" for number in range(3)]
    assert set(paths_of(index)) == {*outside, "09.jpg", *(f"{number:02d}.jpg" for number in (0, 1, 2, 4, 5, 6, 7))}
    found = index.search(descriptor_of(elsewhere / "01.jpg"), 1)[0][0]
    assert found.photo.parent in (elsewhere, photos)
    _, report = index_photos(photos, tmp_path / "index", encoder)
    assert report.removed == 0 and len(PlaceIndex.open(tmp_path / "index")) == 11
    with pytest.raises(ValueError, match="1 of 1 photos were skipped"):
        add_photos(tmp_path / "index", [photos / "03.jpg"], encoder, strict=True)


def test_photos_can_be_added_to_frames(photos, tmp_path, encoder):
    with begin(tmp_path / "index") as index:
        index.add(*frame(0))
    index, _ = add_photos(tmp_path / "index", [photos / "00.jpg"], encoder)
    assert paths_of(index) == ["/frames/0", str(photos / "00.jpg")] and index.complete


def test_photos_are_removed_by_name_or_file(photos, tmp_path, encoder, monkeypatch):
    index_photos(photos, tmp_path / "index", encoder)
    monkeypatch.chdir(photos)
    index = remove_photos(tmp_path / "index", ["00.jpg", photos / "01.jpg", "../photos/02.jpg"])
    assert paths_of(index) == ["04.jpg", "05.jpg", "06.jpg", "07.jpg"]
    with pytest.raises(ValueError, match=r"00\.jpg is not in the index"):
        remove_photos(tmp_path / "index", ["00.jpg", "04.jpg"])


# ---- command line


def test_the_commands_of_an_index_work_together(tiny_folder, tmp_path):
    """Build, update, add, remove, look at, compact and verify it; then a bit flips."""
    photos, index = tmp_path / "photos", tmp_path / "index"
    names = [at_name(1000 + 100 * number, 2000) for number in range(6)]
    for number, name in enumerate(names):
        save(photos / name, number)
    options = ("--out", index, "--batch-size", 4)

    def done(*arguments):
        status, out, err = run(*arguments)
        assert status == 0, err
        return out

    assert "Indexed 6 photos as" in done("index", photos, *options, "--model", tiny_folder)
    save(photos / names[0], 77)
    (photos / names[1]).unlink()
    assert "0 added, 1 changed, 1 removed, 4 kept." in done("index", photos, "--out", index)  # model and batch as it has them
    assert PlaceIndex.open(index).settings.batch_size == 4
    extra = save(tmp_path / "extra.jpg", 9)
    assert "1 added, 0 changed, 0 removed, 0 kept. 6 photos in" in done("add", index, extra)
    assert "Removed 2 photos; 4 remain in" in done("remove", index, extra, names[2])
    described = json.loads(done("info", index, "--json"))
    assert (described["count"], described["removed"], described["model"]) == (4, 4, str(tiny_folder))
    assert "count: 4\n" in done("info", index) and "left_out: none\n" in done("info", index)
    assert "shards in" in done("compact", index) and json.loads(done("info", index, "--json"))["removed"] == 0
    assert "is undamaged" in done("verify", index)
    assert "  1   1.0000  @1300.00" in done("search", index, photos / names[3])
    shard = next(index.glob("descriptors-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    status, _, err = run("verify", index)
    assert status == 1 and f"1 files of {index} are damaged:\n  {shard.name}: its checksum" in err
    assert "Indexed 5 photos" in done("index", photos, *options, "--model", tiny_folder, "--overwrite")
    assert "is undamaged" in done("verify", index)


def test_an_index_of_format_1_is_refused_and_built_again(photos, tmp_path, encoder):
    """An index of format 1 is refused, and the command in the message builds it again."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "manifest.json").write_text(json.dumps({"format_version": 1, "fingerprint": "x", "count": 1}))
    for name in ("descriptors.safetensors", "places.parquet"):
        (old / name).write_bytes(b"format 1")
    for act in (lambda: PlaceIndex.open(old), lambda: index_photos(photos, old, encoder)):
        with pytest.raises(ValueError, match=r"has format 1.*`d2vpr index PHOTOS --out INDEX --overwrite` builds it again"):
            act()
    index_photos(photos, old, encoder, overwrite=True)
    assert PlaceIndex.open(old).verify() == [] and not (old / "places.parquet").exists()


def test_an_index_that_cannot_be_written_to_can_be_searched(photos, tmp_path, encoder, monkeypatch):
    index_photos(photos, tmp_path / "index", encoder)
    shutil.rmtree(tmp_path / "index" / ".lock", ignore_errors=True)
    index = PlaceIndex.open(tmp_path / "index")

    def refused(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(PermissionError, match=r"The index cannot be changed here \(Permission denied\)"):
        index.remove(["00.jpg"])
    assert index.search(descriptor_of(photos / "00.jpg"), 1)[0] and read_places(photos).places


def test_photos_given_as_functions_have_the_descriptors_of_their_files(tiny_folder, tmp_path):
    """The network sees the same pixels whether a photo is given as a file or through a function, as updates do it."""
    real = PlaceEncoder(tiny_folder)
    photo = save(tmp_path / "a.jpg", 1)
    assert np.array_equal(*(real.encode([one]).descriptors for one in (photo, lambda: photo)))
    assert real.encode([lambda: tmp_path / "gone.jpg"]).skipped == {0: "no such file"}
