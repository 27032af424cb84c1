"""Compare two evaluations query by query: is one model better, or was it luck?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2vpr_hf.evaluation.recall import bootstrap_interval, hits_at
from d2vpr_hf.evaluation.report import Evaluation, align, percent


@dataclass(frozen=True)
class Difference:
    """How two evaluations differ at one N.

    Attributes:
        recall_value: The N.
        first, second: recall@N of each.
        interval_95: Of second - first, from places drawn with replacement, the same for both; `None` below two places.
        won: Queries that only the second finds.
        lost: Queries that only the first finds.
    """

    recall_value: int
    first: float
    second: float
    interval_95: tuple[float, float] | None
    won: int
    lost: int


@dataclass(frozen=True)
class Comparison:
    """The differences of two evaluations, and what makes them hard to compare."""

    differences: list[Difference]
    num_queries: int
    notes: list[str]

    def to_text(self) -> str:
        """Return the table that `d2vpr compare` prints."""
        return "\n".join(_lines(self))


def compare_evaluations(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare recall on the same queries, pair by pair.

    A pair of runs on the same queries tells more than two intervals side by side: what is hard for both cancels out.

    Args:
        first: The evaluation to compare with.
        second: The evaluation in question; differences are second - first.

    Raises:
        ValueError: If queries, database or the rule of positives differ, or no N is in both.
    """
    _refuse_different(first, second)
    recall_values = [n for n in first.recall_values if n in second.recall_values]
    if not recall_values:
        raise ValueError(f"The reports share no N: one has {first.recall_values}, the other {second.recall_values}.")
    one, other = (hits_at(evaluation.ranks, recall_values).astype(np.int64) for evaluation in (first, second))
    interval = bootstrap_interval(other - one, first.places)
    differences = [
        Difference(
            recall_value=n,
            first=float(one[:, i].mean()),
            second=float(other[:, i].mean()),
            interval_95=None if interval is None else (float(interval[0, i]), float(interval[1, i])),
            won=int((other > one)[:, i].sum()),
            lost=int((one > other)[:, i].sum()),
        )
        for i, n in enumerate(recall_values)
    ]
    return Comparison(differences, len(first.queries), list(_notes(first, second)))


def _refuse_different(first: Evaluation, second: Evaluation) -> None:
    if first.rule != second.rule:
        raise ValueError(f"The reports call different matches right: one those {first.rule}, the other those {second.rule}.")
    one, other = ([query.path for query in evaluation.queries] for evaluation in (first, second))
    if one != other:
        lonely = sorted(set(one) ^ set(other))
        which = f"{len(lonely)} are in one report only, {lonely[0]} first" if lonely else "their order differs"
        raise ValueError(f"The reports are of different queries, {len(one)} and {len(other)}: {which}.")
    for name, sides in (("queries", (first.query_set, second.query_set)), ("databases", (first.database, second.database))):
        if sides[0]["checksum"] != sides[1]["checksum"]:
            raise ValueError(
                f"The reports are of different {name}: {sides[0]['count']} photos ({sides[0]['path']}) and "
                f"{sides[1]['count']} ({sides[1]['path']}); their names or positions differ."
            )
    if (first.num_positives != second.num_positives).any():
        raise ValueError("The reports were given different positives.")


def _notes(first: Evaluation, second: Evaluation) -> Iterator[str]:
    """Say what stands between the numbers besides the models."""
    for key, plural in (("resolution", "resolutions"), ("projection_dim", "projections")):
        values = [evaluation.model.to_dict().get(key) for evaluation in (first, second)]
        if values[0] != values[1]:
            yield f"Their {plural} differ: {values[0]} and {values[1]}."
    settings = [(run.model.cross_image_encoder, run.model.batch_size, run.order_seed) for run in (first, second)]
    if any(ran for ran, _, _ in settings) and settings[0] != settings[1]:
        yield "A cross-image encoder ran, not alike in both: its numbers depend on the batch and on the order of the photos."


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
