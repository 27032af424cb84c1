"""Recalibration of the confidences of sequences on labelled sequences of another area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import logit

from d2vpr_hf.localization.confidence_fit import fit_regression
from d2vpr_hf.sequences.evidence import LEAST_CONFIDENCE
from d2vpr_hf.sequences.localizer import SequenceAnswer, SequenceSettings


def plain_settings(settings: SequenceSettings) -> SequenceSettings:
    """Return settings without a recalibration."""
    return replace(settings, slope=1.0, agreement=0.0, bias=0.0)


def fit_recalibration(
    sequences: Sequence[Sequence[SequenceAnswer]], correct: Sequence[Sequence[bool]], settings: SequenceSettings
) -> SequenceSettings:
    """Fit the recalibration of confidences to labelled sequences, and return the settings with it.

    Args:
        sequences: Answers of [`SequenceLocalizer.smooth`] with [`plain_settings`], of several sequences of at least two frames,
            some of them outside the map.
        correct: Whether the position of each of these answers is correct, with `precision=0`; false for "no match".
        settings: The settings.

    Raises:
        ValueError: If an answer has no confidence, or all or none are correct.
    """
    features, labels = [], []
    for answers, marks in zip(sequences, correct, strict=True):
        usable = [(answer, mark) for answer, mark in zip(answers, marks, strict=True) if answer.seconds is not None]
        if any(answer.confidence is None or answer.confidence_alone is None for answer, _ in usable):
            raise ValueError("A recalibration needs confidences. Calibrate the index first.")
        odds_of_answers = [_log_odds(answer.confidence or 0.0) for answer, _ in usable]
        mean = float(np.mean([_log_odds(answer.confidence_alone or 0.0) for answer, _ in usable])) if usable else 0.0
        features += [(odds, mean) for odds in odds_of_answers]
        labels += [mark for _, mark in usable]
    rows, is_correct = np.array(features), np.array(labels, bool)
    if not len(rows) or is_correct.all() or not is_correct.any():
        raise ValueError(
            f"A recalibration needs correct and wrong answers, got {int(is_correct.sum())} correct of {len(is_correct)}."
        )
    regression = fit_regression(rows, is_correct)
    weights = np.array(regression["weights"]) / regression["deviations"]
    slope, agreement = weights.tolist()
    return replace(settings, slope=slope, agreement=agreement, bias=float(regression["bias"] - weights @ regression["means"]))


def _log_odds(confidence: float) -> float:
    return float(logit(np.clip(confidence, LEAST_CONFIDENCE, 1 - LEAST_CONFIDENCE)))
