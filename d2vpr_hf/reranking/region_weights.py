"""Weights of regions, fitted to labelled queries: the ground and the sky say less about a place than its houses."""

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.reranking.options import WEIGHT

_PENALTY = 100.0  # factor on half the squared distance from equal weights; chosen on a validation city
MIN_QUERIES = 30  # queries with correct and wrong candidates; with fewer, none are fitted


def fit_region_weights(
    values: NDArray[np.float32], similarities: NDArray[np.float32], correct: NDArray[np.bool_]
) -> tuple[float, tuple[float, ...]] | None:
    """Fit weights so that correct candidates have larger fused similarities than wrong ones.

    They maximise the logarithm of the share of the correct candidates in a softmax over those of a query, less a penalty on
    the distance from equal weights. None is negative.

    Args:
        values: (Q, K, R) values of regions from [`region_values`]; NaN for matches that were not compared.
        similarities: (Q, K) similarities of the descriptors.
        correct: (Q, K) whether a match is correct.

    Returns:
        The weight of the region similarity, and the R weights of the regions in it, with a sum of 1; `None` if there are too
        few queries with correct and wrong candidates.
    """
    num_regions = values.shape[2]
    is_compared = np.isfinite(values[..., 0])
    correct = correct & is_compared
    is_used = correct.any(axis=1) & (is_compared & ~correct).any(axis=1)
    if is_used.sum() < MIN_QUERIES:
        return None
    equal = np.full(num_regions, 1 / num_regions)
    features = np.concatenate([similarities[..., None], values], axis=2)[is_used].astype(np.float64)  # (Q, K, 1 + R)
    features[~is_compared[is_used]] = 0.0
    inside = features[is_compared[is_used]]
    deviations = np.maximum(inside.std(axis=0), 1e-9)
    features /= deviations
    start = np.array([1.0, *(WEIGHT * equal)]) * deviations
    sharpness = _fit((features @ start)[..., None], is_compared[is_used], correct[is_used], np.zeros(1), 0.0)
    weights = _fit(features, is_compared[is_used], correct[is_used], sharpness[0] * start, _PENALTY) / deviations
    total = max(float(weights[1:].sum()), 1e-6)
    region_weights = weights[1:] / total if weights[1:].any() else equal
    return total / max(float(weights[0]), 1e-3 * total), tuple(region_weights.tolist())


def _fit(
    features: NDArray[np.float64],
    is_compared: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    prior: NDArray[np.float64],
    penalty: float,
) -> NDArray[np.float64]:
    """Return weights (F,) of at least 0 for features (Q, K, F), by penalised maximum likelihood."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = np.where(is_compared, features @ weights, -np.inf)
        of_correct = np.where(correct, scores, -np.inf)
        likelihood = float((logsumexp(of_correct, axis=1) - logsumexp(scores, axis=1)).sum())
        slope = softmax(scores, axis=1) - softmax(of_correct, axis=1)  # (Q, K)
        distance = weights - prior
        gradient = np.einsum("qk,qkf->f", slope, features) + penalty * distance
        return 0.5 * penalty * float(distance @ distance) - likelihood, gradient

    start = np.maximum(prior, 1e-3)
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(prior)).x)
