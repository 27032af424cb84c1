"""Processes that change an index are killed: nothing stored is lost, and going on gives the bytes of an undisturbed run."""

import hashlib
import os
import random
import shutil
import signal
import time

import pytest

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.manifest import read_manifest
from tests.forked import CONTEXT
from tests.index.workers import JOBS, build, contents, prepare_photos, run_logged


def run_in_process(job, out, photos, log, kill_after=None):
    """Run a job in a process of its own and return how long it took, or kill it then; tells whether it was killed."""
    process = CONTEXT.Process(target=run_logged, args=(job, out, photos, log))
    process.start()
    while not log.exists() and process.is_alive():  # interpreter and imports are not what is to be interrupted
        time.sleep(0.0005)
    start = time.perf_counter()
    if kill_after is not None:
        process.join(kill_after)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return time.perf_counter() - start, process.exitcode != 0


class Trial:
    """A job, where it begins, and what an undisturbed run of it leaves."""

    def __init__(self, job, folder):
        self.job, self.folder = job, folder / job
        self.photos = prepare_photos(self.folder / "photos")
        self.begin = self.folder / "begin"
        if job in ("update", "replace"):
            build(self.begin, self.photos)
        self.expected, self.duration = self._undisturbed()

    def _undisturbed(self):
        out = self._start("expected")
        durations = [run_in_process(self.job, out, self.photos, self.folder / "log")[0]]
        self.states = (self.folder / "log").read_text().split()
        return contents(out), durations[0]

    def _start(self, name):
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        if self.begin.exists():
            shutil.copytree(self.begin, out)
        return out

    def kill(self, chance):
        """Kill the job at random moments until it comes to its end; return how often."""
        out, log = self._start("out"), self.folder / "killed-log"
        kills = 0
        log.unlink(missing_ok=True)
        while run_in_process(self.job, out, self.photos, log, chance.uniform(0, 1.2 * self.duration))[1]:
            kills += 1
            self._check(out, log.read_text().split())
        assert contents(out) == self.expected
        return kills

    def _check(self, out, logged):
        """Check that the stored files are complete and in one of the states of an undisturbed run."""
        if not logged:
            return
        assert PlaceIndex.open(out).verify() == []
        names = ("manifest-next.json", "manifest.json")
        texts = {read_manifest(out, name).to_text() for name in names if (out / name).exists()}
        states = [self.states.index(digest(text)) for text in texts if digest(text) in self.states]
        assert states and max(states) >= self.states.index(logged[-1])


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def kill_often(tmp_path, count):
    trials = [Trial(job, tmp_path) for job in JOBS]
    chance, kills = random.Random(), 0
    while kills < count:
        kills += sum(trial.kill(chance) for trial in trials)
    return kills


def test_killed_at_random(tmp_path):
    assert kill_often(tmp_path, 20) >= 20


@pytest.mark.slow
def test_killed_at_random_200_times(tmp_path):
    assert kill_often(tmp_path, 200) >= 200
