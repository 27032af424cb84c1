"""The photos that a model's projection was fitted to: recall on them is too high, so an evaluation warns."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME

logger = logging.getLogger(__name__)

PROJECTION_FILE = "projection.json"


def warn_of_fitted_photos(model_folder: str | None, photos: Sequence[Path]) -> int:
    """Count the photos that a model's projection was fitted to, and warn if there are any: recall on them is too high."""
    file = Path(model_folder or "") / PROJECTION_FILE
    if model_folder in (None, EMBEDDED_NAME) or not file.is_file():
        return 0
    fitted = set(json.loads(file.read_text(encoding="utf-8"))["photos"])
    count = sum(checksum in fitted for checksum in checksums(photos))
    if count:
        logger.warning(
            "The model's projection was fitted to %d of these %d photos: recall on them is too high. Fit it to other photos.",
            count,
            len(photos),
        )
    return count


def checksums(photos: Iterable[Path]) -> list[str]:
    """Hash the contents of photos: 16 hexadecimal digits of SHA-256 each."""
    return [hashlib.sha256(photo.read_bytes()).hexdigest()[:16] for photo in photos if photo.is_file()]
