"""Looks at strangers' photos in a process that is ended: slow, large and crashing photos, and what remains after them."""

import struct
import sys
from pathlib import Path

import pytest
from PIL import Image

from d2vpr_hf.web import photo_checks
from d2vpr_hf.web.photo_checks import PhotoChecks, PhotoProblemError
from tests.photos import jpeg, save


@pytest.fixture(scope="module")
def checks():
    return PhotoChecks(50_000_000, processes=1)


def test_photos_and_other_files(checks, tmp_path):
    assert checks.look_at(save(tmp_path / "a.jpg", 1)) == Image.open(tmp_path / "a.jpg").size
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:-200])
    for name in ("text.jpg", "cut.jpg"):
        with pytest.raises(PhotoProblemError) as problem:
            checks.look_at(tmp_path / name)
        assert str(tmp_path) not in str(problem.value)
    with pytest.raises(OSError, match="missing"):
        checks.look_at(tmp_path / "missing.jpg")


def test_a_slow_photo_is_ended(tmp_path):
    """Two progressive photos of 222 kB held the Space for 47 seconds. This one has no repeated scans: it is merely large."""
    Image.new("L", (7000, 7000)).save(tmp_path / "slow.png", compress_level=1)
    checks = PhotoChecks(50_000_000, processes=1, cpu_seconds=0.05)
    with pytest.raises(PhotoProblemError, match="takes too long to read"):
        checks.look_at(tmp_path / "slow.png")
    with pytest.raises(PhotoProblemError, match="takes too long"):  # the result is kept: it costs no time again
        checks.look_at(tmp_path / "slow.png")


def test_a_process_that_crashes_is_replaced(checks, tmp_path):
    crashing = PhotoChecks(50_000_000, processes=1)
    crashing._command = [sys.executable, "-c", "import os; input(); os.kill(os.getpid(), 11)"]
    with pytest.raises(PhotoProblemError, match="its reader fails"):
        crashing.look_at(save(tmp_path / "a.jpg", 1))
    crashing._command = checks._command
    assert crashing.look_at(save(tmp_path / "b.jpg", 2))


def test_a_photo_that_needs_gigabytes_is_refused(checks, tmp_path):
    """A TIFF of 100 x 100 pixels in one tile of 26,000 x 26,000: its decoder asks for 2 GB."""
    entries = [(256, 3, 100), (257, 3, 100), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, 65_000), (323, 4, 65_000), (324, 4, 8), (325, 4, 100)]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    (tmp_path / "tile.tif").write_bytes(b"II*\0" + struct.pack("<I", 108) + bytes(100) + directory + bytes(4))
    with pytest.raises(PhotoProblemError):
        checks.look_at(tmp_path / "tile.tif")
    assert checks.look_at(save(tmp_path / "a.jpg", 1))


def test_the_process_has_no_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET")
    process = PhotoChecks(1)._start()
    while not (environment := Path(f"/proc/{process.pid}/environ").read_bytes()):  # empty for a moment at the start
        pass
    process.stdin.close()
    process.wait(60)
    assert b"SECRET" not in environment and b"OMP_NUM_THREADS=1" in environment


def test_results_do_not_fill_the_memory(checks, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_checks, "_MAX_RESULTS", 2)
    checks._results.clear()
    for number in range(4):
        checks.look_at(save(tmp_path / f"{number}.jpg", number))
    assert len(checks._results) == 2
