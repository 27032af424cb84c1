"""Search an index with photos."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from d2vpr_hf.encoders import Encoder, Progress, encode_queries
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.index.search import RERANKING_COLUMNS
from d2vpr_hf.places.filters import Mask
from d2vpr_hf.places.place import PLACE_COLUMNS
from d2vpr_hf.readers.photo_listing import PhotoListing, list_photos
from d2vpr_hf.readers.remarks import Remark, merge_remarks, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.reranking.open_reranker import open_reranker
from d2vpr_hf.reranking.options import Reranking
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

    columns: ClassVar[tuple[str, ...]] = (
        *("query", "rank", "path", "similarity", *PLACE_COLUMNS, "error"),
        *RERANKING_COLUMNS,
    )

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

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row with the keys `columns` for each match, or one without a match."""
        matches = [match.to_dict() for match in self.matches] or [{}]
        query = {"query": str(self.query), "error": self.error}
        return [{name: (match | query).get(name) for name in self.columns} for match in matches]


def search_photos(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: Encoder,
    *,
    top_k: int = 5,
    allowed: Mask | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    reranking: Reranking | None = None,
) -> list[SearchResult]:
    """Search an index with photos, and return the most similar photos of the index for each.

    Args:
        index: The index.
        queries: Photo files, or folders of them.
        encoder: Makes the descriptors; it must have the model that the index was built with, or one that is compatible with it.
        top_k: Number of matches for each query.
        allowed: (N,) mask of the rows to search, from [`PlaceFilter.allowed`]; `None` for all rows.
        strict: Whether a photo that cannot be read is an error.
        progress: Called with the number of photos just finished.
        reranking: Options of re-ranking; `None` keeps the order of similarity.

    Returns:
        One result for each query photo, in order; a photo that could not be read has an error and no matches. Images of folders
        in a format that is not read follow, with an error.

    Raises:
        ValueError: If the encoder's model or preprocessing is not the index's, or matches cannot be re-ranked.
    """
    return list(
        iterate_search(
            index, queries, encoder, top_k=top_k, allowed=allowed, strict=strict, progress=progress, reranking=reranking
        )
    )


def iterate_search(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: Encoder,
    *,
    top_k: int = 5,
    allowed: Mask | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    group_size: int | None = None,
    reranking: Reranking | None = None,
    all_candidates: bool = False,
) -> Iterator[SearchResult]:
    """Search an index with photos, and yield the results of each group of photos before the next one is encoded.

    Args:
        index: The index.
        queries: Photo files, or folders of them.
        encoder: Makes the descriptors.
        top_k: Number of matches for each query.
        allowed: (N,) mask of the rows to search; `None` for all rows.
        strict: Whether a photo that cannot be read is an error. Results of groups before it are yielded.
        progress: Called with the number of photos just finished.
        group_size: Number of photos that are encoded before their results are yielded, best a multiple of `encoder.batch_size`;
            `None` for all. Photos whose descriptors depend on each other are always encoded together.
        reranking: Options of re-ranking; `None` keeps the order of similarity.
        all_candidates: Whether results have all matches that re-ranking considered, also beyond `top_k`.
    """
    check_encoder(index, encoder, for_queries=True)
    reranker = None if reranking is None else open_reranker(index, encoder, reranking)
    num_searched = top_k if reranking is None else max(top_k, reranking.num_searched)
    num_shown = num_searched if all_candidates else top_k
    listings = [_list_queries(Path(query)) for query in queries]
    report_remarks(merge_remarks(remark for listing in listings for remark in listing.remarks))
    photos = [photo for listing in listings for photo in listing.photos]
    skipped = {path: reason for listing in listings for path, reason in listing.skipped.items()}
    unread = [SearchResult(Path(path), [], reason) for path, reason in skipped.items()]
    remarks: list[Remark] = []
    step = len(photos) if group_size is None or encoder.depends_on_batch else group_size
    for start in range(0, len(photos), max(1, step)):
        group = photos[start : start + step]
        encoded = encode_queries(encoder, group, progress)
        remarks += encoded.remarks([str(photo) for photo in group])
        skipped = {str(group[row]): reason for row, reason in encoded.skipped.items()} | skipped
        if strict:
            report_skipped(skipped, len(photos) + len(unread), strict)
        matches = index.search(encoded.descriptors, num_searched, allowed=allowed)
        if reranker is not None:
            matches = reranker.rerank_matches(encoded.descriptors, [group[row] for row in encoded.rows.tolist()], matches)
        matches_of_row = dict(zip(encoded.rows.tolist(), matches, strict=True))
        for row, photo in enumerate(group):
            yield SearchResult(photo, matches_of_row.get(row, [])[:num_shown], encoded.skipped.get(row))
    if reranker is not None:
        reranker.report()
    report_remarks(merge_remarks(remarks))
    report_skipped(skipped, len(photos) + len(unread), strict)
    yield from unread


def _list_queries(query: Path) -> PhotoListing:
    """Return the photos of a folder, or a photo itself; an empty folder itself, so that it becomes a result with an error.

    The paths of images that are not read have the folder too.
    """
    if not query.is_dir():
        return PhotoListing([query])
    try:
        listing = list_photos(query)
    except FileNotFoundError as error:
        logger.warning("%s", error)  # names the images that were skipped
        return PhotoListing([query])
    return replace(listing, skipped={str(query / path): reason for path, reason in listing.skipped.items()})
