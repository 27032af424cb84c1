"""Draw search results: each query with its matches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from d2vpr_hf.figures import Cell, match_cell, photo_label, plot_rows, query_cell
from d2vpr_hf.index import Match
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.readers import read_place
from d2vpr_hf.retrieval.search_photos import SearchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MAX_ROWS = 60  # a taller picture is not readable


def plot_search(results: Sequence[SearchResult], thumbnails: Mapping[str, bytes] | None = None) -> Figure:
    """Draw each query with its matches to the right, one row a query, at most the first 60.

    The frame of a match is green within 25 m of the query, red beyond, and grey if a position is not known.

    Args:
        results: The results of a search.
        thumbnails: Pictures of photos by their paths in the index; other photos are read from their files.
    """
    if len(results) > MAX_ROWS:
        logger.warning("The plot shows the first %d of %d queries.", MAX_ROWS, len(results))
    return plot_rows([_row(result, thumbnails or {}) for result in results[:MAX_ROWS]])


def _row(result: SearchResult, thumbnails: Mapping[str, bytes]) -> list[Cell]:
    truth = read_place(result.query) if result.error is None else None
    name = result.query.name if truth is None else _label(truth)
    return [query_cell(result.query, name), *(_match_cell(match, truth, thumbnails) for match in result.matches)]


def _match_cell(match: Match, truth: Place | None, thumbnails: Mapping[str, bytes]) -> Cell:
    distance = distance_in_metres(truth, match.place) if truth is not None else None
    correct = None if distance is None else distance <= POSITIVE_DIST_THRESHOLD
    photo = thumbnails.get(match.place.path, match.photo)
    return match_cell(photo, match.rank, _label(match.place), match.similarity, distance, correct)


def _label(place: Place) -> str:
    return photo_label(place.path, place.utm_east, place.utm_north)
