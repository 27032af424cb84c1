"""Partial whitening of regions: directions that the regions of all photos share count less."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE = 2000  # rows that mean and covariance are computed from
MIN_ROWS = 200  # with fewer, the covariance would be a guess
_POWER = -0.25  # of the covariance; chosen on a validation city, see docs/reranking.md
_LEAST_SHARE = 0.01  # of the mean variance, below which a direction counts as noise


@dataclass(frozen=True)
class Whitening:
    """A map of regions (..., R, D) to whitened regions, L2-normalised.

    Attributes:
        mean: (R, D) mean of each region.
        matrix: (D, D) symmetric matrix that features are multiplied by.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def __call__(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return whitened regions of the same shape."""
        whitened = (regions - self.mean) @ self.matrix
        lengths = np.sqrt(np.einsum("...d,...d->...", whitened, whitened))
        return np.asarray(whitened / np.maximum(lengths, 1e-12)[..., None], np.float32)


def fit_whitening(regions: NDArray[np.float32]) -> Whitening | None:
    """Fit a whitening to the regions (N, R, D) of a map; `None` if they are fewer than `MIN_ROWS`."""
    if len(regions) < MIN_ROWS:
        return None
    mean = regions.mean(axis=0)
    centred = (regions - mean).reshape(-1, regions.shape[2]).astype(np.float64)  # (N, R, D) -> (N * R, D)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    scales = np.maximum(variances, _LEAST_SHARE * variances.mean()) ** _POWER
    return Whitening(mean, np.asarray((directions * scales) @ directions.T, np.float32))
