"""The share of a calibration in re-ranking: the weights of regions, and the queries whose answers are unsure."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.search import rows_to_matches
from d2vpr_hf.localization.calibration import PRECISION, Calibration
from d2vpr_hf.localization.consensus import estimate_position
from d2vpr_hf.localization.localize_photos import load_calibration
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.reranking.reranker import FindUnsure

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Encoder


def calibrated_reranking(index: PlaceIndex, encoder: Encoder, options: Reranking) -> tuple[Reranking, FindUnsure | None]:
    """Return options of re-ranking with the weights of the calibration of an index, and the function that finds unsure answers.

    Args:
        index: The index. If its calibration was fitted with re-ranking, weights that are not given are taken from it.
        encoder: Encoder of the queries.
        options: The options.

    Returns:
        The options, and the function; `None` if all queries are re-ranked.

    Raises:
        ValueError: If unsure answers are to be re-ranked, and the index has no calibration for queries of this encoder.
    """
    calibration = load_calibration(index, encoder)
    if calibration is not None and calibration.reranked is not None and options.region_weights is None:
        fit = calibration.reranked
        options = options.with_weights(fit.weight, fit.region_weights, fit.max_gap)
    if options.mode == "regions":
        return options, None
    if calibration is None:
        raise ValueError(
            f'`rerank="unsure"` re-ranks the answers that a calibration calls unsure, and {index.folder} has none for these '
            'queries. Fit one with `d2vpr calibrate INDEX --queries DIR`, or give `rerank="regions"` to re-rank all.'
        )
    return options, functools.partial(find_unsure, index, calibration)


def find_unsure(
    index: PlaceIndex, calibration: Calibration, rows: NDArray[np.int64], similarities: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return which queries (Q,) have an answer below the precision of 0.95, from their matches (Q, k)."""
    count = calibration.num_matches
    matches = rows_to_matches(rows[:, :count], similarities[:, :count], index.places, index.settings.photo_folder)
    estimates = [estimate_position(of_query, count, calibration.positive_dist_threshold) for of_query in matches]
    features = [estimate.features for estimate in estimates if estimate is not None]
    is_unsure = np.ones(len(rows), bool)
    if features:
        confidences = calibration.confidences(np.array(features))
        is_unsure[[estimate is not None for estimate in estimates]] = confidences < calibration.threshold(PRECISION)
    return is_unsure
