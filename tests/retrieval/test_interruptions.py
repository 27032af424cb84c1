"""Runs that are interrupted at any batch: what is encoded is stored, and the same command ends with the bytes of one run."""

import importlib
import itertools
import logging
import os
import shutil
import signal

import numpy as np
import pytest

from d2vpr_hf import add_photos
from d2vpr_hf.backends.torch_backend import TorchBackend
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex, UnfinishedPortion
from d2vpr_hf.index.manifest import REPLACEMENT, read_manifest
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval import updates
from d2vpr_hf.retrieval.distributed import embed_photos, merge_parts
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.utils import atomic_files
from tests.command_line import run
from tests.index.test_crashes import Crash, Disk, NextRuns
from tests.index.workers import JOBS, SHARD, BytesEncoder, build, contents, frame, prepare_photos, table_of, write_photos
from tests.photos import at_name, save, save_row
from tests.warm_python import warm_package


class Killed(BaseException):
    """Stands for a kill: nothing can be stored after it."""


class StoppingEncoder(BytesEncoder):
    """Raise an error at the batch of a number, before it is encoded; like [`PlaceEncoder`], it gives batches as they finish."""

    def __init__(self, stop_at=None, error=KeyboardInterrupt):
        super().__init__()
        self.stop_at, self.error = stop_at, error
        self.count = 0
        self.finished = []  # names of the photos in finished batches

    def encode(self, photos, progress=None, *, on_batch, order=None):
        count = itertools.count()
        numbered = ((next(count), photo) for photo in photos)
        while batch := list(itertools.islice(numbered, self.batch_size)):
            if self.count == self.stop_at:
                raise self.error
            self.count += 1
            before = len(self.seen)
            encoded = super().encode([photo for _, photo in batch], progress)
            self.finished += self.seen[before:]
            rows = np.array([batch[row][0] for row in encoded.rows], np.int64)
            on_batch(type(encoded)(encoded.descriptors, rows, {batch[row][0]: why for row, why in encoded.skipped.items()}))


class OneByOne(BytesEncoder):
    """The same for an encoder that knows nothing of `on_batch`."""

    def __init__(self, stop_at=None, error=KeyboardInterrupt):
        super().__init__()
        self.stop_at, self.error = stop_at, error
        self.count = 0
        self.finished = []  # names of the photos in finished batches

    def encode(self, photos, progress=None, *, order=None):
        before = len(self.seen)
        encoded = super().encode(photos, progress)
        if self.count == self.stop_at:
            raise self.error
        self.count += 1
        self.finished += self.seen[before:]
        return encoded


def clock(seconds):
    """Return a clock that moves on with each look at it."""
    ticks = itertools.count(0, seconds)
    return lambda: next(ticks)


@pytest.fixture
def every_batch(monkeypatch):
    """Let a minute pass with each look at the clock."""
    monkeypatch.setattr(updates, "monotonic", clock(60))


def run_job(monkeypatch, job, out, photos, encoder):
    """Run a job of `tests/index/workers.py` with another encoder."""
    monkeypatch.setattr("tests.index.workers.BytesEncoder", lambda: encoder)
    JOBS[job](out, photos)


@pytest.mark.parametrize("kind", [StoppingEncoder, OneByOne])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Killed])
@pytest.mark.parametrize("job", ["build", "update", "replace"])
def test_a_run_that_is_stopped_at_any_batch_keeps_all_batches_before_it(tmp_path, monkeypatch, job, error, kind, every_batch):
    """Lost batches, rows stored twice, and other batches or portions after the stop would be found here.

    After an interrupt the finished batches are stored without help of the clock.
    """
    photos = prepare_photos(tmp_path / "photos")
    build(tmp_path / "begin", photos)
    if error is not Killed:
        monkeypatch.setattr(updates, "monotonic", lambda: 0.0)

    def start(name):
        return tmp_path / name if job == "build" else shutil.copytree(tmp_path / "begin", tmp_path / name)

    undisturbed = kind()
    run_job(monkeypatch, job, start("whole"), photos, undisturbed)
    assert undisturbed.count >= 3
    for stop_at in range(undisturbed.count):
        out, encoder = start(f"stopped-{stop_at}"), kind(stop_at, error)
        with pytest.raises(error):
            run_job(monkeypatch, job, out, photos, encoder)
        rest = kind()
        run_job(monkeypatch, job, out, photos, rest)
        assert contents(out) == contents(tmp_path / "whole"), stop_at
        if job != "update":  # which tries skipped photos again at its end
            read_again = set(encoder.finished) & set(rest.seen)
            assert not [name for name in read_again if not (photos / name).read_bytes().startswith(b"bad")], stop_at


def test_a_run_that_is_stopped_again_and_again_goes_on(tmp_path, photos_of_17):
    """Each run encodes one batch only; interim shards follow each other in one portion."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    build(whole, photos_of_17)
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt):
            index_photos(table_of(photos_of_17), out, StoppingEncoder(1), shard_size=SHARD)
        assert PlaceIndex.open(out).verify() == []
    index_photos(table_of(photos_of_17), out, BytesEncoder(), shard_size=SHARD)
    assert contents(out) == contents(whole)


@pytest.fixture
def photos_of_17(tmp_path):
    return prepare_photos(tmp_path / "photos")


@pytest.mark.parametrize("job", ["build", "update"])
def test_a_crash_at_any_operation_on_interim_shards_is_survived(tmp_path, monkeypatch, job, every_batch, photos_of_17):
    """Power is lost while interim rows are stored, replaced and removed."""
    build(tmp_path / "begin", photos_of_17)

    def start(name):
        return tmp_path / name if job == "build" else shutil.copytree(tmp_path / "begin", tmp_path / name)

    disk = Disk()
    with monkeypatch.context() as patched:
        patched.setattr(atomic_files, "os", disk)
        JOBS[job](start("whole"), photos_of_17)
    next_runs = NextRuns(lambda out: JOBS[job](out, photos_of_17), contents(tmp_path / "whole"))
    for limit in range(0, disk.count, 3):
        out, crashing = start(f"crash-{limit}"), Disk(limit)
        with monkeypatch.context() as patched, pytest.raises(Crash):
            patched.setattr(atomic_files, "os", crashing)
            JOBS[job](out, photos_of_17)
        next_runs.check_losses(out, crashing)


def test_rows_are_stored_each_minute_and_not_more_often(tmp_path, photos_of_17, monkeypatch):
    """A small board needs an hour for a shard; a fast machine must not write after each batch."""
    stored, upsert = [], PlaceIndex.upsert
    monkeypatch.setattr(
        PlaceIndex, "upsert", lambda self, *rows, **state: (stored.append(len(rows[1])), upsert(self, *rows, **state))
    )
    for seconds, expected in ((1, [13]), (25, [4, 5, 4]), (61, [1, 2, 1, 2, 1, 2, 2, 2])):
        monkeypatch.setattr(updates, "monotonic", clock(seconds))
        stored.clear()
        index_photos(table_of(photos_of_17), tmp_path / str(seconds), BytesEncoder(), shard_size=100)
        assert [count for count in stored if count] == expected, seconds
    assert contents(tmp_path / "1") == contents(tmp_path / "25") == contents(tmp_path / "61")


def test_stored_rows_can_be_searched_and_the_message_counts_them(tmp_path, photos_of_17, caplog):
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), out, StoppingEncoder(3), shard_size=100)
    assert caplog.messages[-1] == f"Stopped: 4 of 17 photos are stored in {out}. The same command encodes the others."
    index = PlaceIndex.open(out)
    assert not index.complete and index.unfinished == UnfinishedPortion(6) and len(index) == index.num_interim == 4
    assert "is not complete" in caplog.text
    encoder = BytesEncoder()
    query = encoder.encode([photos_of_17 / "00.jpg", photos_of_17 / "01.jpg"]).descriptors[0]
    assert index.search(query, 1)[0][0].place.path == "00.jpg"


def test_the_message_before_the_first_photo_and_of_a_stream(tmp_path, photos_of_17, caplog):
    class Stream:
        count = paths = None
        base_folder, skipped = photos_of_17, {}
        remarks = ()

        def items(self):
            return table_of(photos_of_17).items()

        def rebase(self, folder):
            return self

    with caplog.at_level(logging.WARNING):
        for stop_at in (0, 2):
            with pytest.raises(KeyboardInterrupt):
                index_photos(Stream(), tmp_path / f"{stop_at}", StoppingEncoder(stop_at), shard_size=4)
    first, second = [line for line in caplog.messages if line.startswith("Stopped")]
    assert first == f"Stopped: no photo is stored in {tmp_path / '0'} yet. The same command begins again."
    assert second.startswith(f"Stopped: 3 photos are stored in {tmp_path / '2'}. The same command keeps them")
    index_photos(Stream(), tmp_path / "2", BytesEncoder(), shard_size=4)
    index_photos(Stream(), tmp_path / "whole", BytesEncoder(), shard_size=4)
    assert contents(tmp_path / "2") == contents(tmp_path / "whole")


def test_the_message_names_the_command_that_goes_on_without_overwriting(tmp_path, photos_of_17, caplog):
    """`--overwrite` begins again if there is no old index, so that the same command would not go on."""
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), out, StoppingEncoder(2), overwrite=True)
    assert "The same command without `overwrite=True` encodes the others." in caplog.text
    index_photos(table_of(photos_of_17), out, BytesEncoder())
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), out, StoppingEncoder(2), overwrite=True)
    assert f"stored in the index that will replace {out}. The same command encodes the others." in caplog.text
    assert len(PlaceIndex.open(out)) == 13 and read_manifest(out, REPLACEMENT).unfinished == UnfinishedPortion(4)


def test_an_interrupted_strict_run_stores_no_portion_with_a_skipped_photo(tmp_path, photos_of_17):
    with pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), tmp_path / "out", StoppingEncoder(2), strict=True)
    assert not (tmp_path / "out").exists()


def test_a_photo_that_changed_after_the_interrupt_is_encoded_again(tmp_path, photos_of_17):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), out, StoppingEncoder(3), shard_size=100)
    (photos_of_17 / "02.jpg").write_bytes(b"another photo")
    (photos_of_17 / "03.jpg").unlink()
    few = PlaceTable(photos_of_17, [place for place in table_of(photos_of_17).places if place.path != "03.jpg"], "csv")
    index, report = index_photos(few, out, BytesEncoder())
    paths = index.places.column("path")
    assert sorted(paths) == [f"{number:02d}.jpg" for number in range(17) if number not in (1, 3, 4, 9, 16)]
    assert len(set(paths)) == len(paths) == 12 and (report.changed, report.removed, report.kept) == (1, 1, 2)
    contents(out)


@pytest.mark.parametrize("change", ["add", "remove", "compact", "amend", "update", "calibrate"])
def test_other_changes_of_an_interrupted_build_keep_its_rows(tmp_path, photos_of_17, change):
    """Changes from Python in between must neither lose nor double interim rows, nor use the name of a file twice."""
    out, encoder = tmp_path / "out", StoppingEncoder(5)
    with pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), out, encoder, shard_size=7)
    index = PlaceIndex.open(out)
    before = dict(zip(index.places.column("path"), index.descriptors[:], strict=True))
    assert index.num_interim and index.num_interim < len(before)
    if change == "add":
        for number in range(9):
            index.add(*frame(number))
        index.close()
    elif change == "remove":
        index.remove(["06.jpg", "07.jpg"])
    elif change == "compact":
        index.compact()
    elif change == "amend":
        index.amend([Place("07.jpg", 3.0, 3.0)], [updates.PhotoFile()])
    elif change == "update":
        index.update(index.descriptors[:1], [Place("07.jpg")])
    else:
        index.store_calibration({"scale": 1.0})
    assert PlaceIndex.open(out).verify() == []
    with pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), out, StoppingEncoder(1))
    index, _ = index_photos(table_of(photos_of_17), out, BytesEncoder())
    paths = index.places.column("path")
    photos = {path for path in paths if not path.startswith("/frames")}
    assert len(set(paths)) == len(paths) == len(photos) + 9 * (change == "add")
    assert photos == {f"{number:02d}.jpg" for number in range(17) if number not in (1, 4, 9, 16)}
    after = dict(zip(paths, index.descriptors[:], strict=True))
    assert all(np.array_equal(before[path], after[path]) for path in before if path not in ("06.jpg", "07.jpg"))
    contents(out)


def test_added_photos_are_kept_by_the_next_run(tmp_path, photos_of_17, caplog):
    out, more = tmp_path / "out", [photos_of_17 / f"{number:02d}.jpg" for number in range(6, 17)]
    index_photos(PlaceTable(photos_of_17, table_of(photos_of_17).places[:6], "csv"), out, BytesEncoder(), shard_size=100)
    whole = shutil.copytree(out, tmp_path / "whole")
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        add_photos(out, more, StoppingEncoder(2))
    assert f"Stopped: 3 of 11 photos are stored in {out}. The same command encodes the others." in caplog.text
    rest = BytesEncoder()
    add_photos(out, more, rest)
    assert not {"06.jpg", "07.jpg", "08.jpg"} & set(rest.seen)
    add_photos(whole, more, BytesEncoder())
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_an_interrupted_shard_of_embed_is_continued(tmp_path, caplog, error, every_batch):
    """The shard was begun again before, which lost up to 4,096 photos."""
    photos = write_photos(tmp_path / "photos", 17, bad=(1, 4, 9, 16))
    index_photos(photos, tmp_path / "whole", BytesEncoder(), shard_size=7)
    encoder, rest = StoppingEncoder(6, error), BytesEncoder()
    with caplog.at_level(logging.WARNING), pytest.raises(error):
        embed_photos(photos, tmp_path / "parts", encoder, process=(0, 1), shard_size=7)
    if error is KeyboardInterrupt:
        assert f"Stopped: 8 of 17 photos are stored in {tmp_path / 'parts'}. The same" in caplog.text
    embed_photos(photos, tmp_path / "parts", rest, process=(0, 1), shard_size=7)
    assert set(rest.seen) == {"09.jpg", *(f"{number:02d}.jpg" for number in range(11, 17))}  # the skipped one is tried again
    merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_a_damaged_interim_shard_is_found(tmp_path, photos_of_17):
    """A flipped bit must not get a new checksum when the shard of the whole portion is written."""
    with pytest.raises(KeyboardInterrupt):
        index_photos(table_of(photos_of_17), tmp_path / "out", StoppingEncoder(3), shard_size=100)
    interim = tmp_path / "out" / "descriptors-000000-00000006.safetensors"
    content = bytearray(interim.read_bytes())
    content[-1] ^= 1
    interim.write_bytes(content)
    with pytest.raises(ValueError, match=r"descriptors-000000-00000006.*repair"):
        index_photos(table_of(photos_of_17), tmp_path / "out", BytesEncoder())


def test_the_encoder_gives_batches_as_they_finish(tiny_folder, tmp_path):
    """Batches and the result must agree, with skipped photos in between, or rows get the descriptors of others."""
    photos = sorted(save_row(tmp_path / "photos").iterdir())
    photos.insert(1, tmp_path / "gone.jpg")
    batches = []
    encoded = PlaceEncoder(tiny_folder, batch_size=4).encode(photos, on_batch=batches.append)
    assert [len(batch.rows) + len(batch.skipped) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate([batch.descriptors for batch in batches]), encoded.descriptors)
    assert np.concatenate([batch.rows for batch in batches]).tolist() == encoded.rows.tolist() == [0, *range(2, 10)]
    assert {row: why for batch in batches for row, why in batch.skipped.items()} == encoded.skipped == {1: "no such file"}


# ---- real processes and real signals

SIGNALLED = """
import os, sys
from d2vpr_hf.backends.torch_backend import TorchBackend
from d2vpr_hf.cli import main
from d2vpr_hf.index import PlaceIndex
def signalled(owner, name, call, number):
    method, calls = getattr(owner, name), []
    def replacement(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return method(*arguments, **options)
    setattr(owner, name, replacement)
"""


def run_signalled(words, *calls):
    """Run `d2vpr` in a process that gets signals at calls of methods; return its status and its lines on stderr."""
    code = "\n".join([SIGNALLED, *(f"signalled({call})" for call in calls), "main()"])
    done = warm_package().run(code, *words)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_index_stores_what_is_encoded(tmp_path, number):
    """The status tells a shell or a service manager of the signal; a traceback would hide the line that matters."""
    photos, out = save_row(tmp_path / "photos"), tmp_path / "out"
    words = ("index", photos, "--out", out, "--batch-size", 2)
    status, lines = run_signalled(words, f"TorchBackend, 'encode', 3, {int(number)}")
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert status == 128 + number
    assert lines[-1] == f"d2vpr: stopped by {name}. 4 of 9 photos are stored in {out}. The same command encodes the others."
    assert not any("Stopped" in line for line in lines)
    encoder = PlaceEncoder(batch_size=2)
    _, report = index_photos(photos, out, encoder)
    assert (report.kept, report.added) == (4, 5)
    index_photos(photos, tmp_path / "whole", encoder)
    assert contents(out).keys() == contents(tmp_path / "whole").keys()


def test_a_second_signal_ends_the_program_at_once(tmp_path):
    """A user who presses Ctrl-C twice does not want to wait, not even for the rows; the index stays valid."""
    photos, out = save_row(tmp_path / "photos"), tmp_path / "out"
    words = ("index", photos, "--out", out, "--batch-size", 2)
    status, lines = run_signalled(words, "TorchBackend, 'encode', 3, 2", "PlaceIndex, 'upsert', 1, 2")
    assert status == 130 and not any("topped" in line for line in lines)
    assert len(PlaceIndex.open(out)) == 0 and PlaceIndex.open(out).verify() == []


@pytest.mark.parametrize(
    "command",
    [
        ("add", "INDEX", "PHOTOS"),
        ("embed", "PHOTOS", "--out", "OUT"),
        ("search", "INDEX", "PHOTOS"),
        ("localize", "INDEX", "PHOTOS"),
        ("evaluate", "--database", "PHOTOS", "--queries", "PHOTOS", "--save-descriptors", "OUT"),
        ("fit-projection", "MODEL", "PHOTOS", "--dim", "4", "--out", "OUT"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_ends_in_one_line(tmp_path, tiny_folder, monkeypatch, command):
    """No traceback, no half of a folder, no status of success."""
    photos = save_row(tmp_path / "photos")
    names = {"PHOTOS": photos, "INDEX": tmp_path / "index", "OUT": tmp_path / "out", "MODEL": tiny_folder}
    if "INDEX" in command:
        assert run("index", photos, "--out", names["INDEX"])[0] == 0
        save(photos / at_name(1, 2), 99)
    before = sorted(tmp_path.iterdir())
    words = [names.get(word, word) for word in command]
    monkeypatch.setattr(TorchBackend, "encode", lambda self, pixels: os.kill(os.getpid(), signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    status, _, err = run(*words)
    assert status == 130 and err.splitlines()[-1].startswith("d2vpr: stopped by Ctrl-C. ")
    assert "The same command" in err.splitlines()[-1]
    assert signal.getsignal(signal.SIGINT) == handler
    left = [path for path in sorted(tmp_path.iterdir()) if path not in before]
    assert left == ([names["OUT"]] if command[0] == "embed" and names["OUT"].exists() else [])


def test_an_interrupted_simulation_leaves_no_photos(tmp_path, monkeypatch):
    """Half a city would look like a whole one."""
    module = importlib.import_module("d2vpr_hf.gridtown.simulate")  # the package has a function of the module's name
    monkeypatch.setattr(module, "encode_jpeg", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    words = ("simulate", tmp_path / "city", "--places", 2, "--seed", 3, "--workers", 1, "--image-size", 28)
    status, _, err = run(*words)
    assert (status, err) == (130, "d2vpr: stopped by Ctrl-C. The same command begins again.\n") and list(
        tmp_path.iterdir()
    ) == []
