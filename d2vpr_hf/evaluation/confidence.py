"""How far the similarity of the top match can be trusted: what a SLAM system that must not close a wrong loop asks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionCurve:
    """What is accepted, and how much of it is right, at each threshold on the similarity of the top match.

    A query is accepted if its similarity is at or above the threshold; queries of equal similarity are accepted together. A
    query is right if its top match is a positive.

    Attributes:
        thresholds: (T,) the distinct similarities, falling.
        precision: (T,) right ones among the accepted.
        coverage: (T,) accepted ones among all queries.
        recall: (T,) right accepted ones among the queries that have a positive; NaN if none has.
    """

    thresholds: NDArray[np.floating]
    precision: NDArray[np.float64]
    coverage: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def auc_pr(self) -> float:
        """Area under precision over recall: each step of recall times the precision after it, nothing interpolated."""
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    @property
    def recall_at_100_precision(self) -> float:
        """The largest recall without a single wrong match accepted; 0 if a wrong one is among the most similar."""
        faultless = self.recall[self.precision == 1]
        return float(faultless.max(initial=0.0)) if not np.isnan(self.recall).any() else float("nan")


def precision_curve(similarities: NDArray[np.floating], right: NDArray[np.bool_], num_with_positives: int) -> PrecisionCurve:
    """Compute precision, coverage and recall at each threshold.

    Args:
        similarities: (Q,) similarity of each query's top match.
        right: (Q,) whether that match is a positive.
        num_with_positives: Number of queries that have a positive.
    """
    order = np.argsort(-similarities, kind="stable")
    falling = similarities[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if len(falling) else np.empty(0, np.int64)
    num_right, accepted = np.cumsum(right[order])[last], last + 1
    recall = num_right / num_with_positives if num_with_positives else np.full(len(last), np.nan)
    return PrecisionCurve(falling[last], num_right / accepted, accepted / len(falling), recall)
