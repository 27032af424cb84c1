"""The photos that a model's projection was fitted to: recall on them is too high, so an evaluation warns."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.readers.photos import open_photo_file
from d2vpr_hf.utils.bounded_files import parse_json

logger = logging.getLogger(__name__)

PROJECTION_FILE = "projection.json"


def warn_of_other_aspect(model_folder: str, keep_aspect: bool) -> None:
    """Warn if a model's projection was fitted to photos that keep their aspect, and the model is opened without this."""
    if not keep_aspect and _read_facts(model_folder).get("keep_aspect"):
        logger.warning(
            "The projection of %s was fitted to photos that keep their aspect, and here they are resized to one size. Give "
            "`keep_aspect=True`.",
            model_folder,
        )


def warn_of_fitted_photos(model_folder: str | None, photos: Sequence[Path]) -> int:
    """Count the photos that a model's projection was fitted to, and warn if there are any: recall on them is too high."""
    fitted = set(_read_facts(model_folder).get("photos", ()))
    if not fitted:
        return 0
    count = sum(checksum in fitted for checksum in checksums(photos))
    if count:
        logger.warning(
            "The model's projection was fitted to %d of these %d photos: recall on them is too high. Fit it to other photos.",
            count,
            len(photos),
        )
    return count


def _read_facts(model_folder: str | None) -> dict[str, Any]:
    """Return the entries of the file of a model's projection; an empty table without one."""
    file = Path(model_folder or "") / PROJECTION_FILE
    if model_folder in (None, EMBEDDED_NAME) or not file.is_file():
        return {}
    facts: dict[str, Any] = parse_json(file.read_text(encoding="utf-8"))
    return facts


def checksums(photos: Iterable[Path]) -> list[str]:
    """Hash the contents of photos: 16 hexadecimal digits of SHA-256 each."""
    return [digest for photo in photos if (digest := _checksum(photo))]


def _checksum(photo: Path) -> str | None:
    """Return the checksum of a photo; `None` for one that cannot be read, which decoding reports."""
    try:
        with open_photo_file(photo) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return None
