"""The definition of sequences of photos for evaluations, as the field counts them.

SeqNet (Garg and Milford, arXiv 2102.11603): a window of L photos around each photo, and a match is correct if the centre photos
of both windows are near. JIST (Berton et al., IEEE RA-L 2024), on MSLS: complete windows of consecutive frames on both sides,
and a match is correct if any frame of one window is near any frame of the other. Both omit queries without a positive, as
`recall_with_positives` of a report does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Scores = Literal["mean", "sum"]
SequencePositives = Literal["centre", "any"]


@dataclass(frozen=True)
class SequenceRule:
    """The definition of sequences and of their positives.

    Attributes:
        length: Number of photos in a sequence.
        scores: `"mean"` compares the means of descriptors, divided by their length; `"sum"` adds the similarities of the first
            photos of both sequences, of the second ones, and so on (SeqSLAM's score without a search over speeds).
        positives: `"centre"`: a match is correct if the centre photos are positives (SeqNet); `"any"`: if any photo of one
            sequence is a positive of any photo of the other (JIST).
    """

    length: int
    scores: Scores = "mean"
    positives: SequencePositives = "centre"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"Expected `sequence_length` of at least 1, got {self.length}.")
        for name, value, allowed in (
            ("sequence_scores", self.scores, get_args(Scores)),
            ("sequence_positives", self.positives, get_args(SequencePositives)),
        ):
            if value not in allowed:
                raise ValueError(f"Expected `{name}` as one of {', '.join(allowed)}, got {value!r}.")

    @property
    def centre(self) -> int:
        """The number of the centre photo in a sequence, from 0; of an even number, the first of the second half."""
        return self.length // 2

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as JSON values, for reports."""
        return asdict(self)

    def __str__(self) -> str:
        scores = "mean of the descriptors" if self.scores == "mean" else "sum of the similarities of photos in order"
        positives = "the centre photos are near" if self.positives == "centre" else "any two photos of them are near"
        return f"{self.length} consecutive photos, compared by the {scores}; a match is correct if {positives}"
