"""The parsers that read strangers' files, as targets of the fuzzers: importing this package fills [`TARGETS`]."""

from tests.fuzz.targets import arrays, indexes, models, photos, tables  # noqa: F401 - each adds its targets
from tests.fuzz.targets.registry import TARGETS, Prepared, WrongAnswerError

__all__ = ["TARGETS", "Prepared", "WrongAnswerError"]
