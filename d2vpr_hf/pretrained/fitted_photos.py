"""Which photos a model's projection was fitted on, so that nobody evaluates it on them unawares."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

PROJECTION_FILE = "projection.json"


def warn_of_fitted_photos(model_folder: str | None, photos: Sequence[Path]) -> int:
    """Count the photos that a model's projection was fitted on, and warn if there are any: recall on them is too good."""
    file = Path(model_folder or "") / PROJECTION_FILE
    if model_folder is None or not file.is_file():
        return 0
    known = set(json.loads(file.read_text(encoding="utf-8"))["photos"])
    count = sum(checksum in known for checksum in checksums(photos))
    if count:
        logger.warning(
            "%d of these %d photos are those that the model's projection was fitted on: recall on them is too good. "
            "Fit it to other photos.",
            count,
            len(photos),
        )
    return count


def checksums(photos: Iterable[Path]) -> list[str]:
    """Hash the contents of photos: 16 hexadecimal digits of SHA-256 each."""
    return [hashlib.sha256(photo.read_bytes()).hexdigest()[:16] for photo in photos if photo.is_file()]
