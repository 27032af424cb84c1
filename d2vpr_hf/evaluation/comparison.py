"""Comparison of two evaluations query by query, with the uncertainty of the difference."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2vpr_hf.evaluation.recall import bootstrap_interval, hits_at
from d2vpr_hf.evaluation.report import Evaluation, align, percent


@dataclass(frozen=True)
class Difference:
    """The difference of two evaluations at one N.

    Attributes:
        recall_value: The N.
        first, second: recall@N of each evaluation.
        interval_95: 95 % interval of second - first, from the same draws of places for both; `None` with fewer than two places.
        won: Number of queries that only the second evaluation finds.
        lost: Number of queries that only the first evaluation finds.
    """

    recall_value: int
    first: float
    second: float
    interval_95: tuple[float, float] | None
    won: int
    lost: int


@dataclass(frozen=True)
class Comparison:
    """The differences of two evaluations for each N; `notes` name differences in their settings."""

    differences: list[Difference]
    num_queries: int
    notes: list[str]

    def to_text(self) -> str:
        """Return the table that `d2vpr compare` prints."""
        return "\n".join(_lines(self))


def compare_evaluations(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare recall on the same queries, pair by pair.

    Two evaluations of the same queries differ less by chance than their two intervals suggest, because queries that are hard
    for both models cancel out.

    Args:
        first: The evaluation to compare with.
        second: The evaluation in question; differences are second - first.

    Raises:
        ValueError: If queries, database or the rule of positives differ, or the evaluations have no N in common.
    """
    _check_comparable(first, second)
    recall_values = [n for n in first.recall_values if n in second.recall_values]
    if not recall_values:
        raise ValueError(f"The reports share no N: one has {first.recall_values}, the other {second.recall_values}.")
    first_hits, second_hits = (hits_at(evaluation.ranks, recall_values).astype(np.int64) for evaluation in (first, second))
    interval = bootstrap_interval(second_hits - first_hits, first.places)
    differences = [
        Difference(
            recall_value=n,
            first=float(first_hits[:, i].mean()),
            second=float(second_hits[:, i].mean()),
            interval_95=None if interval is None else (float(interval[0, i]), float(interval[1, i])),
            won=int((second_hits > first_hits)[:, i].sum()),
            lost=int((first_hits > second_hits)[:, i].sum()),
        )
        for i, n in enumerate(recall_values)
    ]
    return Comparison(differences, len(first.queries), list(_notes(first, second)))


def _check_comparable(first: Evaluation, second: Evaluation) -> None:
    lengths = [1 if run.sequences is None else run.sequences["length"] for run in (first, second)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"The reports are of sequences of {lengths[0]} and of {lengths[1]} photos.")
    if (first.given_positives is None) != (second.given_positives is None):
        raise ValueError(
            f"The reports have different positives: {first.criterion} in the first, {second.criterion} in the second."
        )
    if first.rule != second.rule:
        raise ValueError(
            f"The reports have different rules of positives: {first.rule} in the first, {second.rule} in the second."
        )
    first_paths, second_paths = ([query.path for query in evaluation.queries] for evaluation in (first, second))
    if first_paths != second_paths:
        unshared = sorted(set(first_paths) ^ set(second_paths))
        difference = f"{len(unshared)} are in one report only, {unshared[0]} first" if unshared else "their order differs"
        raise ValueError(f"The reports are of different queries, {len(first_paths)} and {len(second_paths)}: {difference}.")
    for name, first_set, second_set in (
        ("queries", first.query_set, second.query_set),
        ("databases", first.database, second.database),
    ):
        if first_set["checksum"] != second_set["checksum"]:
            raise ValueError(
                f"The reports are of different {name}: {first_set['count']} photos ({first_set['path']}) and "
                f"{second_set['count']} ({second_set['path']}); their names or positions differ."
            )
    if (first.num_positives != second.num_positives).any():
        raise ValueError("The reports were made with different positives.")


def _notes(first: Evaluation, second: Evaluation) -> Iterator[str]:
    """Yield a note for each setting, other than the model, that makes the recalls hard to compare."""
    for key, plural in (("resolution", "resolutions"), ("projection_dim", "projections")):
        values = [evaluation.model.to_dict().get(key) for evaluation in (first, second)]
        if values[0] != values[1]:
            yield f"The models' {plural} differ: {values[0]} and {values[1]}."
    sizes = [evaluation.model.size_text for evaluation in (first, second)]
    if first.model.resolution == second.model.resolution and sizes[0] != sizes[1]:
        yield f"The sizes of photos or the forms of queries differ: {sizes[0]} and {sizes[1]}."
    scores = [run.sequences["scores"] for run in (first, second) if run.sequences is not None]
    if len(set(scores)) > 1:
        yield f"Sequences are compared differently: by the {scores[0]} in the first, by the {scores[1]} in the second."
    rerankings = [
        "none" if run.reranking is None else "{rerank}, top {rerank_top}".format(**run.reranking) for run in (first, second)
    ]
    if rerankings[0] != rerankings[1]:
        yield f"Matches are re-ranked differently: {rerankings[0]} and {rerankings[1]}."
    settings = [(run.model.cross_image_encoder, run.model.batch_size, run.order_seed) for run in (first, second)]
    if any(ran for ran, _, _ in settings) and settings[0] != settings[1]:
        yield "A cross-image encoder ran with different settings; descriptors depend on the batch and the order of the photos."


def _lines(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.num_queries} queries; differences are B - A in percentage points"
    rows = [["", "A", "B", "B - A", "95 % interval over places", "won", "lost"]]
    for row in comparison.differences:
        interval = "-" if row.interval_95 is None else " to ".join(map(_signed, row.interval_95))
        shares = [percent(row.first), percent(row.second), _signed(row.second - row.first)]
        rows.append([f"R@{row.recall_value}", *shares, interval, str(row.won), str(row.lost)])
    yield from align(rows)
    yield from comparison.notes


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
