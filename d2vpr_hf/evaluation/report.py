"""What an evaluation found, as objects, as JSON and as text."""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf import __version__
from d2vpr_hf.evaluation.confidence import PrecisionCurve, precision_curve
from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule
from d2vpr_hf.evaluation.recall import bootstrap_interval, hits_at, recall_at, recall_with_positives
from d2vpr_hf.utils.atomic_files import check_writable, store_file

FORMAT = "d2vpr evaluation"
FORMAT_VERSION = 1
DISTANCE_SHARES = (5, 25, 100)  # metres


@dataclass(frozen=True)
class QueryResult:
    """How one query fared.

    Attributes:
        path: The photo, relative to the folder of queries.
        place: Number of the place it belongs to; queries of one place are resampled together.
        condition: What it was taken in, or `None`.
        position: Metres, two or three, or `None`.
        num_positives: Number of database photos that would be right.
        first_positive_rank: Rank of the first right match; `None` if none of those looked at is.
        top_match: The most similar database photo.
        top_match_position: Its metres, or `None`.
        similarity: Cosine similarity to it.
        distance: Metres to it, or `None`.
        right: Whether it is a positive.
    """

    path: str
    place: int
    condition: str | None
    position: list[float] | None
    num_positives: int
    first_positive_rank: int | None
    top_match: str
    top_match_position: list[float] | None
    similarity: float
    distance: float | None
    right: bool


@dataclass(frozen=True)
class Predictions:
    """What only the run that searched knows, and grids and maps of matches draw.

    Attributes:
        rows: (Q, k) database rows, the nearest first.
        similarities: (Q, k) of them.
        right: (Q, k) whether each is a positive.
        database, queries: The photos.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    right: NDArray[np.bool_]
    database: PhotoSet
    queries: PhotoSet


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation. Every number follows from `queries`; [`load`] therefore reads back all but predictions.

    Attributes:
        rule: What made a match right.
        recall_values: The N of recall@N.
        queries: One result a query.
        database: `path`, `count`, `checksum` of the database; `path` is `None` where descriptors were given.
        query_set: The same of the queries.
        model: The encoder that made the descriptors; only its `descriptor_dim` if descriptors were given.
        order_seed: Seed of the order in which the network saw the photos; `None` for the order of the files.
        skipped: Photos left out and why, by path, of `"database"` and `"queries"`.
        package_version: The version that made it.
        shuffled: The same evaluation with the photos in another order, if asked for.
        predictions: What plots of matches need; `None` after loading.
    """

    rule: PositiveRule
    recall_values: tuple[int, ...]
    queries: list[QueryResult]
    database: dict[str, Any]
    query_set: dict[str, Any]
    model: EncoderInfo
    order_seed: int | None = None
    skipped: dict[str, dict[str, str]] = field(default_factory=lambda: {"database": {}, "queries": {}})
    package_version: str = __version__
    shuffled: "Evaluation | None" = None
    predictions: Predictions | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Rank of each query's first positive (Q,), 0 for none."""
        return np.array([query.first_positive_rank or 0 for query in self.queries], np.int64)

    @functools.cached_property
    def num_positives(self) -> NDArray[np.int64]:
        """Number of each query's positives (Q,)."""
        return np.array([query.num_positives for query in self.queries], np.int64)

    @functools.cached_property
    def places(self) -> NDArray[np.int64]:
        """Number of each query's place (Q,)."""
        return np.array([query.place for query in self.queries], np.int64)

    @property
    def num_without_positives(self) -> int:
        """Number of queries that nothing in the database is right for; they count as misses."""
        return int((self.num_positives == 0).sum())

    def recall(self) -> dict[str, dict[str, Any]]:
        """Return `recall@N` for each N: `recall`, `interval_95` ([low, high] or `None`) and `recall_with_positives`."""
        recalls = recall_at(self.ranks, self.recall_values)
        narrow = recall_with_positives(self.ranks, self.num_positives, self.recall_values)
        return {
            f"recall@{n}": {
                "recall": float(recalls[i]),
                "interval_95": None if self._interval is None else self._interval[:, i].tolist(),
                "recall_with_positives": _number(narrow[i]),
            }
            for i, n in enumerate(self.recall_values)
        }

    @functools.cached_property
    def _interval(self) -> NDArray[np.float64] | None:
        return bootstrap_interval(hits_at(self.ranks, self.recall_values), self.places)

    def distance_error(self) -> dict[str, Any] | None:
        """Return the `median` metres to top matches, and the shares `within_5_m` and so on; `None` without positions."""
        distances = np.array([query.distance for query in self.queries if query.distance is not None])
        if not len(distances):
            return None
        shares = {f"within_{metres}_m": float((distances <= metres).mean()) for metres in DISTANCE_SHARES}
        return {"median": float(np.median(distances))} | shares

    @functools.cached_property
    def precision_curve(self) -> PrecisionCurve:
        """Precision, coverage and recall over the threshold on the top match's similarity."""
        similarities = np.array([query.similarity for query in self.queries], np.float32)
        right = np.array([query.right for query in self.queries], bool)
        return precision_curve(similarities, right, len(self.queries) - self.num_without_positives)

    def conditions(self) -> list[dict[str, Any]]:
        """Return `condition`, `count` and `recall@N` of each condition, in order of name; nothing if no query has one."""
        names = np.array([query.condition or "" for query in self.queries])
        if not names.any():
            return []
        groups = [(name, self.ranks[names == name]) for name in sorted(set(names.tolist()))]
        return [
            {"condition": name or None, "count": len(ranks)}
            | {f"recall@{n}": float(value) for n, value in zip(self.recall_values, self._recall_of(ranks), strict=True)}
            for name, ranks in groups
        ]

    def _recall_of(self, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        return recall_at(ranks, self.recall_values)

    def to_dict(self) -> dict[str, Any]:
        """Return the report: what [`save`] writes and docs/evaluation.md explains."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package_version": self.package_version,
            "model": self.model.to_dict(),
            "database": self.database,
            "query_set": self.query_set,
            "positives": self.rule.to_dict(),
            "order_seed": self.order_seed,
            "recall_values": list(self.recall_values),
            "num_places": len(set(self.places.tolist())),
            "num_without_positives": self.num_without_positives,
            "recall": self.recall(),
            "distance_error": self.distance_error(),
            "auc_pr": _number(self.precision_curve.auc_pr),
            "recall_at_100_precision": _number(self.precision_curve.recall_at_100_precision),
            "conditions": self.conditions(),
            "skipped": self.skipped,
            "shuffled": None if self.shuffled is None else self.shuffled.to_dict(),
            "queries": [asdict(query) for query in self.queries],
        }

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the report as JSON; the same evaluation gives the same bytes. Raises as [`check_report_file`] does."""
        path = Path(path)
        check_report_file(path, overwrite)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        store_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read a report back.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no report, or of a newer format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no report {path}. `d2vpr evaluate --json` writes one.")
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            version = report["format_version"] if report["format"] == FORMAT else None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no report of an evaluation. `d2vpr evaluate --json` writes one.") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format {version}, this package reads {FORMAT!r} {FORMAT_VERSION}. Evaluate anew.")
        return cls._from_checked(report, path)

    @classmethod
    def _from_checked(cls, report: dict[str, Any], path: Path) -> "Evaluation":
        try:
            return cls.from_dict(report)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}). Evaluate anew.") from error

    @classmethod
    def from_dict(cls, report: dict[str, Any]) -> "Evaluation":
        """Make an evaluation of what [`to_dict`] returned."""
        return cls(
            rule=PositiveRule(**report["positives"]),
            recall_values=tuple(report["recall_values"]),
            queries=[QueryResult(**row) for row in report["queries"]],
            model=EncoderInfo.from_dict(report["model"]),
            shuffled=None if report["shuffled"] is None else cls.from_dict(report["shuffled"]),
            **{name: report[name] for name in _PLAIN_FIELDS},
        )

    def to_text(self) -> str:
        """Return the table that `d2vpr evaluate` prints."""
        return "\n".join(_lines(self))


_PLAIN_FIELDS = ("database", "query_set", "order_seed", "skipped", "package_version")


def check_report_file(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError if a report must not be written there, NotADirectoryError or PermissionError if it cannot."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; give a file for the report.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already. Give another file, or `--overwrite` to replace it.")
    check_writable(path)


def align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table's lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def percent(share: float | None) -> str:
    """Write a share as the field does: 0.917 is 91.7; a dash where it is not defined (None or NaN)."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def percent_interval(interval: Iterable[float] | None) -> str:
    """Write an interval of shares; a dash where there are too few places for one."""
    return "-" if interval is None else " to ".join(map(percent, interval))


def _lines(evaluation: Evaluation) -> Iterator[str]:
    yield from _setup_lines(evaluation)
    yield ""
    yield from align(_recall_rows(evaluation))
    yield ""
    yield from _trust_lines(evaluation)
    if conditions := evaluation.conditions():
        yield ""
        yield from align(_condition_rows(conditions, evaluation.recall_values))
    if evaluation.shuffled is not None:
        yield ""
        yield from _shuffle_lines(evaluation, evaluation.shuffled)


def _setup_lines(evaluation: Evaluation) -> Iterator[str]:
    for name, side in (("database", evaluation.database), ("queries", evaluation.query_set)):
        yield f"{name + ':':10} {side['count']} photos{'' if side['path'] is None else ' of ' + side['path']}"
    yield f"model:     {evaluation.model}"
    without, places = evaluation.num_without_positives, len(set(evaluation.places.tolist()))
    yield f"positives: {evaluation.rule}; {without} queries have none and count as misses; {places} places"


def _recall_rows(evaluation: Evaluation) -> list[list[str]]:
    recalls = evaluation.recall().values()
    return [
        ["", *(f"R@{n}" for n in evaluation.recall_values)],
        ["all queries", *(percent(entry["recall"]) for entry in recalls)],
        ["95 % interval over places", *(percent_interval(entry["interval_95"]) for entry in recalls)],
        ["queries with a positive", *(percent(entry["recall_with_positives"]) for entry in recalls)],
    ]


def _trust_lines(evaluation: Evaluation) -> Iterator[str]:
    error, curve = evaluation.distance_error(), evaluation.precision_curve
    if error is not None:
        shares = ", ".join(f"{percent(error[f'within_{metres}_m'])} % within {metres} m" for metres in DISTANCE_SHARES)
        yield f"top match: median distance {error['median']:,.1f} m, {shares}"
    yield (f"confidence: recall at 100 % precision {percent(curve.recall_at_100_precision)}, AUC-PR {percent(curve.auc_pr)}")


def _condition_rows(conditions: list[dict[str, Any]], recall_values: tuple[int, ...]) -> list[list[str]]:
    header = ["condition", "queries", *(f"R@{n}" for n in recall_values)]
    return [
        header,
        *(
            [entry["condition"] or "none", str(entry["count"]), *(percent(entry[f"recall@{n}"]) for n in recall_values)]
            for entry in conditions
        ),
    ]


def _shuffle_lines(evaluation: Evaluation, shuffled: Evaluation) -> Iterator[str]:
    recalls = zip(evaluation.recall().items(), shuffled.recall().values(), strict=True)
    pairs = (f"{name} {percent(one['recall'])} -> {percent(other['recall'])}" for (name, one), other in recalls)
    changed = sum(one.top_match != other.top_match for one, other in zip(evaluation.queries, shuffled.queries, strict=True))
    yield f"shuffled (seed {shuffled.order_seed}): {', '.join(pairs)}; another top match for {changed} queries"


def _number(value: float | np.floating) -> float | None:
    """Turn NaN, which JSON does not have, into None."""
    return None if math.isnan(value) else float(value)
