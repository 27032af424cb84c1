"""Localization of a photo from its matches: a position with a radius and a confidence, or no match."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from d2vpr_hf.index import Match
from d2vpr_hf.localization.calibration import PRECISION, Calibration, num_matches_of, radius_of
from d2vpr_hf.localization.confidence_fit import ConfidenceFit
from d2vpr_hf.localization.consensus import PositionEstimate, estimate_position
from d2vpr_hf.localization.reranked_fit import RerankedEstimate, RerankedFit, estimate_reranked
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import PLACE_COLUMNS

NOT_CALIBRATED = "not calibrated: `d2vpr calibrate INDEX --queries DIR` fits confidences and radii to labelled queries"
NO_MATCHES = "no place of the index is allowed by the filters"
NO_POSITIONS = "the matches have no positions"


@dataclass(frozen=True)
class Localization:
    """The answer for one photo.

    Attributes:
        query: Path of the photo, as the user gave it.
        place: The position in degrees and UTM metres, or in metres of a local frame, with the heading of the best match there;
            `None` without a match or a position.
        radius_90: Metres within which the true position is in 90 % of such cases; `None` without a calibration or a place.
        confidence: Probability that the position is correct to 25 m, in [0, 1]; `None` without a calibration.
        no_match: Whether the confidence is too low for an answer; `None` without a calibration or an estimate.
        note: Reason why the answer is incomplete, or `None`.
        error: Reason why the photo could not be read, or `None`.
        matches: The matches that the answer was computed from, the most similar first, or in the order of re-ranking.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("query", *PLACE_COLUMNS),
        *("radius_90", "confidence", "no_match", "note", "error", "reranked"),
    )

    query: str
    place: Place | None = None
    radius_90: float | None = None
    confidence: float | None = None
    no_match: bool | None = None
    note: str | None = None
    error: str | None = None
    matches: Sequence[Match] = ()

    @property
    def reranked(self) -> bool:
        """Whether the matches were re-ranked."""
        return bool(self.matches) and self.matches[0].reranked

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values, which `d2vpr localize --json` prints."""
        result = {"query": self.query} | (self.place or Place("")).to_dict()
        result |= {"radius_90": self.radius_90, "confidence": self.confidence, "no_match": self.no_match}
        result |= {"reranked": self.reranked}
        result |= {"matches": [match.to_dict() for match in self.matches]}
        notes = {"note": self.note, "error": self.error}
        return result | {name: text for name, text in notes.items() if text is not None}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one row with the keys `columns`: the answer without its matches."""
        values = self.to_dict()
        return [{name: values.get(name) for name in self.columns}]


def localize(
    matches: Sequence[Match],
    calibration: Calibration | None,
    query: str = "",
    precision: float = PRECISION,
    *,
    reranking: bool = False,
) -> Localization:
    """Localize a photo from its matches.

    Args:
        matches: Matches of the photo, the most similar first; re-ranked ones with all candidates, in their new order.
        calibration: Calibration of the index; without one, the answer has neither confidence nor radius.
        query: Path of the photo.
        precision: Share of correct answers on the calibration's labelled queries; less confident answers become no match.
        reranking: Whether matches of this run are re-ranked, so that thresholds and radii are those of the calibration for
            such runs.

    Raises:
        ValueError: If the calibration was fitted without re-ranking, and matches are re-ranked.
    """
    num_matches = num_matches_of(calibration)
    answer = _localize(matches, num_matches, calibration, query, precision, reranking=reranking)
    return replace(answer, matches=tuple(matches[:num_matches]))


def _localize(
    matches: Sequence[Match],
    num_matches: int,
    calibration: Calibration | None,
    query: str,
    precision: float,
    *,
    reranking: bool,
) -> Localization:
    """Localize a photo from its matches; the answer lacks these."""
    radius = radius_of(calibration)
    if calibration is None or not reranking:
        estimate: PositionEstimate | RerankedEstimate | None = estimate_position(matches, num_matches, radius)
    else:
        estimate = estimate_reranked(matches, num_matches, radius)
    if estimate is None:
        return Localization(query, note=NO_POSITIONS if matches else NO_MATCHES)
    if calibration is None:
        return Localization(query, estimate.place, note=NOT_CALIBRATED)
    fit: ConfidenceFit = calibration
    if reranking:
        fit = fit_of_reranked(calibration)
    is_reranked = isinstance(estimate, RerankedEstimate)
    confidence = float((fit if is_reranked else calibration).confidences(estimate.features[None])[0])
    if confidence < fit.threshold(precision):
        return Localization(query, confidence=confidence, no_match=True)
    return Localization(query, estimate.place, fit.radius_90(confidence), confidence, no_match=False)


def fit_of_reranked(calibration: Calibration) -> RerankedFit:
    """Return the fit of a calibration for runs that re-rank matches.

    Raises:
        ValueError: If it has none.
    """
    if calibration.reranked is None:
        raise ValueError(
            "The calibration was fitted without re-ranking, and confidences and radii of re-ranked answers are others. Make a "
            "new one with `d2vpr calibrate --rerank`, or leave `rerank` out."
        )
    return calibration.reranked
