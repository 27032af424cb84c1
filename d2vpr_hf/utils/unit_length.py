"""Lengths of descriptors, which must be 1: similarities are products of descriptors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 0.01  # half-precision numbers round a descriptor's length by less


def are_wrong(lengths: NDArray[Any], *, is_projected: bool = False) -> NDArray[np.bool_]:
    """Return for each length (N,) whether it differs from 1; projected descriptors may also be shorter than 1."""
    differences = lengths - 1 if is_projected else np.abs(lengths - 1)
    return differences > _TOLERANCE


def divide_by_norms(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return descriptors (B, D) of unit length."""
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return np.asarray(descriptors / np.maximum(lengths, 1e-12), np.float32)
