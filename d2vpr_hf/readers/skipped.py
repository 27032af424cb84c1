"""Photos that are skipped: why, and how that is reported."""

from __future__ import annotations

import logging
from collections.abc import Collection

logger = logging.getLogger(__name__)


def report_skipped(skipped: dict[str, str], total: int, strict: bool) -> None:
    """Name and count the photos that were left out; with `strict`, as an error."""
    if not skipped:
        return
    lines = [
        f"{len(skipped)} of {total} photos were left out:",
        *(f"  {path}: {why}" for path, why in skipped.items()),
    ]
    if strict:
        raise ValueError("\n".join(lines))
    logger.warning("\n".join(lines))


def name_problem(path: str, seen: Collection[str]) -> dict[str, str]:
    """Say why a photo of such a name is left out, by its name as it can be written down; nothing if it is not."""
    if path in seen:
        return {path: "there twice; the first was taken"}
    return {_as_text(path): "its name is not UTF-8"} if _as_text(path) != path else {}


def _as_text(path: str) -> str:
    """Return a name with what cannot be written down replaced; Linux allows any bytes."""
    return path.encode(errors="backslashreplace").decode()
