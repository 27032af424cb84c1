"""Localization: a position with a radius and a confidence, computed from the matches of a photo."""

from d2vpr_hf.localization.calibration import Calibration, fit_calibration
from d2vpr_hf.localization.consensus import PositionEstimate, estimate_position
from d2vpr_hf.localization.localize import Localization, localize
from d2vpr_hf.localization.localize_photos import (
    calibrate,
    iterate_localize,
    load_calibration,
    localize_descriptors,
    localize_photos,
)
from d2vpr_hf.localization.reliability import Reliability, cross_judge, judge_calibration

__all__ = [
    "Calibration",
    "Localization",
    "PositionEstimate",
    "Reliability",
    "calibrate",
    "cross_judge",
    "estimate_position",
    "fit_calibration",
    "iterate_localize",
    "judge_calibration",
    "load_calibration",
    "localize",
    "localize_descriptors",
    "localize_photos",
]
