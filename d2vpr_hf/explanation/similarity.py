"""A cosine as a sum over regions.

A descriptor is 1 + R region features in a row, divided by the length of the whole row. The product of two descriptors is
therefore a sum of 1 + R products, one a region, and nothing is left over: what each region adds is exact, not an estimate.
"""

import numpy as np
from numpy.typing import NDArray


def region_shares(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return what each region adds to the cosine of two photos, (1 + R,); the sum is [`cosine_of`] the two.

    A share is positive where the regions look alike and may be negative. It grows with the length of the features too: a region
    that the network has little to say of adds little.

    Args:
        first: Region features (1 + R, D) of one photo, before or after the row was normalised.
        second: The other's.

    Raises:
        ValueError: If the shapes differ, or a photo has no features but zeros.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"Expected the features (1 + R, D) of two photos by one model, got {a.shape} and {b.shape}.")
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    if not lengths > 0:
        raise ValueError("A photo whose features are all zero is like nothing: there is no similarity to explain.")
    return (a * b).sum(axis=1) / lengths


def cosine_of(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the cosine of two photos' unprojected descriptors, from region features (1 + R, D) each."""
    a, b = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
