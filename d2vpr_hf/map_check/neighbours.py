"""The most similar other photos of each photo of a map.

Comparing 100,000 photos with each other by whole descriptors of thousands of numbers would take an hour. The principal
components of the map's own descriptors leave a few candidates for each photo, whose similarities are then exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Progress
from d2vpr_hf.stores.descriptors import Descriptors, take_rows
from d2vpr_hf.stores.exact import exact_search, float32_blocks, rescore, similarity
from d2vpr_hf.utils.unit_length import divide_by_norms

NUM_COMPONENTS = 96  # numbers of a reduced descriptor; wider ones take longer and change few candidates
_SAMPLE = 2048  # descriptors whose components are computed
_EXTRA = 16  # candidates beyond those that are returned, as the reduced descriptors change their order
_GROUP = 2048  # rows that are searched and rescored at once


@dataclass(frozen=True)
class Neighbours:
    """The most similar other photos of each photo of a map.

    Attributes:
        rows: (N, K) numbers of other photos, the most similar first.
        similarities: (N, K) their cosine similarities.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


def find_neighbours(descriptors: Descriptors, num_neighbours: int, progress: Progress | None = None) -> Neighbours:
    """Find the most similar other photos of each photo of a map.

    Up to `NUM_COMPONENTS` numbers, descriptors are compared in full. The candidates of longer ones are those of their
    principal components.

    Args:
        descriptors: (N, D) descriptors of at least two photos.
        num_neighbours: K; fewer are returned if the map has fewer other photos.
        progress: Called with the number of photos just finished.
    """
    reduced = _principal_components(descriptors)
    k = min(num_neighbours, len(descriptors) - 1)
    parts = []
    for start in range(0, len(descriptors), _GROUP):
        group = np.arange(start, min(start + _GROUP, len(descriptors)))
        candidates = _without_itself(group, exact_search(reduced[start : start + _GROUP], reduced, k + 1 + _EXTRA)[1])
        distances, rows = rescore(descriptors[start : start + _GROUP], descriptors, candidates, k)
        parts.append((rows, similarity(distances)))
        if progress is not None:
            progress(len(group))
    rows, similarities = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Neighbours(rows, similarities)


def _principal_components(descriptors: Descriptors) -> Descriptors:
    """Return descriptors as their first principal components (N, `NUM_COMPONENTS`); narrow descriptors stay.

    The components are those of products, without a mean, as the similarity is a product.
    """
    if descriptors.shape[1] <= NUM_COMPONENTS:
        return descriptors
    sampled = np.linspace(0, len(descriptors) - 1, min(_SAMPLE, len(descriptors))).astype(np.int64)
    sample = take_rows(descriptors, sampled).astype(np.float32)
    vectors = np.linalg.eigh(sample @ sample.T)[1][:, ::-1][:, :NUM_COMPONENTS]
    axes = np.linalg.qr(sample.T @ vectors)[0]  # (D, `NUM_COMPONENTS`)
    reduced = np.empty((len(descriptors), axes.shape[1]), np.float32)
    start = 0
    for block in float32_blocks(descriptors):
        reduced[start : start + len(block)] = divide_by_norms(block @ axes)  # the order of products is then that of distances
        start += len(block)
    return reduced


def _without_itself(rows: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return candidates (M, C - 1) of rows (M,) without the row itself, or else without the last one."""
    is_itself = candidates == rows[:, None]
    is_itself[~is_itself.any(axis=1), -1] = True  # among many equal descriptors
    return candidates[~is_itself].reshape(len(rows), -1)
