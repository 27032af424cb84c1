"""The search of an index: in its vector store, and exactly among the rows that the store does not cover."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.place_rows import PlaceRows
from d2vpr_hf.places import Place
from d2vpr_hf.places.timestamps import Timestamp, to_seconds
from d2vpr_hf.stores.exact import check_search, exact_search, similarity
from d2vpr_hf.stores.views import search_views

RERANKING_COLUMNS = ("reranked", "region_similarity", "fused_similarity")  # keys of a match's JSON

Nearest = tuple[NDArray[np.float32], NDArray[np.int64]]  # squared distances and rows (Q, k)


@dataclass(frozen=True)
class Match:
    """A photo in an index that a search returned for a query.

    Attributes:
        rank: 1 for the nearest.
        row: Its row in the index.
        place: Its place.
        photo: Its file.
        similarity: Cosine similarity of the descriptors, at most 1; computed as 1 - d² / 2 from their L2 distance d.
        region_similarity: Similarity of the regions of both photos, if re-ranking compared them; see
            [`d2vpr_hf.reranking.region_similarity`].
        fused_similarity: The weighted mean of both, which re-ranked matches are ordered by; `None` without re-ranking. A match
            that was not compared counts with the smallest region similarity of its query.
        photos: The files of all photos of a fused place, of which `photo` is the one most like them all; empty if the row is a
            single photo.
    """

    rank: int
    row: int
    place: Place
    photo: Path
    similarity: float
    region_similarity: float | None = None
    fused_similarity: float | None = None
    photos: tuple[Path, ...] = ()

    @property
    def reranked(self) -> bool:
        """Whether the matches of the query were re-ranked."""
        return self.fused_similarity is not None

    @property
    def ordering_similarity(self) -> float:
        """The similarity that matches are ordered by: the fused one of re-ranked matches, or that of the descriptors."""
        return self.similarity if self.fused_similarity is None else self.fused_similarity

    def to_dict(self) -> dict[str, Any]:
        """Return the match as JSON values, as docs/formats.md describes them for all outputs.

        The similarity is also there under its earlier name, `score`.
        """
        values = {"rank": self.rank, "path": str(self.photo), "similarity": self.similarity}
        values |= self.place.to_dict() | {"score": self.similarity}
        values |= {"photos": [str(photo) for photo in self.photos]} if self.photos else {}
        return values | {name: getattr(self, name) for name in RERANKING_COLUMNS}


def nearest_rows(folder: IndexFolder, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None) -> Nearest:
    """Find the k nearest rows of queries, pending rows included: squared distances and row numbers (Q, k).

    Args:
        folder: The index.
        queries: (Q, D), or (Q, V, D) for queries with V descriptors each, of which the nearest counts.
        k: Number of rows.
        allowed: (N,) mask of the rows to search; `None` for all.
    """
    return search_views(lambda descriptors, count: _nearest_of_descriptors(folder, descriptors, count, allowed), queries, k)


def _nearest_of_descriptors(
    folder: IndexFolder, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None
) -> Nearest:
    """Find the k nearest rows of descriptors (Q, D)."""
    descriptors = folder.descriptors()
    check_search(queries, descriptors, k, allowed)
    store = folder.store_to_search()
    covered = 0 if store is None else store.num_rows
    nearest_covered = None if store is None else store.search(queries, k, None if allowed is None else allowed[:covered])
    if store is None or nearest_covered is None:
        return exact_search(queries, descriptors, k, allowed)
    if covered == folder.count:
        return nearest_covered
    allowed_behind = None if allowed is None else allowed[covered:]
    distances, rows = exact_search(queries, folder.descriptors(store.num_shards), k, allowed_behind)
    return _join(nearest_covered, (distances, rows + covered), k)


def _join(first: Nearest, second: Nearest, k: int) -> Nearest:
    """Return the k nearest of two results, ties in the order of the rows; all rows of `first` are before those of `second`."""
    distances, rows = np.hstack([first[0], second[0]]), np.hstack([first[1], second[1]])
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def rows_before(places: PlaceRows, seconds: float, query_time: Timestamp | None) -> NDArray[np.bool_]:
    """Return the mask (N,) of the rows that were taken at least `seconds` before the query, or whose time is not known.

    Args:
        places: The places of the rows.
        seconds: The minimum age of a row at the time of the query.
        query_time: The time of the query; `None` for the latest time of the places.

    Raises:
        ValueError: If `seconds` is negative or not finite, the time cannot be read, or no place has a time.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"Expected `exclude_last_seconds` of 0 or more, got {seconds}.")
    times = places.seconds
    now = np.fmax.reduce(times, initial=np.nan) if query_time is None else to_seconds(query_time)
    if np.isnan(now):
        raise ValueError(f"Expected a time in seconds or as in ISO 8601, got {query_time!r}, or places that have one.")
    return ~(times > now - seconds)  # True for NaN too


def to_matches(nearest: Nearest, places: PlaceRows, photo_folder: Path) -> list[list[Match]]:
    """Return the result of a search (Q, k) as matches, with the places of the rows."""
    return rows_to_matches(nearest[1], similarity(nearest[0]), places, photo_folder)


def rows_to_matches(
    rows: NDArray[np.int64], similarities: NDArray[np.float32], places: PlaceRows, photo_folder: Path
) -> list[list[Match]]:
    """Return rows (Q, k) with their similarities as matches, with the places of the rows."""
    results = zip(rows.tolist(), similarities.tolist(), strict=True)
    return [_matches_of_query(of_query, values, places, photo_folder) for of_query, values in results]


def _matches_of_query(rows: list[int], similarities: list[float], places: PlaceRows, photo_folder: Path) -> list[Match]:
    row_places = [places[row] for row in rows]
    values = enumerate(zip(rows, row_places, similarities, strict=True), 1)
    return [
        Match(
            rank,
            row,
            place,
            photo_folder / place.path,
            value,
            photos=tuple(photo_folder / path for path in places.photos_of(place)),
        )
        for rank, (row, place, value) in values
    ]
