"""Simulate a loss of power, which keeps only data that were forced to the disk, or an error at every operation on the disk."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from d2vpr_hf.index import PlaceIndex, derived_store
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.stores.exact import exact_search
from d2vpr_hf.utils import atomic_files
from tests.index.workers import JOBS, begin, build, contents, frame, prepare_photos


class Crash(BaseException):
    """The machine is off."""


class Disk:
    """Stands for `os` in the module that stores files.

    Args:
        limit: Number of operations that succeed.
        error: Error of the next operation. After a crash all later operations raise it too; after an OSError they succeed.
    """

    def __init__(self, limit: int | None = None, error: type[BaseException] | OSError = Crash) -> None:
        self.limit, self.error = limit, error
        self.count = 0
        self._names: dict[int, Path] = {}
        self._unforced: set[Path] = set()  # files with content that may not be on the disk yet
        self._forced: set[Path] = set()
        self._moved: list[tuple[Path, Path]] = []  # folders whose renaming may be lost
        self._undone: list[dict[Path, bytes | None]] = []  # names whose change may be lost, with their old content

    def __getattr__(self, name):
        return getattr(os, name)

    def step(self):
        self.count += 1
        if self.limit is not None and self.count > self.limit:
            if isinstance(self.error, OSError):
                self.limit = None
            raise self.error

    def open(self, path, flags, mode=0o777):
        if flags & os.O_CREAT:
            self.step()
            self._unforced.add(Path(path))
        descriptor = os.open(path, flags, mode)
        self._names[descriptor] = Path(path)
        return descriptor

    def write(self, descriptor, data):
        try:
            self.step()
        except Crash:
            os.write(descriptor, data[: len(data) // 2])
            raise
        return os.write(descriptor, data[:2048])  # the system may write less than it is given

    def fsync(self, descriptor):
        self.step()
        path = self._names[descriptor]
        self._unforced.discard(path)
        self._forced.add(path)
        self._moved = [names for names in self._moved if names[0].parent != path]
        self._undone = [names for names in self._undone if all(name.parent != path for name in names)]

    def replace(self, old, new):
        self.step()
        if Path(old).is_dir():
            self._unforced.update(Path(new) / path.name for path in Path(old).iterdir() if path not in self._forced)
            self._moved.append((Path(old), Path(new)))
            os.replace(old, new)  # noqa: PTH105
            return
        before = Path(new).read_bytes() if Path(new).exists() else None
        self._undone.append({Path(new): before, Path(old): Path(old).read_bytes()})
        if Path(old) in self._unforced:
            self._unforced.add(Path(new))
        os.replace(old, new)  # noqa: PTH105

    def unlink(self, path):
        self.step()
        self._undone.append({Path(path): Path(path).read_bytes()})
        os.unlink(path)  # noqa: PTH108

    def lose(self, kept: int) -> None:
        """Lose the data that were not forced to the disk: cut contents, and undo all changes of names but the last `kept`."""
        for path in self._unforced:
            if path.exists():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for old, new in self._moved[: len(self._moved) - kept]:
            new.rename(old)
        for names in reversed(self._undone[: len(self._undone) - kept]):
            for path, content in names.items():
                path.unlink(missing_ok=True)
                if content is not None:
                    path.write_bytes(content)


class NextRuns:
    """Checks of a job's next run after a crash or an error. The run follows from the files, so equal files are checked once.

    Args:
        run: Function that runs the job in a folder.
        expected: Files that an undisturbed run leaves.
    """

    def __init__(self, run: Callable[[Path], None], expected: dict[str, bytes]) -> None:
        self.run, self.expected = run, expected
        self._completed: set[frozenset[tuple[str, bytes | None]]] = set()  # contents of folders from which a run was complete

    def check(self, out: Path) -> None:
        """Check that an index in a folder is valid, and that the next run completes it."""
        state = frozenset(
            (str(path.relative_to(out)), path.read_bytes() if path.is_file() else None) for path in out.rglob("*")
        )
        if state not in self._completed:
            if (out / "manifest.json").exists():
                assert PlaceIndex.open(out).verify() == []
            self.run(out)
            assert contents(out) == self.expected
            self._completed.add(state)

    def check_losses(self, out: Path, disk: Disk) -> None:
        """Check the next run after a crash, without the last change of a name that was not forced to the disk, and with it."""
        crashed = shutil.copytree(out, out.with_name("crashed")) if out.exists() else None
        for kept in (0, 1):
            disk.lose(kept)
            self.check(out)
            shutil.rmtree(out, ignore_errors=True)
            if crashed:
                shutil.copytree(crashed, out)
        if crashed:
            shutil.rmtree(crashed)


@pytest.fixture
def started(tmp_path):
    """Return a function that prepares the folder in which a job begins, and a function that runs the job there."""
    photos = prepare_photos(tmp_path / "photos")
    build(tmp_path / "built", photos)

    def start(job):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        if job in ("update", "replace"):
            shutil.copytree(tmp_path / "built", out)
        return out

    return start, lambda job, out: JOBS[job](out, photos)


def undisturbed(started, monkeypatch, job):
    """Run a job without a crash; return the files that it leaves, and the number of its operations."""
    start, run = started
    out, disk = start(job), Disk()
    monkeypatch.setattr(atomic_files, "os", disk)
    run(job, out)
    assert disk.count > 40
    return contents(out), disk.count


@pytest.mark.parametrize("job", JOBS)
def test_a_crash_at_any_operation_leaves_an_index_that_the_next_run_completes(started, monkeypatch, job):
    """Rows without their manifest, a manifest without its rows, or an incomplete file would be found here."""
    start, run = started
    expected, operations = undisturbed(started, monkeypatch, job)
    next_runs = NextRuns(lambda out: run(job, out), expected)
    for limit in range(operations):
        out, disk = start(job), Disk(limit)
        monkeypatch.setattr(atomic_files, "os", disk)
        with pytest.raises(Crash):
            run(job, out)
        monkeypatch.setattr(atomic_files, "os", os)
        next_runs.check_losses(out, disk)


@pytest.mark.parametrize("job", JOBS)
def test_an_error_at_any_operation_leaves_an_index_that_the_next_run_completes(started, monkeypatch, job):
    """A full or read-only disk: the last stored state stays, no incomplete file is left, and the next run completes the job."""
    start, run = started
    expected, operations = undisturbed(started, monkeypatch, job)
    next_runs = NextRuns(lambda out: run(job, out), expected)
    for limit in range(0, operations, 2):
        out, number = start(job), (errno.ENOSPC, errno.EROFS)[limit // 2 % 2]
        monkeypatch.setattr(atomic_files, "os", Disk(limit, OSError(number, os.strerror(number))))
        try:
            run(job, out)  # errors while old files are removed are not raised
        except OSError as error:
            assert error.errno == number and "everything that was stored before is undamaged" in str(error)
            assert ("The disk is full. Free some space" in str(error)) == (number == errno.ENOSPC)
            assert not list(out.glob("*.tmp"))
        next_runs.check(out)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_crash_leaves_the_old_or_the_new_calibration(tmp_path, monkeypatch, kept):
    """The old or the new calibration is complete, and never the manifest of one with the file of the other."""
    begin(tmp_path / "begun").store_calibration({"scale": 1.0})
    seen = []
    for limit in range(40):
        out = shutil.copytree(tmp_path / "begun", tmp_path / str(limit))
        disk = Disk(limit)
        monkeypatch.setattr(atomic_files, "os", disk)
        with contextlib.suppress(Crash):
            PlaceIndex.open(out).store_calibration({"scale": 2.0})
        disk.lose(kept)
        monkeypatch.setattr(atomic_files, "os", os)
        opened = PlaceIndex.open(out)
        assert opened.verify() == []
        seen.append(opened.calibration["scale"])
        if disk.count <= limit:
            break
    assert seen == sorted(seen) and set(seen) == {1.0, 2.0} and len(seen) < 40


@contextlib.contextmanager
def stepping(disk):
    """Make a disk stand for `os`, and count what stores write by other means among its operations."""
    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(Crash, OSError):
        patched.setattr(atomic_files, "os", disk)
        for owner, name in ((np, "save"), (faiss, "write_index"), (Path, "write_text"), (Path, "replace"), (shutil, "rmtree")):
            patched.setattr(owner, name, step_before(disk, getattr(owner, name)))
        yield


def step_before(disk, write):
    def stepped(*arguments, **options):
        disk.step()
        return write(*arguments, **options)

    return stepped


@pytest.mark.parametrize("error", [Crash, OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("kind", ["half", "int8", "bits"])
def test_an_unfinished_store_is_not_searched_and_is_built_again(tmp_path, kind, error):
    """For a first store and one that replaces another: searches are correct at once, and the next build is complete."""
    index = begin(tmp_path / "begun", dtype="float32")
    for number in range(7):
        index.add(*frame(number))
    index.flush()
    shutil.copytree(tmp_path / "begun", tmp_path / "without")
    index.build_store(kind)
    index.remove(["/frames/2"])
    for name in ("without", "begun"):
        for limit in range(60):
            out, disk = shutil.copytree(tmp_path / name, tmp_path / f"{name}{limit}"), Disk(limit, error)
            with stepping(disk):
                build_store(out, kind)
            if error is Crash:
                disk.lose(0)
            opened = PlaceIndex.open(out)
            rows = exact_search(frame(4)[0][None], opened.descriptors, 3)[1]
            assert [match.row for match in opened.search(frame(4)[0], 3)[0]] == rows[0].tolist() and opened.verify() == []
            build_store(out, kind)
            assert PlaceIndex.open(out).store_is_fresh and PlaceIndex.open(out).info()["store_lag"] == 0
            assert [path.suffix for path in out.glob("derived-*")] == [f".{kind}"]
            if disk.count <= limit:
                break
        assert 8 < limit < 59


def build_store(folder, kind):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(derived_store, "LAG_ROWS", 0)
        with PlaceIndex.open(folder) as index:  # a writer removes files that are no longer needed, also without other changes
            index.build_store(kind)


def test_rows_stay_pending_until_the_disk_has_space(tmp_path, monkeypatch):
    """The same object continues: rows of a failed flush are neither lost nor stored twice, wherever the flush failed."""
    for limit in range(40):
        out = tmp_path / str(limit)
        with begin(out) as index:
            for number in range(3):
                index.add(*frame(number))
            disk = Disk(limit, OSError(errno.ENOSPC, "No space left on device"))
            monkeypatch.setattr(atomic_files, "os", disk)
            try:
                index.flush()
            except OSError:
                index.add(*frame(3))
                assert [match.place.path for match in index.search(frame(3)[0], 1)[0]] == ["/frames/3"]
            monkeypatch.setattr(atomic_files, "os", os)
        stored = PlaceIndex.open(out)
        count = len(stored)
        assert [place.path for place in stored.places] == [f"/frames/{number}" for number in range(count)]
        assert stored.verify() == [] and not list(out.glob("*.tmp"))
        if disk.limit is not None:
            assert count == 3
            return
        assert count == 4 or disk.count > limit
    pytest.fail("every flush failed")


def test_an_interrupt_after_a_commit_does_not_store_rows_twice(tmp_path, monkeypatch):
    """After Ctrl-C directly behind the storing of the manifest, the rows must not be stored again under another number."""
    with begin(tmp_path / "index") as index:
        index.add(*frame(0))
        adopt = IndexFolder.adopt

        def interrupted(self, manifest):
            monkeypatch.setattr(IndexFolder, "adopt", adopt)
            raise KeyboardInterrupt

        monkeypatch.setattr(IndexFolder, "adopt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.flush()
        index.add(*frame(1))
    assert [place.path for place in PlaceIndex.open(tmp_path / "index").places] == ["/frames/0", "/frames/1"]
