"""A repair removes only damaged parts of an index, and an update encodes only their photos again."""

import errno
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.index import DamagedIndexError, PlaceIndex, place_rows, repair_index, shards, verify_index
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos
from tests.index.workers import SHARD, BytesEncoder, begin, frame, write_photos

COUNT = 17


@pytest.fixture
def built(tmp_path):
    """Build an index of four shards of photos, a shard of two photos from another folder, and a calibration."""
    table = write_photos(tmp_path / "photos", COUNT)
    index_photos(table, tmp_path / "index", BytesEncoder(), shard_size=SHARD)
    write_photos(tmp_path / "elsewhere", 2)
    index, _ = add_photos(tmp_path / "index", [tmp_path / "elsewhere"], BytesEncoder())
    index.store_calibration({"scale": 1.0})
    return tmp_path / "index", table


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".parquet")}


@pytest.mark.parametrize("kind", ["descriptors-000001.safetensors", "places-000001.parquet"])
@pytest.mark.parametrize("compression", ["none", "bits"])
def test_only_the_damaged_shard_is_encoded_again(built, kind, compression):
    folder, table = built
    PlaceIndex.open(folder).build_store(compression)
    whole, before = shards_of(folder), {place.path: place for place in PlaceIndex.open(folder).places}
    flip(folder / kind)
    done = repair_index(folder)
    names = [f"{number:02d}.jpg" for number in range(5, 10)]
    assert (done.shards, done.rows, done.calibration) == (1, 5, False)
    assert done.paths == (names if kind.startswith("descriptors") else [])
    opened = PlaceIndex.open(folder)
    assert opened.verify() == [] and not opened.complete and len(opened) == COUNT + 2 - 5
    encoder = BytesEncoder()
    index, report = index_photos(table, folder, encoder)
    assert sorted(encoder.seen) == names and (report.added, report.kept) == (5, 12)
    assert {place.path: place for place in index.places} == before and index.verify() == [] and index.complete
    assert sum(shards_of(folder).get(name) == content for name, content in whole.items()) >= 2 * 3
    assert repair_index(folder).shards == 0


def test_the_repair_command_names_the_next_steps(built, tmp_path):
    """Photos from other folders are named, because no update of the photo folder adds them again; so is the calibration."""
    folder, _ = built
    last = sorted(folder.glob("descriptors-*"))[-1]
    last.unlink()
    flip(next(folder.glob("calibration-*")))
    with pytest.raises(DamagedIndexError, match=r"missing.*`d2vpr repair INDEX` removes the damaged parts"):
        PlaceIndex.open(folder)
    printed = CliRunner().invoke(app, ["repair", str(folder)]).stdout
    assert "Dropped 1 damaged shards with" in printed and "`d2vpr index PHOTOS --out INDEX`" in printed
    assert f"  {tmp_path / 'elsewhere' / '01.jpg'}\n" in printed and "`d2vpr calibrate` makes a new one" in printed
    assert PlaceIndex.open(folder).verify() == [] and PlaceIndex.open(folder).calibration is None


def test_the_error_of_a_damaged_calibration_names_the_command(built):
    folder, _ = built
    flip(next(folder.glob("calibration-*")))
    index = PlaceIndex.open(folder)
    with pytest.raises(DamagedIndexError, match="`d2vpr calibrate INDEX --queries DIR` makes it again"):
        _ = index.calibration
    assert "`d2vpr calibrate` makes it again" in index.verify()[0]
    index.store_calibration({"scale": 2.0})
    assert index.verify() == [] and PlaceIndex.open(folder).calibration == {"scale": 2.0}


def test_an_index_with_a_damaged_manifest_or_a_writer_is_not_repaired(built, tmp_path):
    """A damaged manifest lists no files to repair, and another process may be changing the index."""
    folder, _ = built
    copy = shutil.copytree(folder, tmp_path / "copy")
    flip(copy / "manifest.json")
    with pytest.raises(DamagedIndexError, match="--overwrite"):
        repair_index(copy)
    with PlaceIndex.open(folder), pytest.raises(BlockingIOError, match="changed by another process"):
        repair_index(folder)
    with pytest.raises(FileNotFoundError, match="is not an index"):
        repair_index(tmp_path)


def raising(error):
    def read(*arguments, **keywords):
        raise error

    return read


@pytest.mark.parametrize("part", ["checksums", "sizes", "tables"])
def test_a_file_that_cannot_be_read_at_this_moment_is_not_removed(tmp_path, monkeypatch, part):
    """With a bad cable, too many open files or too little memory, a repair would throw undamaged rows away."""
    with begin(tmp_path / "index") as index:
        index.add(*frame(0))
    folder, before = index.folder, (index.folder / "manifest.json").read_bytes()
    with monkeypatch.context() as patched:
        if part == "checksums":
            patched.setattr(shards, "file_checksum", raising(OSError(errno.EIO, "Input/output error")))
        elif part == "sizes":
            stat = Path.stat
            failing = raising(PermissionError(errno.EACCES, "Permission denied"))
            patched.setattr(Path, "stat", lambda path, **options: (failing if "desc" in path.name else stat)(path, **options))
        else:
            patched.setattr(place_rows.pq, "read_metadata", raising(pa.lib.ArrowMemoryError("malloc failed")))
        for change in (repair_index, verify_index):
            with pytest.raises(MemoryError if part == "tables" else OSError, match=r"error|denied|malloc"):
                change(folder)
    assert (folder / "manifest.json").read_bytes() == before and verify_index(folder) == []


def test_a_manifest_that_cannot_be_read_at_this_moment_is_not_damaged(tmp_path, monkeypatch):
    """The advice to build the index again would cost hours of encoding."""
    folder = begin(tmp_path / "index").folder
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", raising(OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(OSError, match="Too many open files"):
            PlaceIndex.open(folder)
    assert len(PlaceIndex.open(folder)) == 0
