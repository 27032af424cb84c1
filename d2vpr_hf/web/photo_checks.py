"""Looks at strangers' photos in processes that can be ended, before this process reads them.

A photo that the process read within its limits is read here in about the same time. Reading it twice costs a fraction of the
network's time, and descriptors stay those of the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

_CPU_SECONDS = 6.0  # for a photo: 50 megapixels of progressive JPEG take about 3
_WALL_SECONDS = 30.0  # for a photo, on a machine with other load
_MEGA = 1_000_000
_MAX_RESULTS = 2000  # photos whose results are kept
_KEPT_VARIABLES = ("PATH", "TMPDIR", "TEMP", "TMP", "HOME", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH")  # no token among them


_TOO_SLOW = "it takes too long to read"
_TIME_SIGNALS = (-getattr(signal, "SIGPROF", 0), -getattr(signal, "SIGKILL", 0))


class PhotoProblemError(Exception):
    """A photo that cannot be used; the message has the reason, without the path."""


class PhotoChecks:
    """Processes that look at photos. Safe to use from threads: each photo has a process to itself.

    Args:
        max_pixels: Number of pixels from which a photo's pixels are not read.
        processes: Number of photos at the same time.
        cpu_seconds: Time on a processor after which a process is ended.
        wall_seconds: Time after which a process is ended in any case.
    """

    def __init__(
        self,
        max_pixels: int,
        processes: int = 2,
        cpu_seconds: float = _CPU_SECONDS,
        wall_seconds: float = _WALL_SECONDS,
    ) -> None:
        self._command = [sys.executable, "-m", "d2vpr_hf.web.photo_process", str(cpu_seconds), str(max_pixels)]
        self._wall_seconds = wall_seconds
        self._idle: queue.LifoQueue[subprocess.Popen[str] | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)  # started when it is needed
        self._results: OrderedDict[tuple[str, int, int], tuple[int, int] | str] = OrderedDict()
        self._lock = threading.Lock()

    def look_at(self, photo: Path) -> tuple[int, int]:
        """Return the width and height of a photo after all of it was read.

        Raises:
            PhotoProblemError: If it cannot be read, or not within the limits.
            OSError: If there is no such file.
        """
        state = photo.stat()
        key = (str(photo), state.st_mtime_ns, state.st_size)
        with self._lock:
            result = self._results.get(key)
        if result is None:
            result = self._ask(photo)
            with self._lock:
                self._results[key] = result
                if len(self._results) > _MAX_RESULTS:
                    self._results.popitem(last=False)
        if isinstance(result, str):
            raise PhotoProblemError(result)
        return result

    def _ask(self, photo: Path) -> tuple[int, int] | str:
        process = self._idle.get()
        try:
            if process is None or process.poll() is not None:
                process = self._start()
            answer = self._answer(process, photo)
            if answer is None:
                code, process = _end(process), None
                return _TOO_SLOW if code in _TIME_SIGNALS else "its reader fails"
        finally:
            self._idle.put(process)
        if "problem" in answer:
            return str(answer["problem"])
        width, height = answer["size"]
        return width, height

    def _start(self) -> subprocess.Popen[str]:
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        variables |= {
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            self._command,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings name photos
            text=True,
        )

    def _answer(self, process: subprocess.Popen[str], photo: Path) -> dict[str, Any] | None:
        """Return the answer of a process; `None` if it ended or took too long."""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # the process ended
            process.stdin.write(json.dumps(str(photo)) + "\n")
            process.stdin.flush()
            timer = threading.Timer(self._wall_seconds, process.kill)
            timer.daemon = True
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            if line.endswith("\n"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        return None

    def close(self) -> None:
        """End the processes that are idle; the others end with this program."""
        with contextlib.suppress(queue.Empty):
            while True:
                process = self._idle.get_nowait()
                if process is not None:
                    _end(process)


def find_problem(photo: Path, checks: PhotoChecks, max_bytes: int, max_pixels: int) -> str | None:
    """Return the reason why a stranger's photo cannot be used, or `None`.

    Args:
        photo: Its file.
        checks: Processes that look at it.
        max_bytes: Largest size of its file.
        max_pixels: Number of pixels that it must stay below.
    """
    if photo.stat().st_size > max_bytes:
        return f"its file is larger than {max_bytes / _MEGA:g} MB"
    try:
        width, height = checks.look_at(photo)
    except PhotoProblemError as error:
        return str(error)
    if width * height >= max_pixels:
        return f"it has {width * height / _MEGA:.1f} megapixels, and photos must have fewer than {max_pixels / _MEGA:g}"
    return None


def _end(process: subprocess.Popen[str]) -> int:
    """End a process that does not answer, and return its exit code."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1)  # a process that ended by itself states the reason
    process.kill()
    return process.wait()
