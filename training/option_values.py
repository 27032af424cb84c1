"""Options that are texts with parts: weights of sources, and sets for validation."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

_SET_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SET_FORM = "NAME=DATABASE,QUERIES, optionally followed by ,frames:N or ,metres:X"


@dataclass(frozen=True)
class ValidationSet:
    """Photos with positions that validation searches in, and photos that it searches for.

    Attributes:
        name: Name of the set, which the names of its metrics begin with.
        database: Folder or table of the database.
        queries: Folder or table of the queries.
        frame_tolerance: Largest difference of the frame numbers of a correct match; `None` if metres decide.
        metres: Largest distance of a correct match; `None` for evaluation's usual one.
    """

    name: str
    database: str
    queries: str
    frame_tolerance: int | None = None
    metres: float | None = None


def parse_validation_sets(texts: Sequence[str]) -> list[ValidationSet]:
    """Read validation sets from NAME=DATABASE,QUERIES with an optional rule, `frames:N` or `metres:X`.

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
    paths, rule = rest.split(","), ""
    if len(paths) == 3:
        rule = paths.pop()
    if not _SET_NAME.fullmatch(name) or len(paths) != 2 or not all(paths):
        raise ValueError(
            f"validation_sets are {_SET_FORM}, with letters, digits, `_`, `-` and `.` in the name and no comma in paths; got "
            f"{text!r}."
        )
    database, queries = (str(Path(path).expanduser()) for path in paths)  # shells expand `~` at the beginning only
    kind, _, number = rule.partition(":")
    if not rule:
        return ValidationSet(name, database, queries)
    if kind == "frames" and number.isdecimal():
        return ValidationSet(name, database, queries, frame_tolerance=int(number))
    if kind == "metres" and 0 < _to_number(number) < math.inf:
        return ValidationSet(name, database, queries, metres=float(number))
    raise ValueError(f"validation_sets are {_SET_FORM}, such as frames:2 or metres:10; got {rule!r} in {text!r}.")


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


def _to_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
