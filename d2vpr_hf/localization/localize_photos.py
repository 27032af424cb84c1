"""Localization of photos, and calibration of an index; the command line calls these functions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from d2vpr_hf.encoders import encode_queries
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization.calibration import MIN_QUERIES, PRECISION, Calibration, fit_calibration, num_matches_of
from d2vpr_hf.localization.consensus import NUM_MATCHES, PositionEstimate, estimate_position
from d2vpr_hf.localization.labelled_reranking import LabelledMatches, rerank_labelled
from d2vpr_hf.localization.localize import NO_POSITIONS, Localization, fit_of_reranked, localize
from d2vpr_hf.localization.reliability import Reliability, cross_judge
from d2vpr_hf.localization.reranked_fit import RerankedEstimate
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.place_table import check_any_photo
from d2vpr_hf.readers.remarks import report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.retrieval.compatibility import check_encoder
from d2vpr_hf.retrieval.given_descriptors import search_descriptors
from d2vpr_hf.retrieval.search_photos import SearchResult, iterate_search
from d2vpr_hf.retrieval.shared_photos import find_indexed_photos, warn_of_shared_photos

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Encoder, Progress
    from d2vpr_hf.places.filters import Mask

logger = logging.getLogger(__name__)

NO_INDEX_POSITIONS = (
    "none of its photos has a position. List them in a CSV file with latitude and longitude, or x and y, and run "
    "`d2vpr index` again; photos that are encoded already are not encoded again."
)


def load_calibration(index: PlaceIndex, encoder: Encoder | None = None) -> Calibration | None:
    """Return the calibration of an index, or `None` if it has none.

    Args:
        index: The index.
        encoder: Encoder of the queries. A calibration belongs to the pair of models of index and queries: one of another pair
            is not returned, and a warning says so. `None` returns any.

    Raises:
        ValueError: If the calibration is damaged, or was made with another model than the index.
    """
    values = index.calibration
    if values is None:
        return None
    calibration = Calibration.from_dict(values)
    if calibration.fingerprint not in (None, index.settings.fingerprint):
        raise ValueError(
            f"The calibration of {index.folder} was made with another model. Make a new one with `d2vpr calibrate`."
        )
    if encoder is not None and not _is_of_pair(calibration, index, encoder):
        logger.warning("%s Answers have neither confidence nor radius.", _other_pair(calibration, index))
        return None
    return calibration


def _is_of_pair(calibration: Calibration, index: PlaceIndex, encoder: Encoder) -> bool:
    """Return whether a calibration was made with queries of the encoder's model; those of unknown models pass."""
    expected = calibration.query_fingerprint or index.settings.fingerprint
    return calibration.fingerprint is None or encoder.fingerprint == expected


def check_pair_of(calibration: Calibration | None, index: PlaceIndex, encoder: Encoder) -> None:
    """Raise ValueError if a calibration was made with queries of another model than the encoder's."""
    if calibration is not None and not _is_of_pair(calibration, index, encoder):
        raise ValueError(_other_pair(calibration, index))


def _other_pair(calibration: Calibration, index: PlaceIndex) -> str:
    made_with = calibration.query_model or index.settings.model_name or "another model"
    return (
        f"The calibration of {index.folder} was made with queries of {made_with}, and similarities of another model have "
        "another scale. Make one with `d2vpr calibrate --model`, by the model of the queries."
    )


def localize_photos(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: Encoder,
    calibration: Calibration | None = None,
    *,
    precision: float = PRECISION,
    allowed: Mask | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    reranking: Reranking | None = None,
) -> list[Localization]:
    """Localize photos in an index.

    Args:
        index: The index of the map.
        queries: Photos, and folders of photos.
        encoder: Encoder with the index's model.
        calibration: Calibration from [`load_calibration`]; without one, answers have neither confidence nor radius.
        precision: Share of correct answers on the labelled queries; less confident answers become no match.
        allowed: (N,) mask of the rows to search, from [`PlaceFilter.allowed`]; `None` for all rows.
        strict: Whether a photo that cannot be read is an error.
        progress: Called with the number of photos that were just encoded.
        reranking: Options of re-ranking, those that the calibration was made with; `None` for no re-ranking.

    Returns:
        One answer for each photo, in their order.

    Raises:
        ValueError: If the encoder has another model than the index that is not compatible with it, or the calibration was made
            with queries of another model or without this re-ranking.
    """
    return list(
        iterate_localize(
            index,
            queries,
            encoder,
            calibration,
            precision=precision,
            allowed=allowed,
            strict=strict,
            progress=progress,
            reranking=reranking,
        )
    )


def iterate_localize(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: Encoder,
    calibration: Calibration | None = None,
    *,
    precision: float = PRECISION,
    allowed: Mask | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    group_size: int | None = None,
    reranking: Reranking | None = None,
) -> Iterator[Localization]:
    """Localize photos in an index, and yield the answers of each group of photos before the next one is encoded.

    Arguments as for [`localize_photos`], and `group_size` as for [`iterate_search`].
    """
    check_pair_of(calibration, index, encoder)
    warn_of_other_form(calibration, encoder)
    if reranking is not None and calibration is not None:
        reranking = fitted_reranking(calibration, reranking)
    top_k = num_matches_of(calibration)
    results = iterate_search(
        index,
        queries,
        encoder,
        top_k=top_k,
        allowed=allowed,
        strict=strict,
        progress=progress,
        group_size=group_size,
        reranking=reranking,
        all_candidates=True,
    )
    is_reranking = reranking is not None
    return (_localize_result(result, calibration, precision, reranking=is_reranking) for result in results)


def fitted_reranking(calibration: Calibration, reranking: Reranking) -> Reranking:
    """Return the options of re-ranking with the weights of a calibration.

    Raises:
        ValueError: If the calibration was fitted without re-ranking, or with other options.
    """
    fitted = fit_of_reranked(calibration).reranking
    if (fitted.mode, fitted.top) != (reranking.mode, reranking.top):
        raise ValueError(
            f'The calibration was fitted with `rerank="{fitted.mode}", rerank_top={fitted.top}`, and this run has '
            f'`rerank="{reranking.mode}", rerank_top={reranking.top}`. Give the former, or make a new calibration with '
            "`d2vpr calibrate --rerank`."
        )
    return fitted


def warn_of_other_form(calibration: Calibration | None, encoder: Encoder) -> None:
    """Log a warning if the queries of a calibration had another form than those of an encoder: similarities differ then."""
    form = getattr(encoder, "test_time", DEFAULT_TEST_TIME)  # encoders of other programs may have none
    if calibration is not None and calibration.test_time != form:
        logger.warning(
            'The calibration was made with queries of the form `test_time="%s"`, and these have `test_time="%s"`: confidences '
            "and radii are those of the other form. Give that form, or make a new calibration with `d2vpr calibrate`.",
            calibration.test_time,
            form,
        )


def localize_descriptors(
    index: PlaceIndex,
    descriptors: str | Path,
    calibration: Calibration | None = None,
    *,
    precision: float = PRECISION,
    allowed: Mask | None = None,
    tensor: str | None = None,
    normalize: bool = False,
) -> list[Localization]:
    """Localize descriptors that another program made; arguments as for [`localize_photos`] and [`search_descriptors`].

    Returns:
        One answer for each row of the file.

    Raises:
        ValueError: If the width is not that of the index, or values are wrong.
    """
    if calibration is not None and calibration.query_fingerprint is not None:
        logger.warning(
            "The calibration of %s was made with queries of %s, another model than that of the index. Confidences and radii "
            "are correct only if that model made the descriptors of the queries.",
            index.folder,
            calibration.query_model or "a model without a name",
        )
    top_k = num_matches_of(calibration)
    results = search_descriptors(index, descriptors, top_k=top_k, tensor=tensor, normalize=normalize, allowed=allowed)
    return [_localize_result(result, calibration, precision) for result in results]


def _localize_result(
    result: SearchResult, calibration: Calibration | None, precision: float, *, reranking: bool = False
) -> Localization:
    if result.error is not None:
        return Localization(str(result.query), error=result.error)
    return localize(result.matches, calibration, str(result.query), precision, reranking=reranking)


def calibrate(
    index: PlaceIndex,
    queries: str | Path | PlaceTable,
    encoder: Encoder,
    *,
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD,
    strict: bool = False,
    progress: Progress | None = None,
    reranking: Reranking | None = None,
) -> tuple[Calibration, Reliability]:
    """Fit a calibration to labelled queries, and estimate its reliability by fitting on halves of the queries.

    The share of queries that are outside the map should be the same as that of the photos to localize.

    Args:
        index: The index of the map.
        queries: Photos with positions, none of which is in the index.
        encoder: Encoder with the index's model.
        positive_dist_threshold: Metres within which a position is correct.
        strict: Whether a photo that cannot be used is an error.
        progress: Called with the number of photos that were just encoded.
        reranking: Options of re-ranking, to fit confidences and radii of runs that re-rank matches too; the reliability is then
            that of such runs.

    Returns:
        The calibration of all queries, to be stored with `index.store_calibration(calibration.to_dict())`, and the reliability
        of calibrations of one half on the other.

    Raises:
        ValueError: If the encoder has another model than the index, or there are too few queries, correct estimates, wrong
            estimates or positions.
    """
    check_encoder(index, encoder, for_queries=True)
    table = read_places(queries) if isinstance(queries, str | Path) else queries
    check_any_photo(table)
    placed = [place for place in table.places if place.has_position]
    _check_labelled(index, table, len(placed))
    report_remarks(table.remarks)
    photos = [table.photo(place) for place in placed]
    shared = [(placed[row].path, path) for row, path in find_indexed_photos(index, photos).items()]
    warn_of_shared_photos(shared, len(placed), "photos of the index", "confidence", "Give queries that are not in the index.")
    encoded = encode_queries(encoder, photos, progress)
    report_remarks(encoded.remarks([place.path for place in placed]))
    skipped = {place.path: "no position" for place in table.places if not place.has_position}
    skipped |= table.skipped | {placed[row].path: reason for row, reason in encoded.skipped.items()}
    report_skipped(skipped, len(table.places) + len(table.skipped), strict)
    top_k = NUM_MATCHES if reranking is None else max(NUM_MATCHES, reranking.top)
    searches = index.search(encoded.descriptors, top_k) if len(encoded.rows) else []
    estimates = _need_positions([estimate_position(matches, radius=positive_dist_threshold) for matches in searches])
    truths: list[Place] = [placed[row] for row in encoded.rows]
    reranked: list[RerankedEstimate] | None = None
    if reranking is not None:
        queries_of_rows = [photos[row] for row in encoded.rows.tolist()]
        labelled = LabelledMatches(encoded.descriptors, queries_of_rows, searches, truths, positive_dist_threshold)
        reranking, reranked = rerank_labelled(index, encoder, reranking, labelled)
    calibration = fit_calibration(
        estimates,
        truths,
        positive_dist_threshold=positive_dist_threshold,
        fingerprint=index.settings.fingerprint,
        test_time=getattr(encoder, "test_time", DEFAULT_TEST_TIME),
        reranked=reranked,
        reranking=reranking,
    )
    if encoder.fingerprint != index.settings.fingerprint:
        calibration = replace(calibration, query_fingerprint=encoder.fingerprint, query_model=encoder.model_name)
    reliability = cross_judge(estimates, truths, positive_dist_threshold, reranked=reranked, reranking=reranking)
    return calibration, replace(reliability, skipped=skipped, remarks=table.remarks)


def _check_labelled(index: PlaceIndex, table: PlaceTable, num_placed: int) -> None:
    """Raise ValueError before any photo is encoded if the index has no positions or too few queries have one."""
    if not any(place.has_position for place in index.places):
        raise ValueError(f"The index {index.folder} cannot be calibrated: {NO_INDEX_POSITIONS}")
    if num_placed < MIN_QUERIES:
        raise ValueError(
            f"A calibration needs at least {MIN_QUERIES} labelled queries; of {len(table.places)} photos in {table.folder}, "
            f"{num_placed} have a position. Add photos with positions: in a CSV file, in @ names or in EXIF."
        )


def _need_positions(estimates: Sequence[PositionEstimate | None]) -> list[PositionEstimate]:
    """Return the estimates, or raise ValueError if some are `None`."""
    positioned = [estimate for estimate in estimates if estimate is not None]
    if len(positioned) < len(estimates):
        raise ValueError(
            f"The index cannot be calibrated: for {len(estimates) - len(positioned)} of {len(estimates)} queries, "
            f"{NO_POSITIONS}. Give all photos of the map positions in a CSV file, and run `d2vpr index` again."
        )
    return positioned
