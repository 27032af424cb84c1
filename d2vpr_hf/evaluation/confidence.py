"""Precision and recall over a threshold on the top match's similarity, as needed by systems that must reject wrong matches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionCurve:
    """Precision, coverage and recall at each threshold on the similarity of the top match.

    A query is accepted if its similarity is at or above the threshold, so queries of equal similarity are accepted together. A
    query is correct if its top match is a positive.

    Attributes:
        thresholds: (T,) the distinct similarities, falling.
        precision: (T,) share of the accepted queries that are correct.
        coverage: (T,) share of all queries that are accepted.
        recall: (T,) correct accepted queries, divided by the number of queries with a positive; NaN if no query has one.
    """

    thresholds: NDArray[np.floating]
    precision: NDArray[np.float64]
    coverage: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def auc_pr(self) -> float:
        """Area under precision over recall: the sum of each step of recall times the precision after it, not interpolated."""
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    @property
    def recall_at_100_precision(self) -> float:
        """The largest recall with no wrong match accepted; 0 if a wrong match has the largest similarity."""
        recalls = self.recall[self.precision == 1]
        return float(recalls.max(initial=0.0)) if not np.isnan(self.recall).any() else float("nan")


def precision_curve(similarities: NDArray[np.floating], correct: NDArray[np.bool_], num_with_positives: int) -> PrecisionCurve:
    """Compute precision, coverage and recall at each threshold.

    Args:
        similarities: (Q,) similarity of each query's top match.
        correct: (Q,) whether that match is a positive.
        num_with_positives: Number of queries that have a positive.
    """
    order = np.argsort(-similarities, kind="stable")
    falling = similarities[order]
    # the last row of each group of equal similarities
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if len(falling) else np.empty(0, np.int64)
    num_correct, accepted = np.cumsum(correct[order])[last], last + 1
    recall = num_correct / num_with_positives if num_with_positives else np.full(len(last), np.nan)
    return PrecisionCurve(falling[last], num_correct / accepted, accepted / len(falling), recall)
