"""The reranker of an index, or of other descriptors, for an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME
from d2vpr_hf.reranking.known_weights import with_known_weights
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.reranking.region_similarity import position_penalties
from d2vpr_hf.reranking.region_sources import EncodedRegions, RegionSource, indexed_regions
from d2vpr_hf.reranking.reranker import FindUnsure, Reranker

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Encoder


def open_reranker(index: PlaceIndex, encoder: Encoder, options: Reranking) -> Reranker:
    """Return the reranker of an index.

    Args:
        index: The index; with `mode="unsure"`, it needs a calibration.
        encoder: Encoder of the queries.
        options: Options of re-ranking.

    Raises:
        ValueError: If the encoder gives no regions, the photos of the index are needed and their folder does not exist, or the
            index has no calibration that fits and `mode="unsure"` needs one.
    """
    from d2vpr_hf.localization.calibrated_reranking import calibrated_reranking  # localization imports this room

    check_regions(encoder)
    return index_reranker(index, encoder, *calibrated_reranking(index, encoder, options))


def index_reranker(index: PlaceIndex, encoder: Encoder, options: Reranking, find_unsure: FindUnsure | None = None) -> Reranker:
    """Return the reranker of an index, without its calibration.

    Args:
        index: The index.
        encoder: Encoder of the queries.
        options: Options of re-ranking.
        find_unsure: Finds the queries to re-rank; `None` re-ranks all.

    Raises:
        ValueError: If the encoder gives no regions, or the photos of the index are needed and their folder does not exist.
    """
    boxes = check_regions(encoder)
    if encoder.fingerprint == index.settings.fingerprint and holds_regions(encoder):
        return make_reranker(encoder, indexed_regions(index, len(boxes)), options, find_unsure)
    photo_folder, places = index.settings.photo_folder, index.places
    if not photo_folder.is_dir():
        raise ValueError(
            f"The descriptors of {index.folder} hold no regions, and its photos are not in {photo_folder} to be encoded again. "
            "Leave `rerank` out, or bring the photos there."
        )
    source = EncodedRegions(encoder, lambda row: photo_folder / places[row].path)
    return make_reranker(encoder, source, options, find_unsure)


def make_reranker(
    encoder: Encoder, source: RegionSource, options: Reranking, find_unsure: FindUnsure | None = None
) -> Reranker:
    """Return a reranker with the weights that are known for the model of an encoder.

    Args:
        encoder: Encoder of the queries.
        source: The regions of queries and rows.
        options: Options of re-ranking.
        find_unsure: Finds the queries to re-rank; `None` re-ranks all.

    Raises:
        ValueError: If the encoder gives no regions.
    """
    penalties = position_penalties(check_regions(encoder))
    return Reranker(source, penalties, with_known_weights(options, encoder.fingerprint), find_unsure)


def holds_regions(encoder: Encoder) -> bool:
    """Return whether the descriptors of an encoder are the features of regions in a row."""
    return bool(getattr(encoder, "holds_regions", False))


def check_regions(encoder: Encoder) -> Any:
    """Return the boxes of an encoder's regions.

    Raises:
        ValueError: If it gives none, or encodes queries as crops.
    """
    boxes = getattr(encoder, "region_boxes", None)
    form = getattr(encoder, "test_time", DEFAULT_TEST_TIME)
    if form != DEFAULT_TEST_TIME:
        raise ValueError(
            f"Re-ranking compares the regions of whole photos, and `test_time={form!r}` encodes queries as crops. Leave one of "
            "them out."
        )
    can_encode = holds_regions(encoder) or bool(getattr(encoder, "can_encode_regions", False))
    if boxes is None or not can_encode:
        raise ValueError(
            f"{encoder.model_name or 'This encoder'} gives descriptors only, without regions or tokens of patches, so that its "
            "matches cannot be re-ranked. Leave `rerank` out, or use a D²-VPR, a CricaVPR or a vision transformer of "
            "transformers, with its weights."
        )
    return boxes
