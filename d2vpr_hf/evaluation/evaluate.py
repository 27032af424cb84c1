"""Evaluation of a model on photos and data sets, or of descriptors in files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.evaluation.indexed_photos import IndexedPhotos
from d2vpr_hf.evaluation.merged_parts import merge_parts
from d2vpr_hf.evaluation.part_evaluation import Choices, PartEvaluation, evaluate_selections
from d2vpr_hf.evaluation.photo_selection import select_photos
from d2vpr_hf.evaluation.positives import PositiveRule
from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values
from d2vpr_hf.evaluation.report import Evaluation
from d2vpr_hf.evaluation.sequence_rule import SequenceRule
from d2vpr_hf.index import PlaceIndex, check_free
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD
from d2vpr_hf.pretrained.fitted_photos import warn_of_fitted_photos
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.data_sets import DataSet, QuerySet
from d2vpr_hf.readers.data_sets.data_set import select_rows
from d2vpr_hf.readers.descriptor_files import read_placed_descriptors
from d2vpr_hf.readers.remarks import report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.reranking.open_reranker import check_regions
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.retrieval.compatibility import check_encoder, check_pair

SHUFFLE_SEED = 0
DATA_SET_POSITIVES = "the data set"

Photos = str | Path | PlaceTable


def evaluate(
    database: Photos | PlaceIndex,
    queries: Photos,
    encoder: Encoder,
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    shuffle_check: bool = False,
    save_descriptors: str | Path | None = None,
    drop_shared: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    database_encoder: Encoder | None = None,
    reranking: Reranking | None = None,
    sequence: SequenceRule | None = None,
) -> Evaluation:
    """Search the database with each query and compute recall.

    Photos that cannot be read, or lack a position that the rule needs, are skipped and listed in `Evaluation.skipped`. Queries
    that are database photos too (files of equal content) are counted, with a warning: a search finds them always.

    Args:
        database: A folder, a CSV file, a table from [`read_places`], or an index of this encoder, whose descriptors are mapped.
        queries: The same for the queries, except an index.
        encoder: Encoder of the photos, a [`PlaceEncoder`] or another object with the attributes of [`Encoder`]. With a
            cross-image encoder, the descriptors depend on its batch size and on the order of the photos.
        rule: The rule of positives; `None` for the usual 25 m.
        recall_values: The N of recall@N.
        shuffle_check: Whether to encode database and queries a second time, each in a seeded random order, and to add the
            result as `Evaluation.shuffled`.
        save_descriptors: Folder for the indexes `database` and `queries`; `None` writes no indexes.
        drop_shared: Whether to drop such queries; database photos stay, because other queries may need them. They are in
            `Evaluation.skipped`, and not an error with `strict`.
        strict: Whether a skipped photo is an error.
        overwrite: Whether to replace indexes that `save_descriptors` has already.
        progress: Called with the number of photos that were just encoded.
        database_encoder: Encoder of the database photos, if their descriptors come from another model; one of the two must be
            compatible with the other, as a distilled student is with its teacher. `None` encodes both by `encoder`.
        reranking: Options of re-ranking; `None` keeps the order of similarity. With `mode="unsure"`, the database must be an
            index with a calibration.
        sequence: Rule of sequences, for which windows of photos are searched; `None` for single photos.

    Raises:
        ValueError: If positions cannot be compared because they are missing or of different kinds, no photo could be read, all
            queries are dropped, an index is of another encoder, or with `strict` if a photo was skipped.
    """
    query_table = queries if isinstance(queries, PlaceTable) else read_places(queries)
    evaluations = evaluate_query_sets(
        database,
        [QuerySet("queries", query_table)],
        encoder,
        rule,
        recall_values=recall_values,
        shuffle_check=shuffle_check,
        save_descriptors=save_descriptors,
        drop_shared=drop_shared,
        strict=strict,
        overwrite=overwrite,
        progress=progress,
        database_encoder=database_encoder,
        reranking=reranking,
        sequence=sequence,
    )
    return evaluations[0]


def evaluate_query_sets(
    database: Photos | PlaceIndex,
    query_sets: Sequence[QuerySet],
    encoder: Encoder,
    rule: PositiveRule | None = None,
    *,
    positives_source: str = "the caller",
    recall_values: Sequence[int] = RECALL_VALUES,
    shuffle_check: bool = False,
    save_descriptors: str | Path | None = None,
    drop_shared: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    database_encoder: Encoder | None = None,
    reranking: Reranking | None = None,
    sequence: SequenceRule | None = None,
) -> list[Evaluation]:
    """Search one database with several query sets, and encode each database photo once.

    Args:
        database: As for [`evaluate`].
        query_sets: The query sets, with different names; their positives, where they have some, replace the rule.
        encoder: As for [`evaluate`].
        rule: The rule of positives of query sets that have none; `None` for the usual 25 m.
        positives_source: Source of the positives, for reports.
        recall_values: As for [`evaluate`].
        shuffle_check: As for [`evaluate`].
        save_descriptors: Folder for an index `database`, and one with the name of each query set.
        drop_shared: As for [`evaluate`].
        strict: As for [`evaluate`].
        overwrite: As for [`evaluate`].
        progress: As for [`evaluate`].
        database_encoder: As for [`evaluate`].
        reranking: As for [`evaluate`].
        sequence: As for [`evaluate`].

    Returns:
        One evaluation for each query set.

    Raises:
        ValueError: As [`evaluate`] does.
    """
    choices = Choices(
        rule or PositiveRule(),
        True,
        positives_source,
        check_recall_values(recall_values),
        drop_shared,
        strict,
        reranking,
        sequence,
    )
    _check_encoders(encoder, database_encoder, reranking)
    if isinstance(database, PlaceIndex):
        if database_encoder is not None:
            raise ValueError("An index has descriptors of its own model already. Leave `database_model` out.")
        check_encoder(database, encoder, for_queries=True)
        _refuse_second_encoding(database, shuffle_check)
        photos: PlaceTable | IndexedPhotos = IndexedPhotos(database)
    else:
        photos = database if isinstance(database, PlaceTable) else read_places(database)
    out = None if save_descriptors is None else Path(save_descriptors)
    if out is not None:
        for name in ("database", *(queries.name for queries in query_sets)):
            check_free(out / name, overwrite)
    part = PartEvaluation(photos, query_sets, choices)
    for each in filter(None, (encoder, database_encoder)):
        warn_of_fitted_photos(each.model_name, part.files)
    evaluations = part.run(encoder, None, progress, out, overwrite, database_encoder)
    if shuffle_check:
        shuffled = part.run(encoder, SHUFFLE_SEED, progress, None, overwrite, database_encoder)
        evaluations = [replace(first, shuffled=second) for first, second in zip(evaluations, shuffled, strict=True)]
    return [
        _with_name(evaluation, queries.name, len(query_sets))
        for evaluation, queries in zip(evaluations, query_sets, strict=True)
    ]


def evaluate_data_set(
    data_set: DataSet,
    encoder: Encoder,
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    shuffle_check: bool = False,
    save_descriptors: str | Path | None = None,
    drop_shared: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    database_encoder: Encoder | None = None,
    reranking: Reranking | None = None,
    sequence: SequenceRule | None = None,
) -> list[Evaluation]:
    """Evaluate a data set, each part in its own database, and encode each database photo once for all query sets.

    Args:
        data_set: A data set from [`d2vpr_hf.readers.data_sets.read_data_set`].
        encoder: As for [`evaluate`].
        rule: A rule that replaces the data set's positives, threshold or frames; `None` for those of the data set.
        recall_values: As for [`evaluate`].
        shuffle_check: As for [`evaluate`].
        save_descriptors: Folder for an index `database`, and one with the name of each query set; of a data set in parts, for
            a folder with these for each part.
        drop_shared: As for [`evaluate`].
        strict: As for [`evaluate`].
        overwrite: As for [`evaluate`].
        progress: As for [`evaluate`].
        database_encoder: As for [`evaluate`].
        reranking: As for [`evaluate`].
        sequence: As for [`evaluate`].

    Returns:
        One evaluation for each query set, over the queries of all parts.

    Raises:
        ValueError: As [`evaluate`] does.
    """
    choices = Choices(
        data_set_rule(data_set) if rule is None else rule,
        rule is None,
        DATA_SET_POSITIVES,
        check_recall_values(recall_values),
        drop_shared,
        strict,
        reranking,
        sequence,
    )
    _check_encoders(encoder, database_encoder, reranking)
    if sequence is not None:
        _check_photo_order(data_set)
    report_remarks(data_set.remarks, data_set.variant)
    data_set = replace(data_set, parts=tuple(part for part in data_set.parts if part.query_sets))
    out = None if save_descriptors is None else Path(save_descriptors)
    if out is not None:
        for part in data_set.parts:
            for name in ("database", *(queries.name for queries in part.query_sets)):
                check_free(out / part.name / name, overwrite)
    replaced = replaced_rule(data_set, rule)
    parts = [PartEvaluation(part.database, part.query_sets, choices, part.name) for part in data_set.parts]
    encoders = (encoder, database_encoder)
    for each in filter(None, encoders):
        warn_of_fitted_photos(each.model_name, [file for part in parts for file in part.files])
    runs = [_run_parts(data_set, replaced, parts, encoders, None, progress, out, overwrite)]
    if shuffle_check:
        runs.append(_run_parts(data_set, replaced, parts, encoders, SHUFFLE_SEED, progress, None, overwrite))
        return [replace(first, shuffled=second) for first, second in zip(*runs, strict=True)]
    return runs[0]


def data_set_rule(data_set: DataSet) -> PositiveRule:
    """Return the rule of positives of a data set."""
    threshold = data_set.positive_dist_threshold
    return PositiveRule(POSITIVE_DIST_THRESHOLD if threshold is None else threshold, None, data_set.frame_tolerance)


def replaced_rule(data_set: DataSet, rule: PositiveRule | None) -> str | None:
    """Return the positives of a data set that a rule replaces, as text; `None` if it replaces none."""
    if rule is not None and any(queries.positives is not None for part in data_set.parts for queries in part.query_sets):
        return "the positives of the data set"
    own_rule = data_set_rule(data_set)
    return None if rule in (None, own_rule) else f"{own_rule}, the rule of the data set"


def _run_parts(
    data_set: DataSet,
    replaced: str | None,
    parts: Sequence[PartEvaluation],
    encoders: tuple[Encoder, Encoder | None],
    seed: int | None,
    progress: Progress | None,
    out: Path | None,
    overwrite: bool,
) -> list[Evaluation]:
    """Encode and evaluate the parts one after another, and merge the evaluations of each query set."""
    of_set: dict[str, dict[str, Evaluation]] = {name: {} for name in data_set.query_set_names}
    for part, selected in zip(data_set.parts, parts, strict=True):
        folder = None if out is None else out / part.name
        evaluations = selected.run(encoders[0], seed, progress, folder, overwrite, encoders[1])
        for queries, evaluation in zip(part.query_sets, evaluations, strict=True):
            of_set[queries.name][part.name] = evaluation
    return [merge_parts(evaluations, _origin(data_set, name, replaced)) for name, evaluations in of_set.items()]


def _with_name(evaluation: Evaluation, name: str, count: int) -> Evaluation:
    """Add the name of the query set if there are several."""
    if count == 1:
        return evaluation
    shuffled = None if evaluation.shuffled is None else _with_name(evaluation.shuffled, name, count)
    return replace(evaluation, query_set=evaluation.query_set | {"name": name}, shuffled=shuffled)


def _check_encoders(encoder: Encoder, database_encoder: Encoder | None, reranking: Reranking | None) -> None:
    """Raise ValueError before photos are encoded if descriptors cannot be compared, or matches cannot be re-ranked."""
    if database_encoder is not None:
        check_pair(database_encoder, encoder)
    if reranking is not None:
        check_regions(encoder)
        if database_encoder is not None:
            raise ValueError("Re-ranking compares regions of one model. Leave `rerank` or `database_model` out.")


def _check_photo_order(data_set: DataSet) -> None:
    """Raise ValueError if neither the lists nor the names of a data set have the order of drives."""
    if data_set.layout.startswith("msls"):
        raise ValueError(
            "The photos of MSLS are keys without an order, and those of all drives of a city are in one folder. For "
            "`sequence_length`, give CSV files as `database` and `queries` that list the photos of each drive in its order, "
            "with a folder for each drive."
        )


def _refuse_second_encoding(index: PlaceIndex, shuffle_check: bool) -> None:
    if shuffle_check:
        raise ValueError(
            f"`shuffle_check=True` encodes the database a second time, but {index.folder} is an index, whose photos are not "
            "encoded. Give the folder of its photos."
        )


def evaluate_descriptor_files(
    database: tuple[str | Path, str | Path | PlaceTable],
    queries: tuple[str | Path, str | Path | PlaceTable],
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    tensor: str | None = None,
    normalize: bool = False,
    strict: bool = False,
    sequence: SequenceRule | None = None,
) -> Evaluation:
    """Evaluate descriptors in files that another program wrote. The photos are not needed.

    Args:
        database: A file that [`d2vpr_hf.readers.descriptor_files.read_descriptors`] reads, and its places: a CSV file with a
            line for each row, or for files with photos' names a table or folder with these photos.
        queries: The same for the queries.
        rule: The rule of positives; `None` for the usual 25 m.
        recall_values: The N of recall@N.
        tensor: Name of the tensor in the files; `None` for the only one.
        normalize: Whether to divide each descriptor by its length. Without it, other lengths than 1 are an error.
        strict: Whether a place without a descriptor or position is an error.
        sequence: As for [`evaluate`].

    Raises:
        ValueError: If descriptors and places do not match, values are wrong, the widths of both sides differ, or positions
            cannot be compared.
    """
    tables = [side[1] if isinstance(side[1], PlaceTable) else read_places(side[1]) for side in (database, queries)]
    evaluations = evaluate_descriptor_sets(
        (database[0], tables[0]),
        [(queries[0], QuerySet("queries", tables[1]))],
        rule,
        recall_values=recall_values,
        tensor=tensor,
        normalize=normalize,
        strict=strict,
        sequence=sequence,
    )
    return evaluations[0]


def evaluate_descriptor_sets(
    database: tuple[str | Path, PlaceTable],
    query_sets: Sequence[tuple[str | Path, QuerySet]],
    rule: PositiveRule | None = None,
    *,
    data_set: DataSet | None = None,
    has_order: bool = False,
    use_given_positives: bool = True,
    positives_source: str = "the caller",
    recall_values: Sequence[int] = RECALL_VALUES,
    tensor: str | None = None,
    normalize: bool = False,
    strict: bool = False,
    sequence: SequenceRule | None = None,
) -> list[Evaluation]:
    """Evaluate descriptors in files for several query sets.

    Args:
        database: A file of descriptors, and its places.
        query_sets: The same for each query set, whose positives replace the rule.
        rule: The rule of positives; `None` for the usual 25 m.
        data_set: The data set that the photos are of, for reports; `None` if they are of none.
        has_order: Whether rows without names belong to the places in their order, as those of a data set or a list.
        use_given_positives: Whether the positives of query sets replace the rule.
        positives_source: Source of the positives, for reports.
        recall_values: The N of recall@N.
        tensor: As for [`evaluate_descriptor_files`].
        normalize: As for [`evaluate_descriptor_files`].
        strict: As for [`evaluate_descriptor_files`].
        sequence: As for [`evaluate`].

    Returns:
        One evaluation for each query set.

    Raises:
        ValueError: As [`evaluate_descriptor_files`] does.
    """
    choices = Choices(
        rule or PositiveRule(),
        use_given_positives,
        positives_source,
        check_recall_values(recall_values),
        strict=strict,
        sequence=sequence,
    )
    table, rows = read_placed_descriptors(*database, tensor=tensor, normalize=normalize, strict=strict, has_order=has_order)
    evaluations = []
    for file, queries in query_sets:
        query_table, query_rows = read_placed_descriptors(
            file, queries.table, tensor=tensor, normalize=normalize, strict=strict, has_order=has_order
        )
        if rows.shape[1] != query_rows.shape[1]:
            raise ValueError(
                f"Descriptors of the database have {rows.shape[1]} numbers, those of the queries {query_rows.shape[1]}."
            )
        positives = None
        if queries.positives is not None and use_given_positives:
            of_queries = (queries.positives[row] for row in _rows_of(queries.table, query_table).tolist())
            positives = select_rows(of_queries, _rows_of(database[1], table), len(database[1].places))
        selections = select_photos(table, query_table, choices.rule if positives is None else None)
        encoded = []
        for selection, of_side, values in zip(selections, (table, query_table), (rows, query_rows), strict=True):
            report_remarks(selection.remarks, selection.name.capitalize())
            report_skipped(selection.skipped, of_side.count, strict, selection.name.capitalize())
            encoded.append((selection, values[selection.rows] if len(selection.rows) < len(of_side.places) else values))
        evaluation = evaluate_selections(encoded[0], encoded[1], positives, choices)
        if data_set is not None:
            evaluation = merge_parts(
                {"": evaluation},
                _origin(data_set, queries.name, None if use_given_positives else replaced_rule(data_set, rule)),
            )
        evaluations.append(_with_name(evaluation, queries.name, len(query_sets)))
    return evaluations


def _rows_of(table: PlaceTable, placed: PlaceTable) -> NDArray[np.int64]:
    """Return the rows in a table of the places that have descriptors."""
    row_of = {path: row for row, path in enumerate(table.paths)}
    return np.array([row_of[path] for path in placed.paths], np.int64)


def _origin(data_set: DataSet, name: str, replaced: str | None) -> dict[str, Any]:
    """Return the data set of a query set, for reports."""
    remarks = [remark.to_dict() for remark in data_set.remarks]
    origin = {"layout": data_set.layout, "variant": data_set.variant, "query_set": name, "remarks": remarks}
    return origin if replaced is None else origin | {"replaced_rule": replaced}
