"""Remarks of readers: what they skipped, corrected or assumed in photos and tables, with counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from d2vpr_hf.utils.printable import printable_line

logger = logging.getLogger(__name__)

RemarkKind = Literal["skipped", "corrected", "assumed"]


@dataclass(frozen=True)
class Remark:
    """A line about all photos or files that a reader treated in the same way.

    Attributes:
        kind: `"skipped"` for files that are not read as photos, such as thumbnails; `"corrected"` for values that were changed;
            `"assumed"` for values that their source leaves open.
        text: The photos or files and their treatment, as a plural: `"files in folders of thumbnails"`.
        count: Their number.
        example: Path of the first one.
    """

    kind: RemarkKind
    text: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.kind.capitalize()}: {self.count} {self.text}, such as {printable_line(self.example)}."

    def to_dict(self) -> dict[str, Any]:
        """Return the remark as JSON values."""
        return asdict(self)


class RemarkCounter:
    """Collects remarks while photos are read, and counts those with the same text."""

    def __init__(self) -> None:
        self._counts: dict[tuple[RemarkKind, str], tuple[int, str]] = {}

    def add(self, kind: RemarkKind, text: str, example: str, count: int = 1) -> None:
        """Count more photos or files, by default one; the first one of a text is its example."""
        counted, first = self._counts.get((kind, text), (0, example))
        self._counts[kind, text] = counted + count, first

    def summary(self) -> tuple[Remark, ...]:
        """Return a remark for each text: first the skipped files, then corrections, then assumptions."""
        remarks = [Remark(kind, text, count, example) for (kind, text), (count, example) in self._counts.items()]
        return tuple(sorted(remarks, key=lambda remark: get_args(RemarkKind).index(remark.kind)))


def merge_remarks(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Return one remark for each text of several tables, with the sum of their counts."""
    counter = RemarkCounter()
    for remark in remarks:
        counter.add(remark.kind, remark.text, remark.example, remark.count)
    return counter.summary()


def report_remarks(remarks: Iterable[Remark], source: str = "") -> None:
    """Log one warning for each remark; it begins with the name of its source, if there are several."""
    for remark in remarks:
        logger.warning("%s%s", f"{source}: " if source else "", remark)
