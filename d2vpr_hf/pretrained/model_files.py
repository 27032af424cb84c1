"""Single files of models in folders and on the Hub. This module loads neither torch nor transformers."""

import re
from pathlib import Path
from typing import Any

from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.hub_ids import is_hub_id

CONFIG_NAME = "config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
EMPTY_NAME = "The model's name is empty. Give a folder, a Hub id, or `embedded` for the model in this package."
OWN_TITLES = {"d2vpr": "D²-VPR", "cricavpr": "CricaVPR"}  # of the models of this package, by `model_type`


def stored_config(name: str | Path | None, revision: str | None = None) -> dict[str, Any]:
    """Return the contents of a model's `config.json`; an empty table if there is none, or it cannot be read."""
    if name is None or name == EMBEDDED_NAME:
        return {}
    path = fetch_file(name, CONFIG_NAME, revision)
    try:
        values = {} if path is None else parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def fetch_file(name: str | Path, file: str, revision: str | None = None, *, download: bool = True) -> Path | None:
    """Return a file of a model in a folder, or of one on the Hub; `None` if it has no such file, or cannot be reached.

    The cache also records files that a commit does not have, so that the Hub is asked once for each commit. Without `download`
    the Hub is not asked, and a file that is not in the cache is `None`.
    """
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    if isinstance(name, Path) or not is_hub_id(name):
        return None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    is_commit = _COMMIT.fullmatch(revision or "") is not None
    cached = try_to_load_from_cache(name, file, revision=revision) if is_commit or not download else None
    if cached is None and download:
        try:
            cached = hf_hub_download(name, file, revision=revision)
        except (OSError, ValueError):  # also the errors of the Hub's client
            return None
    return Path(cached) if isinstance(cached, str) else None  # a value of another type: the commit has no such file


def is_vision_config(values: dict[str, Any]) -> bool:
    """Return whether the contents of a `config.json` are those of a model that is not of this package."""
    return bool(values) and str(values.get("model_type")) not in OWN_TITLES
