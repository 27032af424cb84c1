"""Options of re-ranking. This module loads no library."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

RerankMode = Literal["unsure", "regions"]

TOP = 20  # candidates of a query
_NUM_JUDGED = 10  # matches that vote for a position
WEIGHT, MAX_GAP = 2.0, 0.1  # chosen on a validation city; see docs/reranking.md


@dataclass(frozen=True)
class Reranking:
    """Re-ranking of the best matches by the similarity of their regions.

    Attributes:
        mode: `"regions"` re-ranks the matches of every query, `"unsure"` only those of queries whose answer the calibration of
            the index calls unsure.
        top: Number of matches of a query that are compared at most.
        weight: Weight of the region similarity; that of the similarity of the descriptors is 1.
        max_gap: A match is compared if its similarity is at most this much below that of the best one.
        region_weights: Weights of the regions in the region similarity, with a sum of 1; `None` for those of the calibration of
            the index, if it was fitted with re-ranking, or else those that are known for the model, or else equal ones. The
            former two bring their `weight`, and a calibration its `max_gap`, in place of defaults.
    """

    mode: RerankMode = "unsure"
    top: int = TOP
    weight: float = WEIGHT
    max_gap: float = MAX_GAP
    region_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(RerankMode):
            raise ValueError(f"`rerank` must be one of {', '.join(get_args(RerankMode))}, got {self.mode!r}.")
        if self.top < 2:
            raise ValueError(f"`rerank_top` must be at least 2, got {self.top}.")
        if not (self.weight > 0 and self.max_gap > 0):
            raise ValueError(f"The weight and the gap of re-ranking must be above 0, got {self.weight} and {self.max_gap}.")
        if self.region_weights is not None and not (min(self.region_weights) >= 0 and 0.999 < sum(self.region_weights) < 1.001):
            raise ValueError(f"The weights of regions must be at least 0 with a sum of 1, got {self.region_weights}.")

    @property
    def num_searched(self) -> int:
        """The number of matches that a search must return: the candidates, and those that a calibration judges."""
        return max(self.top, _NUM_JUDGED)

    def with_weights(self, weight: float, region_weights: Sequence[float], max_gap: float = MAX_GAP) -> "Reranking":
        """Return the options with fitted weights; another `weight` or `max_gap` than the default stays."""
        return replace(
            self,
            weight=weight if self.weight == WEIGHT else self.weight,
            max_gap=max_gap if self.max_gap == MAX_GAP else self.max_gap,
            region_weights=tuple(region_weights),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values, with the names of the command line's flags."""
        weights = None if self.region_weights is None else list(self.region_weights)
        values = {"rerank": self.mode, "rerank_top": self.top, "weight": self.weight, "max_gap": self.max_gap}
        return values | {"region_weights": weights}


def reranking_of(rerank: RerankMode | None, rerank_top: int | None) -> Reranking | None:
    """Return the options that two flags stand for; `None` without re-ranking.

    Raises:
        ValueError: If `rerank_top` is given alone.
    """
    if rerank is None:
        if rerank_top is not None:
            raise ValueError('`rerank_top` belongs to `rerank`. Give `rerank="unsure"` or `rerank="regions"` too.')
        return None
    return Reranking(rerank) if rerank_top is None else Reranking(rerank, rerank_top)
