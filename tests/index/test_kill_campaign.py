"""Processes that build, add, remove, compact, repair and build stores are killed at random, next to another writer and readers.

Nothing that was committed is lost, no row is wrong, and readers see neither errors nor wrong rows. A slow test kills 400 times;
D2VPR_KILLS and D2VPR_KILL_SEED choose other numbers.
"""

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.index import PlaceIndex, repair_index
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.forked import CONTEXT
from tests.index.workers import SHARD, BytesEncoder, begin, frame, write_photos

NUM_WRITERS, NUM_READERS = 2, 2
NUM_PHOTOS = 7
PHOTOS = [f"{number:02d}.jpg" for number in range(NUM_PHOTOS)]


class Journal:
    """A file of the changes that a writer began and finished; it survives a kill."""

    def __init__(self, path: Path):
        self.path = path

    def open(self):
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, word, numbers=()):
        os.write(self.file, f"{word} {' '.join(map(str, numbers))}\n".encode())

    def state(self):
        """Return the numbers that are certainly in the index, and those that may be in it."""
        certain, possible = set(), set()
        begun = None
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            word, *numbers = line.split()
            numbers = set(map(int, numbers))
            if word == "adding":
                begun, possible = (word, numbers), possible | numbers
            elif word == "removing":
                begun, certain = (word, numbers), certain - numbers
            elif word == "added":
                certain |= numbers
            elif word == "removed":
                possible -= numbers
            elif word == "refused" and begun is not None:  # another writer had the lock, so that nothing was changed
                certain, possible = (certain, possible - begun[1]) if begun[0] == "adding" else (certain | begun[1], possible)
        return certain, possible


def write(folder, photos, journal, seed, writer, first, stop):
    """Change an index in random ways until a file appears; rows of this writer have numbers of its own."""
    journal.open()
    chance = random.Random(seed)
    certain, _ = journal.state()
    number = first
    table = PlaceTable(photos, [Place(name) for name in PHOTOS], "csv")
    while not stop.exists():
        action = chance.choice(["add", "add", "add", "remove", "compact", "repair", "store", "build", "calibrate"])
        count = chance.randint(1, 2 * SHARD)
        chosen = sorted(chance.sample(sorted(certain), min(count, len(certain))))
        added = [NUM_WRITERS * (number + step) + writer for step in range(count)]
        try:
            if action == "add":
                number += count
                journal.write("adding", added)
                with PlaceIndex.open(folder) as index:
                    for frame_number in added:
                        index.add(frame(frame_number)[0], Place(f"/frames/{frame_number}", x=float(frame_number), y=0.0))
                        if chance.random() < 0.3:
                            index.flush()
                journal.write("added", added)
                certain.update(added)
            elif action == "remove" and chosen:
                journal.write("removing", chosen)
                PlaceIndex.open(folder).remove([f"/frames/{frame_number}" for frame_number in chosen])
                journal.write("removed", chosen)
                certain.difference_update(chosen)
            elif action == "compact":
                PlaceIndex.open(folder).compact()
            elif action == "repair":
                assert repair_index(folder).rows == 0  # nothing is damaged
            elif action == "store":
                PlaceIndex.open(folder).build_store(chance.choice(["none", "half", "int8", "bits"]))
            elif action == "calibrate":
                PlaceIndex.open(folder).store_calibration({"scale": float(writer)})
            elif action == "build":
                index_photos(table, folder, BytesEncoder(batch_size=1))
        except BlockingIOError:
            if action in ("add", "remove"):
                journal.write("refused")
            time.sleep(0.002)


def read(folder, log, seed, stop):
    """Open and search an index until a file appears, and write each problem to a log."""
    chance = random.Random(seed)
    rounds = 0
    while not stop.exists():
        rounds += 1
        try:
            problems = problems_of(PlaceIndex.open(folder), chance)
        except Exception as error:
            problems = [repr(error)]
        if problems:
            log.write_text("\n".join(problems))
        time.sleep(0.01)
    log.with_suffix(".rounds").write_text(str(rounds))


def vector_of(path, photo_vectors):
    return frame(int(path.rsplit("/", 1)[1]))[0] if path.startswith("/frames/") else photo_vectors[path]


def photo_vectors():
    encoder = BytesEncoder(batch_size=1)
    vectors = {}
    for number, name in enumerate(PHOTOS):
        pixels = np.array([list(hashlib.sha256(f"photo {number}".encode()).digest()[: encoder.descriptor_dim])])
        vectors[name] = encoder.encode_batch(pixels)[0]
    return vectors


def problems_of(index, chance):
    """Compare all rows of an index with the descriptors that their paths stand for, and search some of them."""
    vectors, problems = photo_vectors(), []
    paths = index.places.column("path")
    if len(set(paths)) != len(paths):
        problems.append("a path is there twice")
    expected = np.array([vector_of(path, vectors) for path in paths]).reshape(-1, index.settings.descriptor_dim)
    wrong = np.flatnonzero(np.abs(index.descriptors[:].astype(float) - expected).max(axis=1, initial=0) > 2e-3)
    problems += [f"the row of {paths[row]} is wrong" for row in wrong]
    for row in chance.sample(range(len(paths)), min(3, len(paths))):
        match = index.search(expected[row], 1)[0][0]
        if match.place.path != paths[row] or abs(match.similarity - 1) > 1e-2:
            problems.append(f"a search for {paths[row]} finds {match.place.path}")
    return problems


def start(target, *arguments):
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def check_journals(folder, journals):
    """Compare the rows of an index with the journals; rows of changes that were under way may be there or not."""
    paths = {path for path in PlaceIndex.open(folder).places.column("path") if path.startswith("/frames/")}
    numbers = {int(path.rsplit("/", 1)[1]) for path in paths}
    for writer, journal in journals.items():
        certain, possible = journal.state()
        present = {number for number in numbers if number % NUM_WRITERS == writer}
        assert certain <= present, f"lost: {sorted(certain - present)}"
        assert present <= possible, f"not added, or removed: {sorted(present - possible)}"


def run_campaign(tmp_path, num_kills, seed):
    """Kill writers at random moments, and compare the index with the journal of the killed writer after each kill."""
    folder, photos = tmp_path / "index", tmp_path / "photos"
    stop = tmp_path / "stop"
    write_photos(photos, NUM_PHOTOS)
    begin(folder, batch_size=1, photo_folder=photos.resolve()).close()
    chance = random.Random(seed)
    journals = {writer: Journal(tmp_path / f"journal-{writer}") for writer in range(NUM_WRITERS)}
    logs = [tmp_path / f"reader-{reader}" for reader in range(NUM_READERS)]
    readers = [start(read, folder, log, seed + number, stop) for number, log in enumerate(logs)]
    begun = 0

    def start_writer(writer):
        nonlocal begun
        begun += 1
        arguments = (folder, photos, journals[writer], chance.random(), writer, 1000 * begun, stop)
        return start(write, *arguments)

    writers = {writer: start_writer(writer) for writer in journals}
    try:
        for _ in range(num_kills):
            time.sleep(chance.uniform(0.02, 0.25))
            writer = chance.choice(sorted(writers))
            assert writers[writer].is_alive(), "a writer ended with an error"
            writers[writer].kill()
            writers[writer].join()
            assert writers[writer].exitcode == -signal.SIGKILL
            check_journals(folder, {writer: journals[writer]})
            writers[writer] = start_writer(writer)
    finally:
        stop.touch()
        for process in (*writers.values(), *readers):
            process.join(60)
    assert all(process.exitcode == 0 for process in (*writers.values(), *readers))
    assert all(int(log.with_suffix(".rounds").read_text()) > 0 for log in logs)
    assert [log.read_text() for log in logs if log.exists()] == []
    check_journals(folder, journals)
    index = PlaceIndex.open(folder)
    assert index.verify() == [] and problems_of(index, chance) == []
    return begun - NUM_WRITERS


def test_a_killed_writer_loses_nothing_next_to_another_one(tmp_path):
    assert run_campaign(tmp_path, 8, seed=0) == 8


@pytest.mark.slow
def test_400_kills_lose_nothing(tmp_path):
    count, seed = int(os.environ.get("D2VPR_KILLS", 400)), int(os.environ.get("D2VPR_KILL_SEED", 1))
    assert run_campaign(tmp_path, count, seed) == count
