"""From matches to an answer: a position with a radius and a confidence, no match, or why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2vpr_hf.index import Match
from d2vpr_hf.localization.calibration import Calibration
from d2vpr_hf.localization.consensus import NUM_MATCHES, estimate_position
from d2vpr_hf.places import Place

PRECISION = 0.95  # of the answers that are given, where the user does not choose
NOT_CALIBRATED = "not calibrated: `d2vpr calibrate INDEX --queries DIR` makes confidences and radii of labelled queries"
NO_MATCHES = "no place of the index came into question"
NO_POSITIONS = "the matches have no positions in metres"


@dataclass(frozen=True)
class Localization:
    """Where a photo was taken.

    Attributes:
        query: The photo, as it was given.
        place: The position: degrees and UTM metres, or metres of a local frame, and the heading of the best match there; `None`
            if there is no match, or no position.
        radius_90: Metres within which the truth lies in 90 % of such cases; `None` without a calibration or a place.
        confidence: Probability that the position is right to 25 m, in [0, 1]; `None` without a calibration.
        no_match: Whether the confidence is too low for an answer; `None` where nobody can tell.
        note: What is missing for a full answer, or `None`.
        error: Why the photo could not be read, or `None`.
    """

    query: str
    place: Place | None = None
    radius_90: float | None = None
    confidence: float | None = None
    no_match: bool | None = None
    note: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `d2vpr localize --json` prints."""
        place = self.place or Place("")
        fields = ("latitude", "longitude", "utm_east", "utm_north", "utm_zone", "heading")
        local = ("x", "y", "z", "yaw", "frame") if place.is_local else ()
        result = {"query": self.query} | place.to_dict(*fields, *local)
        result |= {"radius_90": self.radius_90, "confidence": self.confidence, "no_match": self.no_match}
        notes = {"note": self.note, "error": self.error}
        return result | {name: text for name, text in notes.items() if text is not None}


def localize(
    matches: Sequence[Match], calibration: Calibration | None, query: str = "", precision: float = PRECISION
) -> Localization:
    """Say where a photo was taken.

    Args:
        matches: Of one query, the nearest first.
        calibration: What was fitted on labelled queries of this map; `None` for none: the answer is then the consensus alone.
        query: The photo's name.
        precision: Share of right ones among the answers given, as the calibration's split had it; less sure ones are no match.
    """
    num_matches = NUM_MATCHES if calibration is None else calibration.num_matches
    estimate = estimate_position(matches, num_matches, *_radius(calibration))
    if estimate is None:
        return Localization(query, note=NO_POSITIONS if matches else NO_MATCHES)
    if calibration is None:
        return Localization(query, estimate.place, note=NOT_CALIBRATED)
    confidence = float(calibration.confidences(estimate.features[None])[0])
    if confidence < calibration.threshold(precision):
        return Localization(query, confidence=confidence, no_match=True)
    return Localization(query, estimate.place, calibration.radius_90(confidence), confidence, no_match=False)


def _radius(calibration: Calibration | None) -> tuple[float, ...]:
    return () if calibration is None else (calibration.positive_dist_threshold,)
