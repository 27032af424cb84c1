"""Run the fuzz targets one after another, over and over: `make fuzz MINUTES=10`, or `python -m tests.fuzz.run --minutes 10`.

Each target runs in a process of its own for some seconds at a time, with bounds on memory and time. An input is drawn from the
target's name and a number, so that runs continue where earlier ones stopped, and `--input NAME:NUMBER` runs one again. Inputs
with a wrong outcome are stored in build/fuzz/, next to executions.json with the sums of all runs.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import json
import logging
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tests.fuzz.targets import TARGETS, Prepared

OUT = Path(__file__).parents[2] / "build" / "fuzz"
MEMORY = 1 << 30  # bytes that executions may take in addition to the libraries
SECONDS = 10  # for one execution
SLICE = 20.0  # seconds of a target before the next one
_HEADER = struct.Struct("<QQd")  # execution's number, size of its input, time of its start
_MOST_INPUT = 1 << 20
_MOST_STORED = 20  # inputs with the same outcome are stored up to this number for a target


class SlowExecutionError(BaseException):
    """An execution took longer than its time; not an Exception, so that no parser's handling of errors hides it."""


def draw_input(name: str, prepared: Prepared, number: int) -> bytes:
    """Return the input of an execution; it depends on the target and the number alone."""
    draws = random.Random(f"{name}:{number}")
    return prepared.mutate(draws.choice(prepared.seeds), draws)[:_MOST_INPUT]


def execute(prepared: Prepared, content: bytes) -> str | None:
    """Run a target on an input; return the outcome if it is wrong, as one line that is equal for equal faults."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        prepared.run(content)
    except prepared.right:
        pass
    except (Exception, SlowExecutionError) as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "d2vpr_hf" in frame.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "no frame of the package"
        return f"{type(error).__name__} in {place}: {str(error)[:160]!r}"
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return f"{taken >> 20} MiB more memory" if taken > MEMORY // 4 else None


@contextlib.contextmanager
def prepared_target(name: str) -> Iterator[Prepared]:
    """Prepare a target in a folder that is removed later; its log and warnings are not shown."""
    silent = logging.NullHandler()  # otherwise warnings go to the terminal
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
            warnings.simplefilter("ignore")
            yield TARGETS[name](Path(folder))
    finally:
        logging.getLogger().removeHandler(silent)


def _run_slice(name: str, first: int, seconds: float, shared: mmap.mmap, report: int) -> None:
    """Execute a target for some seconds, in a process of its own, and write its wrong outcomes to a pipe."""
    faulthandler.disable()
    signal.signal(signal.SIGALRM, _raise_slow)
    with prepared_target(name) as prepared, os.fdopen(report, "w", buffering=1) as reports:
        prepared.run(prepared.seeds[0])  # libraries load before the bound on memory
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C print a line for each damaged file
        limit = _virtual_memory() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        number, end = first, time.monotonic() + seconds
        while time.monotonic() < end:
            content = draw_input(name, prepared, number)
            shared[: _HEADER.size + len(content)] = _HEADER.pack(number, len(content), time.monotonic()) + content
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            outcome = execute(prepared, content)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if outcome is not None:
                reports.write(json.dumps({"number": number, "outcome": outcome, "input": content.hex()}) + "\n")
            number += 1
        shared[: _HEADER.size] = _HEADER.pack(number, 0, time.monotonic())
    os._exit(0)  # libraries' threads may wait at a usual exit


def _raise_slow(_number: int, _frame: FrameType | None) -> None:
    raise SlowExecutionError(f"longer than {SECONDS} s")


def _virtual_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run_slice(name: str, first: int, seconds: float) -> tuple[int, list[dict[str, object]]]:
    """Run a target in a process of its own; return the number of the next execution, and the wrong outcomes."""
    shared = mmap.mmap(-1, _HEADER.size + _MOST_INPUT)
    shared[: _HEADER.size] = _HEADER.pack(first, 0, time.monotonic() + 600)  # time to import libraries
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        try:
            _run_slice(name, first, seconds, shared, writable)
        except BaseException:
            traceback.print_exc()
        os._exit(70)
    os.close(writable)
    killed = False
    with os.fdopen(readable) as reports:

        def watch() -> None:
            nonlocal killed
            while not done.wait(1):
                if time.monotonic() > _HEADER.unpack(shared[: _HEADER.size])[2] + 3 * SECONDS:
                    killed = True
                    os.kill(child, signal.SIGKILL)
                    return

        done = threading.Event()
        watcher = threading.Thread(target=watch)
        watcher.start()
        outcomes = [json.loads(line) for line in reports]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done.set()
        watcher.join()
    number, size, _ = _HEADER.unpack(shared[: _HEADER.size])
    if status == 0:
        return number, outcomes
    if status == 70 and size == 0:
        raise RuntimeError(f"{name} could not be prepared; the error is printed above.")
    reason = f"no answer for {3 * SECONDS} s" if killed else f"the process ended with {status}"
    content = shared[_HEADER.size : _HEADER.size + size]
    return number + 1, [*outcomes, {"number": number, "outcome": reason, "input": content.hex()}]


def store_outcomes(name: str, outcomes: list[dict[str, object]], sums: dict[str, dict[str, int]]) -> None:
    """Count wrong outcomes by their text, and store the first inputs of each."""
    for outcome in outcomes:
        text = str(outcome["outcome"])
        counts = sums.setdefault(name, {})
        counts[text] = counts.get(text, 0) + 1
        if counts[text] == 1 and len(counts) <= _MOST_STORED:
            content = bytes.fromhex(str(outcome["input"]))
            (OUT / name).mkdir(parents=True, exist_ok=True)
            (OUT / name / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)
            print(f"{name}:{outcome['number']}: {text}", flush=True)


def run_all(names: list[str], minutes: float, slice_seconds: float, first_number: int) -> int:
    """Run targets in turn for some minutes, each from a number on if it never ran; return the number of wrong outcomes."""
    OUT.mkdir(parents=True, exist_ok=True)
    record = OUT / "executions.json"
    executions: dict[str, int] = json.loads(record.read_text()) if record.exists() else {}
    first = {name: executions.get(name, first_number) for name in names}
    sums: dict[str, dict[str, int]] = {}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for name in names:
            seconds = min(slice_seconds, end - time.monotonic())
            if seconds <= 0:
                break
            executions[name], outcomes = run_slice(name, executions.get(name, first_number), seconds)
            store_outcomes(name, outcomes, sums)
            replacement = record.with_suffix(".new")
            replacement.write_text(json.dumps(executions, indent=1) + "\n")
            replacement.replace(record)
    print(
        "\n| target | executions | number of the next input | wrong outcomes | kinds of them |\n| --- | --- | --- | --- | --- |"
    )
    for name in names:
        counts, number = sums.get(name, {}), executions.get(name, first_number)
        print(f"| `{name}` | {number - first[name]:,} | {number:,} | {sum(counts.values()):,} | {len(counts)} |")
    return sum(sum(counts.values()) for counts in sums.values())


def run_guided(name: str, minutes: float) -> None:
    """Run a target by atheris: inputs that reach new branches of the package's Python are damaged further.

    It ends at the first wrong outcome, with the input in build/fuzz/NAME/; the inputs that reached new branches are in
    build/fuzz/NAME/corpus/.
    """
    import atheris

    corpus = OUT / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["d2vpr_hf"]), prepared_target(name) as prepared:
        prepared.run(prepared.seeds[0])
        for number, seed in enumerate(prepared.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def mutate(content: bytes, max_size: int, seed: int) -> bytes:
            return prepared.mutate(content, random.Random(seed))[:max_size]

        def run(content: bytes) -> None:
            outcome = execute(prepared, content)
            if outcome is not None:
                raise RuntimeError(outcome)

        limits = [
            f"-max_total_time={round(60 * minutes)}",
            f"-timeout={SECONDS}",
            "-rss_limit_mb=4096",
            f"-max_len={_MOST_INPUT}",
        ]
        atheris.Setup([name, *limits, f"-artifact_prefix={OUT / name}/", str(corpus)], run, custom_mutator=mutate)
        atheris.Fuzz()


def run_once(text: str) -> None:
    """Run one input again, a file or `NAME:NUMBER`, and let its error pass; print the input's file."""
    name, _, which = text.partition(":")
    with prepared_target(name) as prepared:
        content = draw_input(name, prepared, int(which)) if which.isdecimal() else Path(which).read_bytes()
        print(f"{len(content)} bytes: {content[:200]!r}")
        prepared.run(content)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--slice", type=float, default=SLICE, help="seconds of a target before the next one")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of a target that never ran here")
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--guided", choices=sorted(TARGETS), help="run this target by atheris, guided by coverage")
    parser.add_argument("--input", metavar="NAME:NUMBER", help="run one input again; NAME:FILE for a stored one")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.input:
        run_once(options.input)
    elif options.guided:
        run_guided(options.guided, options.minutes)
    elif run_all(options.targets, options.minutes, options.slice, options.first):
        sys.exit(1)


if __name__ == "__main__":
    main()
