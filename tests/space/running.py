"""Run the Space in a process, with a small map, and look at its files and its log."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.retrieval.index_photos import index_photos

APP = Path(__file__).parents[2] / "spaces" / "app.py"
_STARTING = 180  # seconds, for a machine with other load


@dataclass
class RunningSpace:
    """A running Space.

    Attributes:
        url: The address of its page.
        folder: Has `index`, `database`, `queries`, the server's temporary folder `tmp`, and its `log`.
        process: The server.
    """

    url: str
    folder: Path
    process: subprocess.Popen

    @property
    def queries(self):
        return sorted((self.folder / "queries").iterdir())

    @property
    def log(self):
        return (self.folder / "log").read_text(encoding="utf-8")

    def visitors_files(self):
        """Return the files of visitors that the server keeps."""
        return [path for path in (self.folder / "tmp").rglob("*") if path.is_file() and "d2vpr-space-" in str(path)]


def make_map(folder):
    """Render a small town, index its database without a calibration, and keep its queries."""
    simulate(folder / "town", 3, 9002, tier="easy", photos_per_place=4, image_size=112)
    for side in ("database", "queries"):
        (folder / "town" / "images" / "test" / side).rename(folder / side)
    index_photos(folder / "database", folder / "index", PlaceEncoder())


@contextlib.contextmanager
def running_space(folder):
    """Serve the map of a folder; the server's output is written to its `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "tmp").mkdir()
    environment = os.environ | {"D2VPR_INDEX": str(folder / "index"), "D2VPR_CACHE": str(folder / "cache")}
    environment |= {"GRADIO_SERVER_PORT": str(port), "TMPDIR": str(folder / "tmp"), "NO_PROXY": "*"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-u", str(APP)], env=environment, stdout=log, stderr=subprocess.STDOUT)
    space = RunningSpace(f"http://127.0.0.1:{port}", folder, process)
    try:
        _wait(space)
        yield space
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STARTING)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(space):
    until = time.monotonic() + _STARTING
    while time.monotonic() < until and space.process.poll() is None:
        with contextlib.suppress(OSError):  # refused, or too busy to answer in time
            urllib.request.urlopen(space.url, timeout=5)
            return
        time.sleep(0.2)
    raise AssertionError(f"The Space did not start:\n{space.log}")
