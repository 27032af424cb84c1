"""The evaluation of one database with all its query sets: each photo is encoded once."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import EncodedPhotos, Encoder, Progress, encode_queries
from d2vpr_hf.evaluation.descriptor_evaluation import Matches, evaluate_descriptors, nearest_rows
from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.indexed_photos import IndexColumns, IndexedPhotos
from d2vpr_hf.evaluation.photo_selection import PhotoSelection, PhotoTable, select_photos
from d2vpr_hf.evaluation.positives import PositiveRule, Positives
from d2vpr_hf.evaluation.report import DROPPED, Evaluation
from d2vpr_hf.evaluation.sequence_rule import SequenceRule
from d2vpr_hf.evaluation.sequence_windows import WindowDescriptors, WindowPositives, describe_sequences, find_windows
from d2vpr_hf.hub.snapshots import find_dataset
from d2vpr_hf.index import SHARD_SIZE, PlaceIndex
from d2vpr_hf.places.place_columns import PlaceColumns
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.readers.data_sets import QuerySet
from d2vpr_hf.readers.data_sets.data_set import select_rows
from d2vpr_hf.readers.place_table import check_any_photo
from d2vpr_hf.readers.remarks import Remark, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.reranking.open_reranker import check_regions, holds_regions, make_reranker
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.reranking.region_sources import EncodedRegions, RegionSource, StoredRegions
from d2vpr_hf.reranking.reranker import FindUnsure
from d2vpr_hf.retrieval.compatibility import index_settings
from d2vpr_hf.retrieval.shared_photos import find_indexed_photos, find_shared_photos, warn_of_shared_photos
from d2vpr_hf.stores.descriptors import Descriptors, SelectedDescriptors
from d2vpr_hf.stores.exact import QUERY_GROUP, similarity

logger = logging.getLogger(__name__)

_JOINED_QUERIES = 4 * QUERY_GROUP  # of several query sets that are searched together
_REMEDY = "Give other queries, or `drop_shared=True` to leave them out."


@dataclass(frozen=True)
class Choices:
    """Choices for an evaluation.

    Attributes:
        rule: The rule of positives.
        use_given_positives: Whether the positives of query sets that have some replace the rule.
        positives_source: Source of given positives, for reports.
        recall_values: The N of recall@N.
        drop_shared: Whether queries that are database photos too are dropped.
        strict: Whether a skipped photo is an error.
        reranking: Options of re-ranking; `None` keeps the order of similarity.
        sequence: Rule of sequences; `None` for single photos.
    """

    rule: PositiveRule
    use_given_positives: bool
    positives_source: str
    recall_values: tuple[int, ...]
    drop_shared: bool = False
    strict: bool = False
    reranking: Reranking | None = None
    sequence: SequenceRule | None = None


@dataclass(frozen=True)
class _Search:
    """A query set that is searched in the database.

    Attributes:
        database: The database photos that can be found; their rows are the same for all query sets of a kind.
        queries: The queries.
        positives: For each query of its table, the rows of its positives in the database's table; `None`: the rule decides.
        shared: Path of the equal database photo for each query that has one, by the query's path.
    """

    database: PhotoSelection
    queries: PhotoSelection
    positives: tuple[NDArray[np.int64], ...] | None
    shared: dict[str, str] = field(default_factory=dict)


class PartEvaluation:
    """A database with its query sets. The constructor selects the photos, and checks all that needs no encoder.

    Args:
        database: The database photos.
        query_sets: The query sets.
        choices: Choices for the evaluation.
        name: Name of the part; empty for the only one.

    Raises:
        FileNotFoundError: If none of the photos that a table lists exists.
        ValueError: If positions cannot be compared, or all queries are dropped.
    """

    def __init__(
        self, database: PlaceTable | IndexedPhotos, query_sets: Sequence[QuerySet], choices: Choices, name: str = ""
    ) -> None:
        self.name, self._choices = name, choices
        self._database, self._query_sets = database, query_sets
        if choices.reranking is not None and choices.reranking.mode == "unsure" and not isinstance(database, IndexedPhotos):
            raise ValueError(
                '`rerank="unsure"` needs the calibration of an index. Give an index as `database`, or `rerank="regions"` to '
                "re-rank all."
            )
        for table in (database, *(queries.table for queries in query_sets)):
            if isinstance(table, PlaceTable):
                check_any_photo(table)
        if choices.sequence is not None and choices.reranking is not None:
            raise ValueError("Re-ranking compares single photos. Omit `rerank` or `sequence_length`.")
        if isinstance(database, IndexedPhotos):
            columns: PlaceColumns = IndexColumns(database.places)
        else:
            columns = PlaceColumns(database.places)
        self.searches = [self._select(queries, columns) for queries in query_sets]
        self._report_remarks()
        self._find_shared()
        rows = [search.database.rows for search in self.searches]
        self.rows = rows[0] if all(len(each) == len(rows[0]) for each in rows) else np.unique(np.concatenate(rows))

    @property
    def num_photos(self) -> int:
        """The number of photos to encode."""
        count = 0 if isinstance(self._database, IndexedPhotos) else len(self.rows)
        return count + sum(len(search.queries.rows) for search in self.searches)

    @property
    def files(self) -> list[Path]:
        """The photos to encode."""
        database = [] if isinstance(self._database, IndexedPhotos) else self._files_of_rows(self.rows)
        return database + [file for search in self.searches for file in search.queries.files]

    def label(self, name: str) -> str:
        """Return the name of a side for messages and for folders in `save_descriptors`."""
        return f"{self.name}/{name}" if self.name else name

    def run(
        self,
        encoder: Encoder,
        seed: int | None,
        progress: Progress | None,
        save_to: Path | None,
        overwrite: bool,
        database_encoder: Encoder | None = None,
    ) -> list[Evaluation]:
        """Encode the photos and evaluate each query set.

        Args:
            encoder: The encoder.
            seed: Seed of a random order of the photos; `None` for their own order.
            progress: Called with the number of photos that were just encoded.
            save_to: Folder for an index of each side; `None` writes no indexes.
            overwrite: Whether to replace indexes.
            database_encoder: Encoder of the database, if it is another one.

        Raises:
            ValueError: If no photo of a side can be read, or queries with several descriptors each are to be saved.
        """
        if save_to is not None and getattr(encoder, "test_time", None) == "nearest-crop":
            raise ValueError(
                'An index has one descriptor of each photo, and `test_time="nearest-crop"` gives five of each query. Leave '
                "`save_descriptors` out, or take another form of queries."
            )
        if self._choices.sequence is not None and getattr(encoder, "test_time", None) == "nearest-crop":
            raise ValueError(
                'Sequences have one descriptor of each photo. Omit `test_time="nearest-crop"` or `sequence_length`.'
            )
        of_database = database_encoder or encoder
        database, unread, remarks = self._encode_database(of_database, seed, progress)
        new_rows = np.full(len(self._database.places), -1, np.int64)
        new_rows[self.rows[database.rows]] = np.arange(len(database.rows))
        if save_to is not None and not isinstance(self._database, IndexedPhotos):
            rows = self.rows[database.rows]
            self._save(self._database, rows, database.descriptors, of_database, save_to / "database", overwrite)
        info = EncoderInfo.of(encoder)
        evaluations: list[Evaluation] = []
        pending: list[_EncodedSearch] = []  # of few queries, which one pass over the database serves
        for search in self.searches:
            queries = self._encode_queries(search.queries, encoder, seed, progress)
            if save_to is not None:
                self._save(queries[0].table, queries[0].rows, queries[1], encoder, save_to / search.queries.name, overwrite)
            is_read = new_rows[search.database.rows] >= 0
            selection = search.database.keep_rows(np.flatnonzero(is_read), search.database.skipped | unread)
            selection = replace(selection, remarks=(*selection.remarks, *remarks))
            encoded = _EncodedSearch(search, selection, new_rows[selection.rows], *queries)
            if pending and not encoded.joins(pending):
                evaluations += self._evaluate(pending, database.descriptors, encoder, info, seed)
                pending = []
            pending.append(encoded)
        evaluations += self._evaluate(pending, database.descriptors, encoder, info, seed)
        return [self._with_database_model(evaluation, database_encoder) for evaluation in evaluations]

    def _with_database_model(self, evaluation: Evaluation, database_encoder: Encoder | None) -> Evaluation:
        """Add the model of the database to an evaluation, where it is another one than that of the queries."""
        info = None if database_encoder is None else EncoderInfo.of(database_encoder)
        if isinstance(self._database, IndexedPhotos):
            settings = self._database.index.settings
            if settings.fingerprint != evaluation.model.fingerprint:
                info = EncoderInfo(settings.model_name, settings.fingerprint, settings.descriptor_dim, settings.projection_dim)
        if info is None:
            return evaluation
        return replace(evaluation, database=evaluation.database | {"model": info.to_dict()})

    def _select(self, queries: QuerySet, columns: PlaceColumns) -> _Search:
        positives = queries.positives if self._choices.use_given_positives else None
        rule = self._choices.rule if positives is None else None
        database, selected = select_photos(self._database, queries.table, rule, columns=columns)
        return _Search(database, replace(selected, name=queries.name), positives)

    def _report_remarks(self) -> None:
        first = self.searches[0].database
        report_remarks((*first.table.remarks, *first.remarks), self._title("database"))
        for search in self.searches:
            report_remarks((*search.queries.table.remarks, *search.queries.remarks), self._title(search.queries.name))

    def _title(self, name: str) -> str:
        return self.label(name) if self.name else name.capitalize()

    def _find_shared(self) -> None:
        """Find the queries of all sets that are database photos too: drop them, or warn."""
        files = [search.queries.files for search in self.searches]
        all_files = [file for of_set in files for file in of_set]
        rows = self.searches[0].database.rows
        if isinstance(self._database, IndexedPhotos):
            skipped = self.searches[0].database.skipped
            indexed = find_indexed_photos(self._database.index, all_files)
            matches = {query: path for query, path in indexed.items() if path not in skipped}
        else:
            shared = find_shared_photos(self._files_of_rows(rows), all_files)
            matches = {query: self._database.places[int(rows[row])].path for query, row in shared.items()}
        start = 0
        for number, (search, of_set) in enumerate(zip(self.searches, files, strict=True)):
            of_row = {row: matches[start + row] for row in range(len(of_set)) if start + row in matches}
            start += len(of_set)
            paths = search.queries.photos.paths or ()
            shared_paths = {paths[row]: match for row, match in of_row.items()}
            queries = search.queries
            if self._choices.drop_shared:
                queries = _without_rows(queries, of_row)
            else:
                warn_of_shared_photos(list(shared_paths.items()), len(of_set), "photos of the database", "recall", _REMEDY)
            self.searches[number] = replace(search, queries=queries, shared=shared_paths)

    def _files_of_rows(self, rows: NDArray[np.int64]) -> list[Path]:
        return [self._database.photo(self._database.places[row]) for row in rows.tolist()]

    def _encode_database(
        self, encoder: Encoder, seed: int | None, progress: Progress | None
    ) -> tuple["_Encoded", dict[str, str], tuple[Remark, ...]]:
        """Return the descriptors of the database, and the photos of it that could not be read."""
        if isinstance(self._database, IndexedPhotos):
            if seed is None:
                self._report_skipped(self.searches[0].database, {}, ())
            descriptors: Descriptors = self._database.index.descriptors
            if len(self.rows) < len(descriptors):
                descriptors = SelectedDescriptors(descriptors, self.rows)
            return _Encoded(descriptors, np.arange(len(self.rows))), {}, ()
        places = [self._database.places[row] for row in self.rows.tolist()]
        files = self._files_of_rows(self.rows)
        encoded = self._encode(files, "database", self._database, encoder, seed, progress, is_database=True)
        remarks = encoded.remarks([place.path for place in places])
        unread = {places[row].path: reason for row, reason in encoded.skipped.items()}
        if seed is None:
            self._report_skipped(self.searches[0].database, unread, remarks)
        return _Encoded(encoded.descriptors, encoded.rows), unread, remarks

    def _encode_queries(
        self, queries: PhotoSelection, encoder: Encoder, seed: int | None, progress: Progress | None
    ) -> tuple[PhotoSelection, NDArray[Any]]:
        """Encode queries; those that cannot be read leave the selection."""
        encoded = self._encode(queries.files, queries.name, queries.table, encoder, seed, progress, is_database=False)
        paths = queries.photos.paths or ()
        remarks = encoded.remarks(paths)
        unread = {paths[row]: reason for row, reason in encoded.skipped.items()}
        if seed is None:
            self._report_skipped(queries, unread, remarks)
        kept = queries.keep_rows(encoded.rows, queries.skipped | unread)
        return replace(kept, remarks=(*kept.remarks, *remarks)), encoded.descriptors

    def _encode(
        self,
        files: list[Path],
        name: str,
        table: PhotoTable,
        encoder: Encoder,
        seed: int | None,
        progress: Progress | None,
        *,
        is_database: bool,
    ) -> EncodedPhotos:
        """Encode photos, in a random order if a seed is given."""
        order = None
        if seed is not None:  # the order depends on the name, because database and queries may correspond photo by photo
            order = np.random.default_rng([seed, *self.label(name).encode()]).permutation(len(files)).tolist()
        if is_database:
            encoded = encoder.encode(files, progress, order=order)
        else:
            encoded = encode_queries(encoder, files, progress, order=order)
        if not len(encoded.rows):
            raise ValueError(f"None of the {len(files)} photos in {table.folder} could be read.")
        return encoded

    def _report_skipped(self, selection: PhotoSelection, unread: Mapping[str, str], remarks: Sequence[Remark]) -> None:
        title, table = self._title(selection.name), selection.table
        report_remarks(remarks, title)
        report_skipped(selection.skipped | dict(unread), len(table.places) + len(table.skipped), self._choices.strict, title)

    def _save(
        self,
        table: PhotoTable,
        rows: NDArray[np.int64],
        descriptors: Descriptors,
        encoder: Encoder,
        out: Path,
        overwrite: bool,
    ) -> None:
        settings = replace(index_settings(encoder), photo_folder=table.folder.resolve())
        with PlaceIndex.create(out, settings, overwrite=overwrite) as index:
            for start in range(0, len(descriptors), SHARD_SIZE):  # a copy of all descriptors may not fit
                stop = start + SHARD_SIZE
                index.add(descriptors[start:stop], [table.places[row] for row in rows[start:stop].tolist()])

    def _evaluate(
        self,
        searches: list["_EncodedSearch"],
        descriptors: Descriptors,
        encoder: Encoder,
        info: EncoderInfo,
        seed: int | None,
    ) -> list[Evaluation]:
        """Search all queries in the descriptors of the database at once, and evaluate each query set."""
        rows = searches[0].rows
        database = SelectedDescriptors(descriptors, rows) if len(rows) < len(descriptors) else descriptors
        if self._choices.sequence is not None:
            return [self._evaluate_set(each, database, None, info, seed) for each in searches]
        all_queries = np.concatenate([each.descriptors for each in searches]) if len(searches) > 1 else searches[0].descriptors
        reranking = self._choices.reranking
        depth = max(self._choices.recall_values)
        count = depth if reranking is None else max(depth, reranking.num_searched)
        distances, neighbours = nearest_rows(database, all_queries, count)
        source = None if reranking is None else self._region_source(searches[0], database, encoder)
        evaluations, start = [], 0
        for each in searches:
            stop = start + len(each.descriptors)
            matches, facts = (distances[start:stop], neighbours[start:stop]), None
            if reranking is not None and source is not None:
                matches, facts = self._rerank(each, source, matches, encoder, reranking)
            matches = matches[0][:, :depth], matches[1][:, :depth]
            evaluations.append(replace(self._evaluate_set(each, database, matches, info, seed), reranking=facts))
            start = stop
        if source is not None:
            source.report()
        return evaluations

    def _region_source(self, encoded: "_EncodedSearch", database: Descriptors, encoder: Encoder) -> RegionSource:
        """Return the regions of the database, which all query sets share: a photo is encoded again for the first one only."""
        is_same = (
            not isinstance(self._database, IndexedPhotos) or self._database.index.settings.fingerprint == encoder.fingerprint
        )
        if is_same and holds_regions(encoder):
            return StoredRegions(database, len(check_regions(encoder)))
        return EncodedRegions(encoder, encoded.database.files.__getitem__)

    def _rerank(
        self, encoded: "_EncodedSearch", source: RegionSource, matches: Matches, encoder: Encoder, reranking: Reranking
    ) -> tuple[Matches, dict[str, Any]]:
        """Return the matches of a query set in their new order, and the options and counts for the report."""
        find_unsure: FindUnsure | None = None
        if isinstance(self._database, IndexedPhotos):
            reranking, find_unsure = self._calibrated(self._database.index, encoder, reranking, encoded.database.rows)
        reranker = make_reranker(encoder, source, reranking, find_unsure)
        distances, rows = matches
        reranked = reranker.rerank(encoded.descriptors, encoded.queries.files, rows, similarity(distances))
        in_order = np.take_along_axis(distances, reranked.order, axis=1), reranked.rows
        counts = {"reranked": reranker.num_reranked, "comparisons": reranker.num_compared}
        return in_order, reranker.options.to_dict() | counts

    def _calibrated(
        self, index: PlaceIndex, encoder: Encoder, reranking: Reranking, index_rows: NDArray[np.int64]
    ) -> tuple[Reranking, FindUnsure | None]:
        """Return the options with the weights of the index's calibration, and the function that finds unsure answers.

        The function takes numbers of the evaluated rows of the index.
        """
        from d2vpr_hf.localization.calibrated_reranking import calibrated_reranking  # localization imports this room

        options, find = calibrated_reranking(index, encoder, reranking)
        return options, None if find is None else lambda rows, similarities: find(index_rows[rows], similarities)

    def _evaluate_set(
        self, encoded: "_EncodedSearch", database: Descriptors, matches: Matches | None, encoder: EncoderInfo, seed: int | None
    ) -> Evaluation:
        """Evaluate the matches of a query set, and add folders and skipped photos to the evaluation."""
        search = encoded.search
        evaluation = evaluate_selections(
            (encoded.database, database), (encoded.queries, encoded.descriptors), search.positives, self._choices, matches
        )
        dropped = search.shared if self._choices.drop_shared else {}
        if dropped:
            reasons = {path: f"{DROPPED} {match}" for path, match in dropped.items()}
            evaluation = replace(evaluation, skipped=evaluation.skipped | {"queries": evaluation.skipped["queries"] | reasons})
        shared = sum(query.path in search.shared for query in evaluation.queries) + len(dropped)
        return replace(evaluation, model=encoder, order_seed=seed, shared_photos=shared)


@dataclass(frozen=True)
class _EncodedSearch:
    """A query set whose photos are encoded.

    Attributes:
        search: The search.
        database: The database photos that could be read.
        rows: (N,) rows of these photos among the descriptors of the database.
        queries: The queries that could be read.
        descriptors: (Q, D) or (Q, V, D) of the queries.
    """

    search: _Search
    database: PhotoSelection
    rows: NDArray[np.int64]
    queries: PhotoSelection
    descriptors: NDArray[Any]

    def joins(self, others: Sequence["_EncodedSearch"]) -> bool:
        """Return whether the search is in the same rows as others, and all of them are few enough for one pass."""
        count = sum(each.descriptors[..., 0].size for each in (self, *others))
        return count <= _JOINED_QUERIES and np.array_equal(self.rows, others[0].rows)


@dataclass(frozen=True)
class _Encoded:
    """Descriptors (M, D) of a database, and their rows (M,) among the photos that were to be encoded."""

    descriptors: Any
    rows: NDArray[np.int64]


def evaluate_selections(
    database: tuple[PhotoSelection, Descriptors],
    queries: tuple[PhotoSelection, NDArray[Any]],
    positives: tuple[NDArray[np.int64], ...] | None,
    choices: Choices,
    matches: Matches | None = None,
) -> Evaluation:
    """Evaluate the descriptors of two selections.

    Args:
        database: The photos of the database, and their descriptors (N, D).
        queries: The same for the queries.
        positives: For each query of its table, the rows of its positives in the database's table; `None`: the rule decides.
        choices: Choices for the evaluation.
        matches: As for [`evaluate_descriptors`].
    """
    selections = {"database": database[0], "queries": queries[0]}
    given = None
    if positives is not None:
        of_queries = (positives[row] for row in queries[0].rows.tolist())
        given = select_rows(of_queries, database[0].rows, len(database[0].table.places))
    if choices.sequence is None:
        evaluation = evaluate_descriptors(
            database[1],
            queries[1],
            database[0].photos,
            queries[0].photos,
            choices.rule,
            recall_values=choices.recall_values,
            positives=given,
            matches=matches,
        )
    else:
        evaluation = _evaluate_sequences(database, queries, given, choices, choices.sequence)
    return replace(
        evaluation,
        given_positives=None if given is None else choices.positives_source,
        database=evaluation.database | _origin(database[0].table),
        query_set=evaluation.query_set | _origin(queries[0].table),
        skipped={side: selection.skipped for side, selection in selections.items()},
        remarks={
            side: [remark.to_dict() for remark in (*selection.table.remarks, *selection.remarks)]
            for side, selection in selections.items()
        },
    )


def _evaluate_sequences(
    database: tuple[PhotoSelection, Descriptors],
    queries: tuple[PhotoSelection, NDArray[Any]],
    positives: Positives | None,
    choices: Choices,
    sequence: SequenceRule,
) -> Evaluation:
    """Evaluate windows of consecutive photos, whose names and positions are those of their centre photos."""
    sides = [
        (selection, descriptors, find_windows(selection, sequence.length)) for selection, descriptors in (database, queries)
    ]
    searched, asking = (WindowDescriptors(descriptors, windows, sequence.scores) for _, descriptors, windows in sides)
    photos = [selection.photos.take(windows[:, sequence.centre]) for selection, _, windows in sides]
    of_photos = choices.rule.find(database[0].photos, queries[0].photos) if positives is None else positives
    evaluation = evaluate_descriptors(
        searched,
        asking[:],
        photos[0],
        photos[1],
        choices.rule,
        recall_values=choices.recall_values,
        positives=WindowPositives(of_photos, sides[0][2], sides[1][2], sequence),
    )
    counts = [len(selection.rows) for selection, _, _ in sides], [len(windows) for _, _, windows in sides]
    return replace(evaluation, sequences=describe_sequences(sequence, *counts))


def _origin(table: PhotoTable) -> dict[str, str]:
    """Return the path of a folder or an index, and its data set on the Hub if it is in the Hub's cache."""
    folder = table.index.folder if isinstance(table, IndexedPhotos) else table.folder
    return {"path": str(folder)} | find_dataset(folder)


def _without_rows(queries: PhotoSelection, dropped: Collection[int]) -> PhotoSelection:
    """Return the selection without some rows."""
    rows = np.array([row for row in range(len(queries.rows)) if row not in dropped], np.int64)
    if not len(rows):
        raise ValueError(
            f"All {len(queries.rows)} queries in {queries.table.folder} are photos of the database too, and "
            "`drop_shared=True` drops them. Give other queries."
        )
    if dropped:
        logger.warning("%d of %d queries are dropped: they are photos of the database too.", len(dropped), len(queries.rows))
    return queries.keep_rows(rows, queries.skipped)
