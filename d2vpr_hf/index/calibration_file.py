"""The calibration of an index, in a file that its manifest names."""

import json
from dataclasses import replace
from typing import Any

from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import DamagedIndexError, StoredFile, calibration_file
from d2vpr_hf.index.shards import content_problem


def read_calibration(folder: IndexFolder) -> dict[str, Any] | None:
    """Return what is stored, or `None`.

    Raises:
        DamagedIndexError: If its file is missing or damaged.
    """
    stored = folder.manifest.calibration
    if stored is None:
        return None
    problem = content_problem(folder.path, stored)
    if problem is not None:
        advice = "`d2vpr calibrate INDEX --queries DIR` makes it anew; everything else in the index can be used"
        raise DamagedIndexError(f"The calibration of {folder.path} is damaged: {stored.name}: {problem}. {advice}.")
    return json.loads((folder.path / stored.name).read_bytes())


def store_calibration(folder: IndexFolder, calibration: dict[str, Any]) -> None:
    """Store JSON values in a file named by its content, so that a new one never overwrites the one in force."""
    content = (json.dumps(calibration, indent=2, allow_nan=False) + "\n").encode()
    stored = StoredFile.of(calibration_file(content), content)
    folder.commit({stored.name: content}, replace(folder.manifest, calibration=stored))
