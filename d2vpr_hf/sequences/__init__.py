"""Sequences: localization of the frames of a drive or walk together, and loop closure."""

from d2vpr_hf.sequences.localizer import SequenceAnswer, SequenceLocalizer, SequenceSettings
from d2vpr_hf.sequences.motion import Motion, Step

__all__ = ["Motion", "SequenceAnswer", "SequenceLocalizer", "SequenceSettings", "Step"]
