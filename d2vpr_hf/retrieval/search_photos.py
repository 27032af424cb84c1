"""Search an index with photos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.places.filters import Mask
from d2vpr_hf.readers import find_photos
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.compatibility import check_encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """The matches of one query.

    Attributes:
        query: The photo, under the path that was given.
        matches: The matches, the most similar first; empty if the photo could not be read.
        error: The reason why the photo could not be read, or `None`.
    """

    query: Path
    matches: list[Match]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `d2vpr search --json` prints."""
        result: dict[str, Any] = {
            "query": str(self.query),
            "matches": [match.to_dict() for match in self.matches],
        }
        return result if self.error is None else {**result, "error": self.error}


def search_photos(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: Encoder,
    *,
    top_k: int = 5,
    allowed: Mask | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> list[SearchResult]:
    """Search an index with photos, and return the most similar photos of the index for each.

    Args:
        index: The index.
        queries: Photo files, or folders of them.
        encoder: Makes the descriptors; it must have the model that the index was built with.
        top_k: Number of matches for each query.
        allowed: (N,) mask of the rows to search, from [`PlaceFilter.allowed`]; `None` for all rows.
        strict: Whether a photo that cannot be read is an error.
        progress: Called with the number of photos just finished.

    Returns:
        One result for each query photo, in order; a photo that could not be read has an error and no matches.

    Raises:
        ValueError: If the encoder's model or preprocessing is not the index's.
    """
    check_encoder(index, encoder)
    photos = [photo for query in queries for photo in _find_queries(Path(query))]
    encoded = encoder.encode(photos, progress)
    report_skipped({str(photos[row]): reason for row, reason in encoded.skipped.items()}, len(photos), strict)
    matches = index.search(encoded.descriptors, top_k, allowed=allowed)
    matches_of_row = dict(zip(encoded.rows.tolist(), matches, strict=True))
    return [SearchResult(photo, matches_of_row.get(row, []), encoded.skipped.get(row)) for row, photo in enumerate(photos)]


def _find_queries(query: Path) -> list[Path]:
    """Return the photos of a folder, or a photo itself; an empty folder itself, so that it becomes a result with an error."""
    try:
        return find_photos(query) if query.is_dir() else [query]
    except FileNotFoundError:
        return [query]
