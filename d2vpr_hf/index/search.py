"""Searching an index: the rows that its vector store covers there, all others exactly."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.derived_store import DerivedStore
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.place_rows import PlaceRows
from d2vpr_hf.places import Place
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.stores import VectorStore
from d2vpr_hf.stores.exact import check_search, exact_search, similarity

logger = logging.getLogger(__name__)

Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # squared distances and rows (Q, k)


@dataclass(frozen=True)
class Match:
    """One database photo found for a query.

    Attributes:
        rank: 1 for the nearest.
        row: Its row in the index.
        place: Its place; `photo` is its file.
        similarity: Cosine similarity of the descriptors, at most 1 (1 - d² / 2 of the L2 distance d for projected ones).
    """

    rank: int
    row: int
    place: Place
    photo: Path
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Return the match as `d2vpr search --json` prints it; x, y and z only of places in a local frame."""
        place = self.place
        values = {
            "rank": self.rank,
            "path": str(self.photo),
            "score": self.similarity,
            "latitude": place.latitude,
            "longitude": place.longitude,
            "utm_east": place.utm_east,
            "utm_north": place.utm_north,
        }
        return values | {"x": place.x, "y": place.y, "z": place.z} if place.is_local else values


def nearest_rows(folder: IndexFolder, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None) -> Found:
    """Find the k nearest rows of queries (Q, D), those that wait included: squared distances and rows (Q, k)."""
    check_search(queries, folder.descriptors(), k, allowed)
    vectors = None if folder.store is None else folder.store.vectors
    if folder.store is not None and vectors is not None:
        try:
            return _nearest_with_store(folder, folder.store, vectors, queries, k, allowed)
        except ConnectionError as error:
            logger.warning("The search is exact: %s", error)
    return exact_search(queries, folder.descriptors(), k, allowed)


def _nearest_with_store(
    folder: IndexFolder,
    store: DerivedStore,
    vectors: VectorStore,
    queries: NDArray[np.floating],
    k: int,
    allowed: NDArray[np.bool_] | None,
) -> Found:
    """Search the first rows in the store, and those behind them exactly."""
    covered = store.num_rows
    parts = (None, None) if allowed is None else (allowed[:covered], allowed[covered:])
    found = store.search(vectors, queries, k, parts[0])
    if covered == folder.count:
        return found
    distances, rows = exact_search(queries, folder.descriptors(store.num_shards), k, parts[1])
    return _join(found, (distances, rows + covered), k)


def _join(first: Found, second: Found, k: int) -> Found:
    """Return the k nearest of what was found in the first and the other rows, ties in the order of the rows."""
    distances, rows = np.hstack([first[0], second[0]]), np.hstack([first[1], second[1]])
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def rows_of_other_times(places: PlaceRows, seconds: float, query_time: str | float | None) -> NDArray[np.bool_]:
    """Return which rows (N,) were not taken within so many seconds before a time, or after it; rows without a time were not.

    Args:
        places: The places of the rows.
        seconds: How long before.
        query_time: The time; `None` for the latest of the places.

    Raises:
        ValueError: If there is no such time, or it cannot be read.
    """
    taken = places.seconds
    now = _latest(taken) if query_time is None else to_seconds(query_time)
    if np.isnan(now):
        raise ValueError(f"Expected a time in seconds or as in ISO 8601, got {query_time!r}, or places that have one.")
    return ~(taken > now - seconds)  # also where there is no time to compare


def _latest(seconds: NDArray[np.float64]) -> float:
    known = seconds[~np.isnan(seconds)]
    return float(known.max()) if len(known) else np.nan


def to_matches(found: Found, places: PlaceRows, photos: Path) -> list[list[Match]]:
    """Return what was found (Q, k) as matches, with the places of the rows."""
    scores = similarity(found[0]).tolist()
    return [
        [_match(rank, row, places[row], photos, score) for rank, (row, score) in enumerate(zip(*pair, strict=True), 1)]
        for pair in zip(found[1].tolist(), scores, strict=True)
    ]


def _match(rank: int, row: int, place: Place, photos: Path, similarity: float) -> Match:
    return Match(rank, row, place, photos / place.path, similarity)
