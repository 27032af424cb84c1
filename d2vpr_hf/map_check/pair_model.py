"""The probability that two similar photos of a map show one place, fitted to the map's own pairs.

Photos that are near each other are examples of one place, and photos far apart are examples of different places: a logistic
regression of their similarities needs no labels, and its thresholds belong to the map and its encoder. A few wrong positions
among thousands of pairs change it little.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from d2vpr_hf.localization.confidence_fit import fit_logistic

MIN_PAIRS = 50  # of near pairs, and of far ones; with fewer, probabilities would be guesses
_MOST_PAIRS = 200_000  # of the fit
_RANK_SCALE = 4.0  # ranks; a photo that is 4 ranks further down the other's list counts 1/e as much


@dataclass(frozen=True)
class LogisticModel:
    """A logistic regression of standardised features.

    Attributes:
        means, deviations, weights: (F,) float64.
        bias: Its bias.
    """

    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float

    @classmethod
    def fit(cls, features: NDArray[np.float64], correct: NDArray[np.bool_]) -> "LogisticModel":
        """Fit the model to features (Q, F) and their labels (Q,)."""
        if len(correct) > _MOST_PAIRS:  # drawn, as each n-th pair would have the same ranks for all photos
            drawn = np.random.default_rng(0).choice(len(correct), _MOST_PAIRS, replace=False)
            features, correct = features[drawn], correct[drawn]
        means, deviations = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
        return cls(means, deviations, *fit_logistic((features - means) / deviations, correct))

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities (...) of features (..., F)."""
        return np.asarray(expit((features - self.means) / self.deviations @ self.weights + self.bias))


def pair_features(neighbours: NDArray[np.int64], similarities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the features (N, K, 4) of all photos of a map with their neighbours (N, K).

    They are the similarity; its excess over the mean similarity of each of both photos to its own neighbours, as some photos
    resemble everything; and a term that falls with the photo's rank among the neighbours of its neighbour.
    """
    values = similarities.astype(np.float64)
    means = values.mean(axis=1)
    features = np.stack([values, values - means[neighbours], values - means[:, None], np.zeros_like(values)], axis=2)
    photo_rows = np.arange(len(neighbours))
    for rank in range(neighbours.shape[1]):
        has_rank = neighbours[:, rank][neighbours] == photo_rows[:, None]  # (N, K) whether the photo has this rank there
        features[has_rank, 3] = np.exp(-rank / _RANK_SCALE)
    return features


def heading_feature(headings: NDArray[np.float64], neighbours: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosine of the angle between the headings of photos (N,) and of their neighbours (N, K); 0 if not known.

    A photo with a wrong position still looks where its true neighbours look, and places that look alike have any direction.
    """
    return np.nan_to_num(np.cos(np.radians(headings[:, None] - headings[neighbours])), nan=0.0)
