"""The extractor of global descriptors for hloc (https://github.com/cvg/Hierarchical-Localization)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

EXTRACTOR = "d2vpr"  # the name of the module in hloc_extractors/, and so in hloc's configurations
_FOLDER = Path(__file__).parent / "hloc_extractors"


def hloc_configuration(model: str | None = None, **options: Any) -> dict[str, Any]:
    """Return a configuration for `hloc.extract_features.main`, and let hloc find the extractor.

    hloc loads extractors by their names from its own package; this function adds a folder to the path of `hloc.extractors`.
    Call it in each process that extracts. The photos are not resized before the model's own preprocessing, so that the
    descriptors are those of [`PlaceEncoder`].

    Args:
        model: A folder, a Hub id, or another name that [`PlaceEncoder`] takes; `None` for the embedded model.
        options: Other arguments of [`PlaceEncoder`], such as `backend` or `image_size`.

    Raises:
        ImportError: If hloc is not installed.
    """
    try:
        extractors = importlib.import_module("hloc.extractors")
    except ImportError as error:
        raise ImportError(
            f"hloc cannot be imported ({error}). It is not in a package index: install it from "
            "https://github.com/cvg/Hierarchical-Localization."
        ) from error
    if str(_FOLDER) not in extractors.__path__:
        extractors.__path__.append(str(_FOLDER))
    return {
        "output": "global-feats-d2vpr",
        "model": {"name": EXTRACTOR, "model": model, "options": options},
        "preprocessing": {},
    }
