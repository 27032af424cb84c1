"""Results of an evaluation as objects, as a JSON report and as text."""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_type_hints

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf import __version__
from d2vpr_hf.evaluation.confidence import PrecisionCurve, precision_curve
from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule
from d2vpr_hf.evaluation.recall import bootstrap_interval, hits_at, recall_at, recall_with_positives
from d2vpr_hf.evaluation.sequence_rule import SequenceRule
from d2vpr_hf.utils.atomic_files import check_new_file, store_file, write_file
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.hub_ids import public_name
from d2vpr_hf.utils.value_types import check_types, wrong_keys

FORMAT = "d2vpr evaluation"
FORMAT_VERSION = 1
DROPPED = "equal to the database photo"
DISTANCE_SHARES = (5, 25, 100)  # metres

CoordinateKind = Literal["metres", "degrees", "metres of several frames"]


class _Photos(TypedDict):
    path: str | None
    count: int
    checksum: str


class _Remark(TypedDict):
    kind: str
    text: str
    count: int


class _DataSet(TypedDict):
    layout: str
    variant: str
    query_set: str
    remarks: NotRequired[list[_Remark]]
    replaced_rule: NotRequired[str | None]


class _Reranking(TypedDict):
    rerank: str
    rerank_top: int
    reranked: int
    comparisons: int


class _Sequences(TypedDict):
    length: int
    scores: str
    positives: str
    database_photos: int
    query_photos: int
    database_sequences: int
    query_sequences: int


class _Tables(TypedDict):
    """The values of a report's tables that its text and comparisons use."""

    database: _Photos
    query_set: _Photos
    remarks: dict[str, list[_Remark]]
    data_set: _DataSet | None
    reranking: _Reranking | None
    sequences: _Sequences | None


@dataclass(frozen=True)
class QueryResult:
    """The result of one query.

    Attributes:
        path: Path of the photo, relative to the folder of queries.
        place: Number of its place; queries of one place are resampled together.
        condition: Condition such as `"night"`, or `None`.
        position: Two or three coordinates in metres, or latitude and longitude in degrees, or `None`.
        num_positives: Number of its positives in the database.
        first_positive_rank: Rank of the first correct match; `None` if no match up to the largest N is correct.
        top_match: Path of the most similar database photo.
        top_match_position: The same for the top match.
        similarity: Cosine similarity of query and top match.
        distance: Metres between query and top match; `None` without positions, or if they are in two local frames.
        correct: Whether the top match is a positive; `right` in reports.
        part: The part of the data set whose database was searched, such as a city; `None` without parts.
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
    correct: bool
    part: str | None = None

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "QueryResult":
        """Make a result from the row of a report. Raises ValueError if a value has a wrong type."""
        result = cls(**{"correct" if key == "right" else key: value for key, value in row.items()})
        check_types(result)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the row of a report."""
        values = {"right" if key == "correct" else key: value for key, value in asdict(self).items()}
        return values if self.part is not None else {key: value for key, value in values.items() if key != "part"}


@dataclass(frozen=True)
class Predictions:
    """Search results needed for plots; not stored in the report.

    Attributes:
        rows: (Q, k) database rows, the nearest first.
        similarities: (Q, k) cosine similarities of these rows.
        correct: (Q, k) whether each row is a positive.
        database, queries: The photos.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    correct: NDArray[np.bool_]
    database: PhotoSet
    queries: PhotoSet


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation. All metrics are computed from `queries`, so [`load`] restores everything but predictions.

    Attributes:
        rule: The rule of positives.
        recall_values: The N of recall@N.
        queries: One result for each query.
        database: `path`, `count` and `checksum` of the database; `path` is `None` if descriptors were given. `dataset` and
            `revision` are the Hub id and the commit of a data set in the Hub's cache. `model` is that of the database, if it is
            another one than that of the queries.
        query_set: The same for the queries.
        model: The encoder that made the descriptors; only its `descriptor_dim` if descriptors were given.
        order_seed: Seed of the order in which photos were encoded; `None` for the order of the files.
        skipped: Reasons why photos were skipped, by path, for `"database"` and `"queries"`.
        remarks: Lines about values that were corrected or assumed, and about skipped files, as dictionaries, for
            `"database"` and `"queries"`.
        shared_photos: Number of queries whose file is equal to one of the database, dropped ones included; `None` if unknown.
        coordinates: Form of positions: `"metres"` in one plane, `"degrees"` (latitude and longitude, with distances on the
            sphere), or `"metres of several frames"`.
        package_version: Version of the package that made the evaluation.
        shuffled: The evaluation with the photos in a random order, or `None`.
        data_set: `layout`, `variant` with its counts, `query_set`, `remarks` of the reader, `replaced_rule` if
            another rule was chosen and, of a data set in parts, the size of each part's database; `None` if no data set was
            given.
        given_positives: Source of given positives; `rule` then only groups queries into places. `None` if the rule decides.
        reranking: Options of re-ranking, and the numbers of queries `reranked` and of `comparisons`; `None` without it.
        sequences: `length`, `scores` and `positives` of sequences, and the numbers of photos and sequences of both sides;
            `None` for single photos. Rows and counts are then those of sequences, by the names of their centre photos.
        predictions: Search results for plots; `None` after loading.
    """

    rule: PositiveRule
    recall_values: tuple[int, ...]
    queries: list[QueryResult]
    database: dict[str, Any]
    query_set: dict[str, Any]
    model: EncoderInfo
    order_seed: int | None = None
    skipped: dict[str, dict[str, str]] = field(default_factory=lambda: {"database": {}, "queries": {}})
    remarks: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"database": [], "queries": []})
    shared_photos: int | None = None
    coordinates: CoordinateKind = "metres"
    package_version: str = __version__
    shuffled: "Evaluation | None" = None
    data_set: dict[str, Any] | None = None
    given_positives: str | None = None
    reranking: dict[str, Any] | None = None
    sequences: dict[str, Any] | None = None
    predictions: Predictions | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Rank of each query's first positive (Q,); 0 for none."""
        return np.array([query.first_positive_rank or 0 for query in self.queries], np.int64)

    @functools.cached_property
    def num_positives(self) -> NDArray[np.int64]:
        """The number of each query's positives (Q,)."""
        return np.array([query.num_positives for query in self.queries], np.int64)

    @functools.cached_property
    def places(self) -> NDArray[np.int64]:
        """The number of each query's place (Q,)."""
        return np.array([query.place for query in self.queries], np.int64)

    @property
    def database_model(self) -> EncoderInfo | None:
        """The encoder of the database, if it is another one than `model`, which is then that of the queries."""
        values = self.database.get("model")
        return None if values is None else EncoderInfo.from_dict(values)

    @property
    def num_without_positives(self) -> int:
        """The number of queries without a positive in the database; they count as misses."""
        return int((self.num_positives == 0).sum())

    @property
    def criterion(self) -> str:
        """The rule of correct matches as text, or the source of given positives."""
        return str(self.rule) if self.given_positives is None else f"as {self.given_positives} states"

    @property
    def dataset(self) -> tuple[str, str] | None:
        """Hub id and commit of the data set that database and queries are of; `None` if they are not of one on the Hub."""
        keys = ("dataset", "revision")
        sides = {tuple(side.get(key) for key in keys) for side in (self.database, self.query_set)}
        dataset, revision = next(iter(sides))
        return None if len(sides) > 1 or dataset is None or revision is None else (dataset, revision)

    def recall(self) -> dict[str, dict[str, Any]]:
        """Return `recall@N` for each N: `recall`, `interval_95` ([low, high] or `None`) and `recall_with_positives`."""
        recalls = recall_at(self.ranks, self.recall_values)
        recalls_with_positives = recall_with_positives(self.ranks, self.num_positives, self.recall_values)
        return {
            f"recall@{n}": {
                "recall": float(recalls[i]),
                "interval_95": None if self._interval is None else self._interval[:, i].tolist(),
                "recall_with_positives": _nan_to_none(recalls_with_positives[i]),
            }
            for i, n in enumerate(self.recall_values)
        }

    @functools.cached_property
    def _interval(self) -> NDArray[np.float64] | None:
        return bootstrap_interval(hits_at(self.ranks, self.recall_values), self.places)

    def distance_error(self) -> dict[str, Any] | None:
        """Return the `median` distance of top matches in metres and the shares `within_5_m`, ...; `None` without positions.

        A top match in another local frame is farther than every distance; the median is `None` if half of them are.
        """
        positioned = [query for query in self.queries if query.position is not None]
        distances = np.array([math.inf if query.distance is None else query.distance for query in positioned])
        if not len(distances):
            return None
        shares = {f"within_{metres}_m": float((distances <= metres).mean()) for metres in DISTANCE_SHARES}
        median = float(np.median(distances))
        return {"median": median if math.isfinite(median) else None} | shares

    @functools.cached_property
    def precision_curve(self) -> PrecisionCurve:
        """Precision, coverage and recall over the threshold on the top match's similarity."""
        similarities = np.array([query.similarity for query in self.queries], np.float32)
        correct = np.array([query.correct for query in self.queries], bool)
        return precision_curve(similarities, correct, len(self.queries) - self.num_without_positives)

    def conditions(self) -> list[dict[str, Any]]:
        """Return `condition`, `count` and `recall@N` of each condition, sorted by name; empty if no query has a condition."""
        names = np.array([query.condition or "" for query in self.queries])
        if not names.any():
            return []
        groups = [(name, self.ranks[names == name]) for name in sorted(set(names.tolist()))]
        return [
            {"condition": name or None, "count": len(ranks)}
            | {
                f"recall@{n}": float(value)
                for n, value in zip(self.recall_values, recall_at(ranks, self.recall_values), strict=True)
            }
            for name, ranks in groups
        ]

    def parts(self) -> list[dict[str, Any]]:
        """Return `part`, `queries`, `database` (numbers of photos) and `recall@N` of each part of a data set, in their order.

        Empty without parts.
        """
        sizes = (self.data_set or {}).get("parts", [])
        names = np.array([query.part or "" for query in self.queries])
        rows = []
        for size in sizes:
            ranks = self.ranks[names == size["part"]]
            recalls = zip(self.recall_values, recall_at(ranks, self.recall_values), strict=True)
            counts = {"part": size["part"], "queries": len(ranks), "database": size["database"]}
            rows.append(counts | {f"recall@{n}": _nan_to_none(value) for n, value in recalls})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the report that [`save`] writes; docs/evaluation.md explains its keys."""
        given = {} if self.given_positives is None else {"given": self.given_positives}
        data_set = {} if self.data_set is None else {"data_set": self.data_set, "parts": self.parts()}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package_version": self.package_version,
            **data_set,
            **({} if self.reranking is None else {"reranking": self.reranking}),
            **({} if self.sequences is None else {"sequences": self.sequences}),
            "model": self.model.to_dict(),
            "database": self.database,
            "query_set": self.query_set,
            "positives": self.rule.to_dict() | given,
            "order_seed": self.order_seed,
            "recall_values": list(self.recall_values),
            "num_places": len(set(self.places.tolist())),
            "num_without_positives": self.num_without_positives,
            "recall": self.recall(),
            "distance_error": self.distance_error(),
            "auc_pr": _nan_to_none(self.precision_curve.auc_pr),
            "recall_at_100_precision": _nan_to_none(self.precision_curve.recall_at_100_precision),
            "conditions": self.conditions(),
            "skipped": self.skipped,
            "remarks": self.remarks,
            "shared_photos": self.shared_photos,
            "coordinates": self.coordinates,
            "shuffled": None if self.shuffled is None else self.shuffled.to_dict(),
            "queries": [query.to_dict() for query in self.queries],
        }

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the report as JSON; equal evaluations give equal bytes. Errors are those of [`check_new_file`]."""
        path = Path(path)
        check_new_file(path, overwrite)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        store_file(path, lambda scratch: write_file(scratch, text))

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Load an evaluation from a report.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not a report, is damaged, or has another format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"The report {path} does not exist. `d2vpr evaluate --json` writes one.")
        try:
            report = parse_json(path.read_text(encoding="utf-8"))
            version = report["format_version"] if report["format"] == FORMAT else None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a report of an evaluation. `d2vpr evaluate --json` writes one.") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format {version}, this package reads {FORMAT!r} {FORMAT_VERSION}. Evaluate again.")
        try:
            return cls.from_dict(report)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}). Evaluate again.") from error

    @classmethod
    def from_dict(cls, report: dict[str, Any]) -> "Evaluation":
        """Make an evaluation from the values of [`to_dict`]. Raises ValueError if a value has a wrong type."""
        positives = dict(report["positives"])
        evaluation = cls(
            given_positives=positives.pop("given", None),
            rule=PositiveRule(**positives),
            recall_values=tuple(report["recall_values"]),
            queries=[QueryResult.from_dict(row) for row in report["queries"]],
            model=EncoderInfo.from_dict(report["model"]),
            shuffled=None if report["shuffled"] is None else cls.from_dict(report["shuffled"]),
            **{name: report[name] for name in _PLAIN_FIELDS},
            **{name: report[name] for name in _LATER_FIELDS if name in report},
        )
        check_types(evaluation)
        wrong = wrong_keys({key: getattr(evaluation, key) for key in get_type_hints(_Tables)}, _Tables)
        if wrong:
            raise ValueError(f"{', '.join(wrong)} with values that are missing or of a wrong type")
        numbers = evaluation.recall_values
        if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
            raise ValueError(f"recall_values must be different numbers from 1, got {numbers}")
        return evaluation

    def to_text(self) -> str:
        """Return the table that `d2vpr evaluate` prints."""
        return "\n".join(_lines(self))


_PLAIN_FIELDS = ("database", "query_set", "order_seed", "skipped", "package_version")
_LATER_FIELDS = (
    "remarks",
    "shared_photos",
    "coordinates",
    "data_set",
    "reranking",
    "sequences",
)  # added after format 1 shipped


def without_folders(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation of a model for its own card: folders have their names, and no paths on this machine."""
    database, query_set = ({**side, "path": public_name(side["path"])} for side in (evaluation.database, evaluation.query_set))
    return replace(evaluation, model=replace(evaluation.model, model_name="this model"), database=database, query_set=query_set)


def summary_lines(evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    """Yield the lines of a table with the recalls of several query sets, by their names."""
    first = next(iter(evaluations.values()))
    rows = [["query set", "queries", *(f"R@{n}" for n in first.recall_values)]]
    for name, evaluation in evaluations.items():
        recalls = (percent(entry["recall"]) for entry in evaluation.recall().values())
        rows.append([name, str(len(evaluation.queries)), *recalls])
    yield from align(rows)


def align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table's lines, with the first column aligned to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def percent(share: float | None) -> str:
    """Return a share in percent, such as 91.7 for 0.917; a dash for None and NaN."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def percent_interval(interval: Iterable[float] | None) -> str:
    """Return an interval of shares in percent; a dash for None."""
    return "-" if interval is None else " to ".join(map(percent, interval))


def _lines(evaluation: Evaluation) -> Iterator[str]:
    yield from _setup_lines(evaluation)
    yield ""
    yield from align(_recall_rows(evaluation))
    yield ""
    yield from _distance_and_confidence_lines(evaluation)
    for name, groups in (("condition", evaluation.conditions()), ("part", evaluation.parts())):
        if groups:
            yield ""
            yield from align(_group_rows(name, groups, evaluation.recall_values))
    if evaluation.shuffled is not None:
        yield ""
        yield from _shuffle_lines(evaluation, evaluation.shuffled)


def _setup_lines(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.data_set is not None:
        yield "data set:  {variant} (layout {layout}), query set {query_set}".format(**evaluation.data_set)
    for name, side in (("database", evaluation.database), ("queries", evaluation.query_set)):
        unit = "photos" if evaluation.sequences is None else "sequences"
        yield f"{name + ':':10} {side['count']} {unit}{'' if side['path'] is None else ' of ' + side['path']}"
    if evaluation.sequences is not None:
        yield _sequence_line(evaluation.sequences)
    yield f"model:     {evaluation.model}"
    if evaluation.database_model is not None:
        yield f"of the database: {evaluation.database_model}"
    if evaluation.reranking is not None:
        yield (
            "re-ranked: {reranked} of {queries} queries by regions (rerank {rerank}), {comparisons} comparisons, of the first "
            "{rerank_top} matches at most".format(queries=len(evaluation.queries), **evaluation.reranking)
        )
    missed, num_places = evaluation.num_without_positives, len(set(evaluation.places.tolist()))
    where = " on the sphere" if evaluation.coordinates == "degrees" else ""
    positives = f"{evaluation.rule}{where}" if evaluation.given_positives is None else f"given by {evaluation.given_positives}"
    if replaced := (evaluation.data_set or {}).get("replaced_rule"):
        positives += f", instead of {replaced}"
    yield f"positives: {positives}; {missed} queries have none and count as misses; {num_places} places"
    if evaluation.shared_photos:
        dropped = any(reason.startswith(DROPPED) for reason in evaluation.skipped["queries"].values())
        treatment = "and are dropped" if dropped else "and recall is too high"
        yield f"shared:    {evaluation.shared_photos} queries are photos of the database too {treatment}"
    for remark in (evaluation.data_set or {}).get("remarks", []):
        yield f"{remark['kind'] + ':':10} {remark['count']} {remark['text']}"
    for name in ("database", "queries"):
        skipped = [item for item in evaluation.skipped.get(name, {}).items() if not item[1].startswith(DROPPED)]
        if skipped:
            yield f"skipped:   {len(skipped)} photos of the {name}, such as {': '.join(skipped[0])}"
        for remark in evaluation.remarks.get(name, []):
            yield f"{remark['kind'] + ':':10} {remark['count']} {remark['text']} ({name})"


def _sequence_line(sequences: Mapping[str, Any]) -> str:
    """Return the definition of the sequences of an evaluation."""
    rule = SequenceRule(sequences["length"], sequences["scores"], sequences["positives"])
    return f"sequences: {rule}; of {sequences['database_photos']} and {sequences['query_photos']} photos"


def _recall_rows(evaluation: Evaluation) -> list[list[str]]:
    recalls = evaluation.recall().values()
    return [
        ["", *(f"R@{n}" for n in evaluation.recall_values)],
        ["all queries", *(percent(entry["recall"]) for entry in recalls)],
        ["95 % interval over places", *(percent_interval(entry["interval_95"]) for entry in recalls)],
        ["queries with a positive", *(percent(entry["recall_with_positives"]) for entry in recalls)],
    ]


def _distance_and_confidence_lines(evaluation: Evaluation) -> Iterator[str]:
    error, curve = evaluation.distance_error(), evaluation.precision_curve
    if error is not None:
        shares = ", ".join(f"{percent(error[f'within_{metres}_m'])} % within {metres} m" for metres in DISTANCE_SHARES)
        median = "unknown (in another frame)" if error["median"] is None else f"{error['median']:,.1f} m"
        yield f"top match: median distance {median}, {shares}"
    yield f"confidence: recall at 100 % precision {percent(curve.recall_at_100_precision)}, AUC-PR {percent(curve.auc_pr)}"


def _group_rows(name: str, groups: list[dict[str, Any]], recall_values: tuple[int, ...]) -> list[list[str]]:
    """Return the table of conditions or parts."""
    recalls = [f"recall@{n}" for n in recall_values]
    counts = [key for key in groups[0] if key != name and key not in recalls]
    header = [name, *("queries" if key == "count" else key for key in counts), *(f"R@{n}" for n in recall_values)]
    rows = (
        [entry[name] or "none", *(str(entry[key]) for key in counts), *(percent(entry[recall]) for recall in recalls)]
        for entry in groups
    )
    return [header, *rows]


def _shuffle_lines(evaluation: Evaluation, shuffled: Evaluation) -> Iterator[str]:
    recalls = zip(evaluation.recall().items(), shuffled.recall().values(), strict=True)
    pairs = (
        f"{name} {percent(entry['recall'])} -> {percent(shuffled_entry['recall'])}" for (name, entry), shuffled_entry in recalls
    )
    queries = zip(evaluation.queries, shuffled.queries, strict=True)
    changed = sum(query.top_match != shuffled_query.top_match for query, shuffled_query in queries)
    yield f"shuffled (seed {shuffled.order_seed}): {', '.join(pairs)}; another top match for {changed} queries"


def _nan_to_none(value: float | np.floating) -> float | None:
    """Convert a number for JSON, which does not have NaN."""
    return None if math.isnan(value) else float(value)
