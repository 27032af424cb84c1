"""Sequences: localization of the frames of a drive or walk together, and loop closure."""

from d2vpr_hf.sequences.localizer import SequenceAnswer, SequenceFilter, SequenceLocalizer, SequenceSettings
from d2vpr_hf.sequences.loops import Loop, LoopDetector
from d2vpr_hf.sequences.motion import Motion, Step

__all__ = [
    "Loop",
    "LoopDetector",
    "Motion",
    "SequenceAnswer",
    "SequenceFilter",
    "SequenceLocalizer",
    "SequenceSettings",
    "Step",
]
