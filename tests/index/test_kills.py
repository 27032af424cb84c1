"""Processes that change an index are killed: no stored row is lost, and the next run gives the bytes of an undisturbed one."""

import hashlib
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
    """Run a job in another process and kill it after `kill_after` seconds; return its seconds, and whether it was killed."""
    process = CONTEXT.Process(target=run_logged, args=(job, out, photos, log))
    process.start()
    while not log.exists() and process.is_alive():  # only the job is to be killed, not the imports before it
        time.sleep(0.0005)
    start = time.perf_counter()
    if kill_after is not None:
        process.join(kill_after)
        process.kill()  # without an error if the process has just ended
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return time.perf_counter() - start, process.exitcode != 0


class Trial:
    """A job, the folder that it begins with, and the files that an undisturbed run of it leaves."""

    def __init__(self, job, folder):
        self.job, self.folder = job, folder / job
        self.photos = prepare_photos(self.folder / "photos")
        self.begin = self.folder / "begin"
        if job in ("update", "replace"):
            build(self.begin, self.photos)
        out = self._copy_begin("expected")
        self.duration, _ = run_in_process(self.job, out, self.photos, self.folder / "log")
        self.states = (self.folder / "log").read_text().split()
        self.expected = contents(out)

    def _copy_begin(self, name):
        """Return a folder that holds the files with which the job begins."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        if self.begin.exists():
            shutil.copytree(self.begin, out)
        return out

    def kill(self, chance):
        """Kill the job at random moments until a run reaches its end; return the number of kills."""
        out, log = self._copy_begin("out"), self.folder / "killed-log"
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


def test_killed_jobs_lose_no_stored_row_and_end_with_the_same_bytes(tmp_path):
    assert kill_often(tmp_path, 20) >= 20


@pytest.mark.slow
def test_jobs_killed_200_times_lose_no_stored_row(tmp_path):
    assert kill_often(tmp_path, 200) >= 200
