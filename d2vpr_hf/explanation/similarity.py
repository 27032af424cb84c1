"""The cosine of two descriptors as a sum over regions.

A descriptor is the concatenation of 1 + R region features, divided by its length. The dot product of two descriptors is
therefore the sum of 1 + R dot products, one for each region, so that the share of each region is exact.
"""

import numpy as np
from numpy.typing import NDArray


def region_shares(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of each region in the cosine of two photos, (1 + R,); their sum is [`cosine_of`] the two photos.

    A share is positive if the features of the region are similar, and can be negative. It also grows with the length of the
    features: regions with short features contribute little.

    Args:
        first: Region features (1 + R, D) of one photo, of any scale.
        second: Region features (1 + R, D) of the other photo.

    Raises:
        ValueError: If the shapes differ, or all features of a photo are 0.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"Expected the features (1 + R, D) of two photos by one model, got {a.shape} and {b.shape}.")
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    if not lengths > 0:
        raise ValueError("All features of a photo are zero, so its similarity cannot be explained.")
    return (a * b).sum(axis=1) / lengths


def cosine_of(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the cosine of two photos' descriptors before a projection, from their region features (1 + R, D)."""
    a, b = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
