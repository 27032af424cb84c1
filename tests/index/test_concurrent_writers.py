"""Every operation that changes an index takes the writer's lock before it reads the rows that it decides about.

Another writer commits directly before the operation has the lock: a row that was committed must not be lost, and an operation
that read the manifest before would write it back without that row, or with files that the other writer has removed.
"""

import contextlib

import numpy as np
import pytest

from d2vpr_hf.index import PhotoFile, PlaceIndex, repair_index, verification
from d2vpr_hf.index.folders import WriterLock
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.distributed import embed_photos, merge_parts
from d2vpr_hf.retrieval.given_descriptors import index_descriptors
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos, remove_photos
from tests.command_line import run
from tests.index.workers import SHARD, BytesEncoder, begin, frame, write_photos

FRAMES = [f"/frames/{number}" for number in range(8)]


@pytest.fixture
def folder(tmp_path):
    """An index of eight frames in two shards, and a store of their bits."""
    with begin(tmp_path / "index") as index:
        for number in range(8):
            index.add(*frame(number))
        index.build_store("bits")
    return tmp_path / "index"


def commit_another_change(folder):
    """Add a row, remove one, and write all rows to new files; the old files are removed."""
    with PlaceIndex.open(folder) as intruder:
        intruder.add(*frame(99))
        intruder.remove(["/frames/1"])
        intruder.compact()


@contextlib.contextmanager
def before_the_lock(change):
    """Make a change of another writer directly before the next operation acquires the lock."""
    acquire = WriterLock.acquire
    changes = [change]

    def late(lock):
        if changes:
            changes.pop()()
        acquire(lock)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WriterLock, "acquire", late)
        yield
    assert not changes  # the operation took the lock


def add(folder):
    PlaceIndex.open(folder).add(*frame(20))


def add_and_flush(folder):
    index = PlaceIndex.open(folder)
    index.add(*frame(20))
    index.flush()


def update(folder):
    PlaceIndex.open(folder).update(*frame(3))


def upsert(folder):
    PlaceIndex.open(folder).upsert(frame(20)[0], [frame(20)[1]], [PhotoFile()], removed=["/frames/3"])


def amend(folder):
    PlaceIndex.open(folder).amend([Place("/frames/3", x=7.0, y=7.0)], [PhotoFile()])


def remove(folder):
    PlaceIndex.open(folder).remove(["/frames/3"])


def compact(folder):
    PlaceIndex.open(folder).compact()


def build_store(folder):
    PlaceIndex.open(folder).build_store("int8")


def keep_store(folder):
    PlaceIndex.open(folder).build_store()


def calibrate(folder):
    PlaceIndex.open(folder).store_calibration({"scale": 2.0})


def finish_portion(folder):
    PlaceIndex.open(folder).finish_portion()


def repair(folder):
    repair_index(folder)


def run_command(*arguments):
    status, _, errors = run(*arguments)
    if status:
        raise BlockingIOError(errors)


def repair_command(folder):
    run_command("repair", folder)


def compact_command(folder):
    run_command("compact", folder)


def add_photo_files(folder):
    write_photos(folder.parent / "more", 3)
    add_photos(folder, [folder.parent / "more"], BytesEncoder())


def remove_photo(folder):
    remove_photos(folder, ["/frames/3"])


def push(folder):
    """`push_index` uploads the files of this manifest while it holds the lock."""
    with PlaceIndex.open(folder).unchanged() as manifest:
        assert manifest.count == 8
        assert all((folder / file.name).is_file() for file in manifest.files)


OPERATIONS = [
    add,
    add_and_flush,
    update,
    upsert,
    amend,
    remove,
    compact,
    build_store,
    keep_store,
    calibrate,
    finish_portion,
    repair,
    repair_command,
    compact_command,
    add_photo_files,
    remove_photo,
    push,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_change_next_to_another_writer_loses_no_committed_row(folder, operation):
    """The other writer's rows, removals and files are all read before the operation decides."""
    with before_the_lock(lambda: commit_another_change(folder)):
        operation(folder)
    index = PlaceIndex.open(folder)
    paths = index.places.column("path")
    removed = {"remove": {"/frames/3"}, "upsert": {"/frames/3"}, "remove_photo": {"/frames/3"}}
    expected = {*FRAMES, "/frames/99"} - {"/frames/1"} - removed.get(operation.__name__, set())
    assert expected <= set(paths) and "/frames/1" not in paths and len(paths) == len(set(paths))
    assert index.verify() == []
    for row, path in enumerate(paths):
        if path.startswith("/frames/"):
            vector = frame(int(path.rsplit("/", 1)[1]))[0]
            assert np.allclose(index.descriptors[row], vector, atol=1e-3)
            assert index.search(vector, 1)[0][0].place.path == path


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_change_is_refused_while_another_writer_holds_the_lock(folder, operation):
    """Nothing is written next to another writer, and the error says that there is one."""
    with PlaceIndex.open(folder) as intruder:
        intruder.flush()
        before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(BlockingIOError, match="is being changed by another process"):
            operation(folder)
        assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_replacement_that_begins_beside_a_writer_takes_no_file_of_it(folder):
    """The number of its first files is chosen under the lock: the other writer has used the next number meanwhile."""
    with before_the_lock(lambda: add_and_flush(folder)), begin(folder, overwrite=True) as replacement:
        replacement.add(*frame(50))
        replacement.flush()
        old = PlaceIndex.open(folder)
        assert old.verify() == [] and old.places.column("path") == [*FRAMES, "/frames/20"]
    assert PlaceIndex.open(folder).places.column("path") == ["/frames/50"]


def test_an_index_that_another_process_begins_meanwhile_is_not_replaced(tmp_path):
    """Without `overwrite` the index that was made first stays."""
    with (
        before_the_lock(lambda: begin(tmp_path / "index", shard_size=3).close()),
        pytest.raises(FileExistsError, match="Another process made"),
    ):
        begin(tmp_path / "index")
    assert PlaceIndex.open(tmp_path / "index").settings.shard_size == 3


def test_photos_are_indexed_next_to_another_writer(tmp_path):
    """The update keeps rows that were added by absolute paths meanwhile, and encodes only its own photos."""
    table = write_photos(tmp_path / "photos", 9)
    index_photos(table, tmp_path / "index", BytesEncoder(), shard_size=SHARD)
    write_photos(tmp_path / "photos", 12)
    table = PlaceTable(table.folder, [Place(f"{number:02d}.jpg") for number in range(12)], "csv")

    def change():
        with PlaceIndex.open(tmp_path / "index") as intruder:
            intruder.add(*frame(99))
            intruder.compact()

    with before_the_lock(change):
        _, report = index_photos(table, tmp_path / "index", BytesEncoder())
    index = PlaceIndex.open(tmp_path / "index")
    assert set(index.places.column("path")) == {f"{number:02d}.jpg" for number in range(12)} | {"/frames/99"}
    assert (report.added, report.kept) == (3, 9) and index.verify() == []


def test_descriptors_are_indexed_next_to_another_writer(tmp_path):
    vectors = np.stack([frame(number)[0] for number in range(6)]).astype(np.float32)
    np.save(tmp_path / "rows.npy", vectors)
    for name, numbers in (("first", range(6)), ("second", range(3, 9))):
        lines = ["path,x,y", *(f"{number}.jpg,{number},0" for number in numbers)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    index_descriptors(tmp_path / "rows.npy", tmp_path / "first.csv", tmp_path / "index")

    def change():
        with PlaceIndex.open(tmp_path / "index") as intruder:
            intruder.add(*frame(99))
            intruder.remove(["4.jpg"])

    with before_the_lock(change):
        _, report = index_descriptors(tmp_path / "rows.npy", tmp_path / "second.csv", tmp_path / "index")
    index = PlaceIndex.open(tmp_path / "index")
    assert sorted(index.places.column("path")) == ["/frames/99", *(f"{number}.jpg" for number in range(9))]
    assert (report.added, report.replaced) == (4, 2) and index.verify() == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_merges_of_the_same_shards_give_one_index(tmp_path, overwrite):
    """The second one finds the rows of the first, or replaces them by the same rows."""
    table = write_photos(tmp_path / "photos", 12)
    embed_photos(table, tmp_path / "parts", BytesEncoder(), shard_size=SHARD)
    merge_parts([tmp_path / "parts"], tmp_path / "expected")
    out = tmp_path / "index"
    merge_parts([tmp_path / "parts"], out)
    with before_the_lock(lambda: merge_parts([tmp_path / "parts"], out, overwrite=overwrite)):
        merge_parts([tmp_path / "parts"], out, overwrite=overwrite)
    index, expected = PlaceIndex.open(out), PlaceIndex.open(tmp_path / "expected")
    assert index.places.column("path") == expected.places.column("path") and index.verify() == []
    assert np.array_equal(index.descriptors[:], expected.descriptors[:])


def test_a_merge_does_not_add_to_rows_that_were_written_meanwhile(tmp_path):
    table = write_photos(tmp_path / "photos", 12)
    embed_photos(table, tmp_path / "parts", BytesEncoder(), shard_size=SHARD)
    merge_parts([tmp_path / "parts"], tmp_path / "index")

    def change():
        with PlaceIndex.open(tmp_path / "index") as intruder:
            intruder.add(*frame(99))

    with before_the_lock(change), pytest.raises(FileExistsError, match="is an index of something else"):
        merge_parts([tmp_path / "parts"], tmp_path / "index")
    assert len(PlaceIndex.open(tmp_path / "index")) == 13


def test_a_shard_that_another_process_encodes_meanwhile_is_complete(tmp_path):
    """Both processes found the shard missing; the second one replaces it by the same bytes."""
    table = write_photos(tmp_path / "photos", 9)
    parts = tmp_path / "parts"
    with before_the_lock(lambda: embed_photos(table, parts, BytesEncoder(), shard_size=SHARD)):
        embed_photos(table, parts, BytesEncoder(), shard_size=SHARD)
    embed_photos(table, tmp_path / "alone", BytesEncoder(), shard_size=SHARD)
    for shard, alone in zip(sorted(parts.iterdir()), sorted((tmp_path / "alone").iterdir()), strict=True):
        opened, expected = PlaceIndex.open(shard), PlaceIndex.open(alone)
        assert opened.verify() == [] and opened.places.column("path") == expected.places.column("path")
        assert np.array_equal(opened.descriptors[:], expected.descriptors[:])


def test_damage_is_not_reported_for_files_that_a_writer_removes(folder, monkeypatch):
    """`verify` reads the files one by one, and a writer may replace them meanwhile: `repair` would follow a false alarm."""
    changes, check = [commit_another_change], verification.shard_problems

    def late(*arguments):
        if changes:
            changes.pop()(folder)
        return check(*arguments)

    monkeypatch.setattr(verification, "shard_problems", late)
    assert PlaceIndex.open(folder).verify() == [] and not changes
