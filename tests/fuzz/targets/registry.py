"""A target: the seeds of a parser of strangers' files, the function to run, and the exceptions that are right answers.

A target is a function that gets an empty folder and returns a [`Prepared`]; it imports the libraries that it needs, so that a
process loads those of one target only. An answer that can be compared with the undamaged file's is compared: a wrong answer in
silence is a fault like a traceback.
"""

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.mutations import Mutation, mutate_bytes


class WrongAnswerError(Exception):
    """A damaged file was read without an error or a warning, and the answer is wrong."""


class Prepared(NamedTuple):
    """A target with its files in place.

    Attributes:
        seeds: Valid inputs.
        run: Reads an input and checks the answer.
        right: Exceptions that are right answers.
        mutate: Draws a damaged input from a seed.
        is_slow: Whether an execution starts a process; the default tests then run only two.
    """

    seeds: list[bytes]
    run: Callable[[bytes], object]
    right: tuple[type[BaseException], ...] = (ValueError,)
    mutate: Mutation = mutate_bytes
    is_slow: bool = False


TARGETS: dict[str, Callable[[Path], Prepared]] = {}


def target(make: Callable[[Path], Prepared]) -> Callable[[Path], Prepared]:
    TARGETS[make.__name__] = make
    return make


def check(holds: object, reason: str) -> None:
    if not holds:
        raise WrongAnswerError(reason)


def check_places(places: Iterable[Any]) -> None:
    """Check that the numbers of places are finite and in their ranges, and their texts are texts."""
    for place in places:
        check(isinstance(place.path, str), f"path {place.path!r}")
        for name, most in (("latitude", 90), ("longitude", 180)):
            value = getattr(place, name)
            check(value is None or (isinstance(value, float) and abs(value) <= most), f"{name} {value!r}")
        for name in ("utm_east", "utm_north", "x", "y", "z", "yaw", "heading"):
            value = getattr(place, name)
            check(value is None or math.isfinite(value), f"{name} {value!r}")


def writer(path: Path) -> Callable[[bytes], Path]:
    """Return a function that puts content into a new file at a path: readers may have mapped the old one."""

    def write(content: bytes) -> Path:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path

    return write


def file_target(
    path: Path,
    seeds: list[bytes],
    read: Callable[[Path], object],
    right: tuple[type[BaseException], ...] = (ValueError,),
    mutate: Mutation = mutate_bytes,
) -> Prepared:
    """Return a target that reads one file."""
    write = writer(path)
    return Prepared(seeds, lambda content: read(write(content)), right, mutate)


class Warnings(logging.Handler):
    """Counts warnings of the package while it is attached."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    def __enter__(self) -> "Warnings":
        logging.getLogger("d2vpr_hf").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("d2vpr_hf").removeHandler(self)
