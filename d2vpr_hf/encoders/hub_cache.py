"""Known models in the Hub's cache on this machine. Importing this module loads no torch."""

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from d2vpr_hf.encoders.known_models import KnownModel
from d2vpr_hf.pretrained.embedded_model import EMBEDDED_NAME

WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_SETTINGS = ("config.json", "preprocessor_config.json")


def needed_files(model: KnownModel) -> tuple[str, ...]:
    """Return the files of a model's repository that opening it needs, the largest last; weights in shards have others."""
    return (model.onnx.name,) if model.onnx is not None else (*_SETTINGS, WEIGHTS)


def cached_commit(model: KnownModel) -> str | None:
    """Return the commit of a model whose files are all in the Hub's cache; `None` if a file is missing.

    It is the commit that the main branch was at when the files were downloaded.
    """
    if model.hub_id is None:
        return None
    files = [_cached_file(model.hub_id, name) for name in needed_files(model)]
    if model.onnx is None and files[-1] is None:
        files[-1:] = _cached_shards(model.hub_id)
    if None in files:
        return None
    folders = {file.parent for file in files if file is not None}
    return folders.pop().name if len(folders) == 1 else None  # the cache has a folder for each commit


def is_usable_offline(model: KnownModel) -> bool:
    """Return whether a model can be opened without a network: it comes with this package, or is in the Hub's cache."""
    return model.name == EMBEDDED_NAME or cached_commit(model) is not None


def _cached_file(name: str, file: str) -> Path | None:
    """Return a file of a model's main branch in the cache; `None` if it is missing there."""
    path = try_to_load_from_cache(name, file)
    return Path(path) if isinstance(path, str) else None  # a value of another type: the repository does not have the file


def _cached_shards(name: str) -> list[Path | None]:
    """Return the shards of a model's weights in the cache; `[None]` if their index is missing or damaged."""
    index = _cached_file(name, _WEIGHTS_INDEX)
    if index is None:
        return [None]
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return [None]
    return [index, *(_cached_file(name, shard) for shard in sorted(shards))]
