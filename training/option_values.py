"""Options that are texts with parts: weights of sources, schedules of weights, and sets for validation."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Self

_SET_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SET_FORM = "NAME=ROOT or NAME=DATABASE,QUERIES, optionally followed by ,frames:N or ,metres:X, or after ROOT by ,layout:LAYOUT"
_SUFFIX = re.compile(r"(frames|metres|layout):(.*)")


@dataclass(frozen=True)
class WeightSchedule:
    """The weight of a term of a loss at each step: piecewise linear, and constant before its first and after its last point.

    Attributes:
        points: Pairs of a step and a weight, by rising step; one for a constant weight.
    """

    points: tuple[tuple[int, float], ...]

    @classmethod
    def parse(cls, text: str | float, name: str = "weight") -> Self:
        """Read a number, or points as STEP:WEIGHT, separated by blanks, such as "0:1.0 2000:0.2".

        Args:
            text: The number or the text.
            name: Name of the option, for errors.

        Raises:
            ValueError: If the text has another form, a weight is below 0, or steps do not rise.
        """
        parts = [part.rpartition(":") for part in str(text).split()]
        is_constant = len(parts) == 1 and not parts[0][1]
        steps = [0 if is_constant else _to_whole(step) for step, _, _ in parts]
        weights = [_to_number(weight) for _, _, weight in parts]
        if not parts or not all(math.isfinite(weight) for weight in weights) or None in steps:
            raise ValueError(f"{name} is a number, or points such as '0:1.0 2000:0.2' (STEP:WEIGHT), got {text!r}.")
        if min(weights) < 0:
            raise ValueError(f"Expected at least 0, got {name}={text}.")
        points = tuple((step, weight) for step, weight in zip(steps, weights, strict=True) if step is not None)
        if any(second[0] <= first[0] for first, second in itertools.pairwise(points)):
            raise ValueError(f"The steps of {name} must rise, got {text!r}.")
        return cls(points)

    def __call__(self, step: int) -> float:
        """Return the weight at a step."""
        for (first, start), (last, end) in itertools.pairwise(self.points):
            if first <= step < last:
                return start + (end - start) * (step - first) / (last - first)
        return self.points[0][1] if step < self.points[0][0] else self.points[-1][1]

    @property
    def is_zero(self) -> bool:
        """Whether the weight is 0 at all steps."""
        return not any(weight for _, weight in self.points)

    @property
    def option(self) -> float | str:
        """The form in options: a number for a constant weight, else the points as text."""
        if len(self.points) == 1:
            return self.points[0][1]
        return " ".join(f"{step}:{weight}" for step, weight in self.points)


@dataclass(frozen=True)
class ValidationSet:
    """Photos with positions that validation searches in, and photos that it searches for: a data set, or two tables.

    Attributes:
        name: Name of the set, which the names of its metrics begin with.
        database: Folder or table of the database; `None` for a data set.
        queries: Folder or table of the queries; `None` for a data set.
        frame_tolerance: Largest difference of the frame numbers of a correct match; `None` if metres decide.
        metres: Largest distance of a correct match; `None` for that of the data set, or evaluation's usual one.
        root: Folder of a data set; `None` for two tables.
        layout: Name of the data set's layout; `None` to recognise it.
    """

    name: str
    database: str | None = None
    queries: str | None = None
    frame_tolerance: int | None = None
    metres: float | None = None
    root: str | None = None
    layout: str | None = None


def parse_validation_sets(texts: Sequence[str]) -> list[ValidationSet]:
    """Read validation sets from NAME=ROOT or NAME=DATABASE,QUERIES, with an optional `frames:N`, `metres:X` or `layout:LAYOUT`.

    Raises:
        ValueError: If a text has another form, or two sets have the same name.
    """
    sets = [_parse_validation_set(text) for text in texts]
    names = [each.name for each in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two validation sets have the name {twice[0]}. Give each of them another one.")
    return sets


def _parse_validation_set(text: str) -> ValidationSet:
    name, _, rest = text.partition("=")
    paths, suffix = rest.split(","), None
    if len(paths) == 3 or _SUFFIX.fullmatch(paths[-1]):
        suffix = paths.pop()
    if not _SET_NAME.fullmatch(name) or len(paths) not in (1, 2) or not all(paths):
        raise ValueError(
            f"validation_sets are {_SET_FORM}, with letters, digits, `_`, `-` and `.` in the name and no comma in paths; got "
            f"{text!r}."
        )
    paths = [str(Path(path).expanduser()) for path in paths]  # shells expand `~` at the beginning only
    photos = ValidationSet(name, root=paths[0]) if len(paths) == 1 else ValidationSet(name, paths[0], paths[1])
    if suffix is None:
        return photos
    kind, _, value = suffix.partition(":")
    if kind == "frames" and value.isdecimal():
        return replace(photos, frame_tolerance=int(value))
    if kind == "metres" and 0 < _to_number(value) < math.inf:
        return replace(photos, metres=float(value))
    if kind == "layout" and value and photos.root is not None:
        return replace(photos, layout=value)
    raise ValueError(f"validation_sets are {_SET_FORM}, such as frames:2 or metres:10; got {suffix!r} in {text!r}.")


def parse_size(text: str) -> tuple[int, int]:
    """Return the height and width of a size: the side of a square such as `224`, or both numbers such as `224x280`.

    Raises:
        ValueError: If the text is something else.
    """
    sides = str(text).lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise ValueError(f"image_sizes are sides such as 224, or heights and widths such as 224x280, got {text!r}.")
    return int(sides[0]), int(sides[-1])


def parse_weights(texts: Sequence[str], sources: Sequence[str]) -> list[float]:
    """Read the weight of each source from SOURCE=WEIGHT; sources that are not named have weight 1.

    Args:
        texts: The weights. A source is named as in its option, or by the last part of its path if no other source has the same.
        sources: Names of all sources.

    Raises:
        ValueError: If a text has another form, names no source or several, or a source is named twice.
    """
    weights: dict[int, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        weight = _to_number(number)
        if not name or not 0 < weight < math.inf:
            raise ValueError(f"weights are SOURCE=WEIGHT with a weight above 0, such as {sources[0]}=2, got {text!r}.")
        position = _find_source(name, sources)
        if position in weights:
            raise ValueError(f"weights names {sources[position]} twice. Name each source once.")
        weights[position] = weight
    return [weights.get(position, 1.0) for position in range(len(sources))]


def _find_source(name: str, sources: Sequence[str]) -> int:
    """Return the position of a source by its whole name or by the last part of its path."""
    same = [position for position, source in enumerate(sources) if PurePath(source) == PurePath(name)]
    same = same or [position for position, source in enumerate(sources) if PurePath(source).name == name]
    if len(same) == 1:
        return same[0]
    problem = "is the name of several sources" if same else "is not a source of this run"
    raise ValueError(f"weights: {name} {problem}. The sources are {', '.join(sources)}.")


def _to_whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _to_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
