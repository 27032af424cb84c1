"""Indexes under load: many additions and searches, few open files, small files, full disks, and clocks that jump."""

import contextlib
import errno
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from d2vpr_hf.index import PlaceIndex, repair_index
from d2vpr_hf.places import Place
from d2vpr_hf.retrieval import updates
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.stores.exact import exact_search
from tests.forked import CONTEXT
from tests.index.test_crashes import Disk, stepping
from tests.index.workers import SHARD, BytesEncoder, begin, build, contents, frame, prepare_photos, write_photos


def run_in_process(target, *arguments):
    """Run a function in another process, whose limits do not hold here; its assertions must hold."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def anonymous_bytes():
    """Return the memory of this process without that of files: the system keeps or drops mapped files of an index."""
    with open("/proc/self/smaps_rollup") as file:  # noqa: PTH123
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("Anonymous:"))


def add_frames(folder, count):
    with PlaceIndex.open(folder) as index:
        for number in range(count):
            index.add(*frame(number))


def check_rows(index, count, step=1):
    assert len(index) == count and index.verify() == []
    for number in range(0, count, step):
        assert index.search(frame(number)[0], 1)[0][0].place.path == f"/frames/{number}"


def with_64_files(folder):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    add_frames(folder, 40 * SHARD)
    index = PlaceIndex.open(folder)
    assert index.info()["shards"] == 40
    check_rows(index, 40 * SHARD, step=37)
    for compression in ("half", "int8", "bits"):
        index.build_store(compression)
        check_rows(PlaceIndex.open(folder), 40 * SHARD, step=97)
    index.remove([f"/frames/{number}" for number in range(0, 40 * SHARD, 2)])
    index.compact()
    assert len(PlaceIndex.open(folder)) == 20 * SHARD and index.verify() == []


def test_an_index_of_more_shards_than_open_files_is_built_and_searched(tmp_path):
    """`ulimit -n 64`: files are mapped and closed, in writers and readers."""
    begin(tmp_path / "index", dtype="float32").close()
    run_in_process(with_64_files, tmp_path / "index")


def with_small_files(folder):
    index = PlaceIndex.open(folder)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for kind in ("half", "int8", "bits"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(OSError, match=r"File too large") as caught:
            index.build_store(kind)
        assert caught.value.errno == errno.EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    with contextlib.suppress(OSError):
        while True:
            index.add(*frame(len(index)))
            index.flush()
    count = len(index)
    check_rows(PlaceIndex.open(folder), count - len(index._state.pending), step=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    index.close()
    check_rows(PlaceIndex.open(folder), count, step=3)


def test_a_limit_of_file_sizes_damages_nothing(tmp_path):
    """RLIMIT_FSIZE: a write stops in the middle of a file, and the rows stay pending until there is room."""
    begin(tmp_path / "index", dtype="float32", shard_size=1000).close()
    add_frames(tmp_path / "index", 7)
    run_in_process(with_small_files, tmp_path / "index")


def damage(folder):
    file = folder / "descriptors-000000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


CHANGES = {
    "add": lambda folder: add_frames_from(folder, 20),
    "remove": lambda folder: PlaceIndex.open(folder).remove(["/frames/1", "/frames/6"]),
    "compact": lambda folder: PlaceIndex.open(folder).compact(),
    "calibrate": lambda folder: PlaceIndex.open(folder).store_calibration({"scale": 2.0}),
    "build a store": lambda folder: PlaceIndex.open(folder).build_store("int8"),
    "repair": repair_index,
}


def add_frames_from(folder, first):
    with PlaceIndex.open(folder) as index:
        for number in range(first, first + 3):
            index.add(*frame(number))


@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_at_any_operation_of_a_change_loses_no_committed_row(tmp_path, change):
    """At each opening, write, sync and renaming; afterwards the same change is made in full."""
    with begin(tmp_path / "begun", dtype="float32") as index:
        for number in range(8):
            index.add(*frame(number))
        index.build_store("bits")
        index.remove(["/frames/2"])
    committed = set(PlaceIndex.open(tmp_path / "begun").places.column("path"))
    first_shard = {f"/frames/{number}" for number in range(SHARD)}
    removed = {"remove": {"/frames/1", "/frames/6"}, "repair": first_shard}.get(change, set())
    if change == "repair":
        damage(tmp_path / "begun")
    for limit in range(100):
        folder = shutil.copytree(tmp_path / "begun", tmp_path / "index")
        disk = Disk(limit, OSError(errno.ENOSPC, "No space left on device"))
        with stepping(disk):
            CHANGES[change](folder)
        if change != "repair":
            paths = set(PlaceIndex.open(folder).places.column("path"))
            assert committed - removed <= paths, limit
            assert PlaceIndex.open(folder).verify() == []
        with contextlib.suppress(ValueError):  # the rows were added or removed before the error
            CHANGES[change](folder)
        index = PlaceIndex.open(folder)
        paths = index.places.column("path")
        assert set(paths) - {f"/frames/{number}" for number in range(20, 23)} == committed - removed
        assert index.verify() == [] and len(set(paths)) == len(paths) and not list(folder.glob("*.tmp"))
        for number in (3, 7) if change != "repair" else (7,):
            assert index.search(frame(number)[0], 1)[0][0].place.path == f"/frames/{number}"
        shutil.rmtree(folder)
        if disk.count <= limit:
            return
    pytest.fail("the change has too many operations")


def test_a_clock_that_jumps_changes_no_index(tmp_path, monkeypatch):
    """Batches are stored at other moments, and the finished index has the same bytes."""
    photos = prepare_photos(tmp_path / "photos")
    build(tmp_path / "expected", photos)
    chance = np.random.default_rng(0)
    monkeypatch.setattr(updates, "monotonic", lambda: float(chance.choice([0.0, 1e9, -1e9, 50.0, 70.0])))
    build(tmp_path / "index", photos)
    assert contents(tmp_path / "index") == contents(tmp_path / "expected")


def test_frames_of_a_clock_that_jumped_are_excluded_by_their_times(tmp_path):
    """A robot's clock was set back and forward: what is excluded follows from the times alone, whatever their order."""
    times = [100.0, 105.0, 4e9, 90.0, 95.0, 0.0, 110.0]
    with begin(tmp_path / "index") as index:
        for number, seconds in enumerate(times):
            vector, place = frame(number)
            index.add(vector, Place(place.path, x=0.0, y=0.0, timestamp=str(seconds)))
        for now in (112.0, 96.0, 4e9 + 100, 5.0):
            matches = index.search(frame(0)[0], 99, exclude_last_seconds=10, query_time=now)[0]
            assert {match.row for match in matches} == {row for row, seconds in enumerate(times) if seconds <= now - 10}


def test_photos_of_a_clock_that_jumped_are_not_encoded_again(tmp_path):
    """The times of files are in the future and before 1970; their contents did not change."""
    table = write_photos(tmp_path / "photos", 6)
    index_photos(table, tmp_path / "index", BytesEncoder(), shard_size=SHARD)
    for number, seconds in enumerate([0, -(10**9), 10**10, 1, 2**31, 2**32]):
        os.utime(tmp_path / "photos" / f"{number:02d}.jpg", (seconds, seconds))
    encoder = BytesEncoder()
    index, report = index_photos(table, tmp_path / "index", encoder)
    assert encoder.seen == [] and report.kept == 6 and index.verify() == []


# ---- slow


def add_ten_thousand(folder):
    memory = []
    with PlaceIndex.open(folder) as index:
        for number in range(10_000):
            vector, place = frame(number)
            index.add(vector, place)
            if number % 10 == 9:
                index.flush()
            if number % 100 == 0:
                assert index.search(vector, 1)[0][0].place.path == place.path
            if number % 1000 == 999:
                memory.append(anonymous_bytes())
    assert max(memory[2:]) < 1.05 * memory[2], memory
    check_rows(PlaceIndex.open(folder), 10_000, step=97)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "bits"])
def test_memory_stays_flat_over_ten_thousand_additions(tmp_path, compression):
    """Frame by frame, stored every ten frames: neither shards, manifests nor searches keep what they no longer need."""
    with begin(tmp_path / "index", shard_size=1000) as index:
        index.build_store(compression)
    run_in_process(add_ten_thousand, tmp_path / "index")


def search_in_threads(folder, expected, count):
    index = PlaceIndex.open(folder)
    queries = np.stack([frame(number)[0] for number in range(500)])

    def search(number):
        row = number % 500
        matches = index.search(queries[row], 3, allowed=None if number % 4 else np.ones(len(index), bool))[0]
        assert [match.row for match in matches] == expected[row]

    memory = []
    with ThreadPoolExecutor(16) as threads:
        for start in range(0, count, count // 10):
            list(threads.map(search, range(start, start + count // 10)))
            memory.append(anonymous_bytes())
    assert max(memory[2:]) < 1.05 * memory[2], memory


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "int8", "bits"])
def test_20000_searches_by_16_threads_in_4_processes_are_right(tmp_path, compression):
    """All at once, and each finds the rows of exact search; memory stays flat."""
    with begin(tmp_path / "index", dtype="float32", shard_size=1000) as index:
        for number in range(2000):
            index.add(*frame(number))
        index.build_store(compression)
    queries = np.stack([frame(number)[0] for number in range(500)])
    expected = exact_search(queries, index.descriptors, 3)[1].tolist()
    arguments = (tmp_path / "index", expected, 5000)
    processes = [CONTEXT.Process(target=search_in_threads, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
