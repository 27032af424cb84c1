"""Known models in the Hub's cache on this machine. Importing this module loads no torch."""

from pathlib import Path

from d2vpr_hf.backends.onnx_file import read_outline
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import is_plain_name
from d2vpr_hf.model_info.known_models import KnownModel
from d2vpr_hf.utils.bounded_files import parse_json

WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_SETTINGS = ("config.json", "preprocessor_config.json")


def needed_files(model: KnownModel) -> tuple[str, ...]:
    """Return the files of a model's repository that opening it needs, the largest last; weights in shards have others."""
    return (model.onnx.name,) if model.onnx is not None else (*_SETTINGS, WEIGHTS)


def cached_commit(model: KnownModel) -> str | None:
    """Return a commit of a model whose files are all in the Hub's cache; `None` if there is none.

    It is the commit of the main branch if that is complete, otherwise the latest one.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if model.hub_id is None:
        return None
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model.hub_id, repo_type="model")
    snapshots = cache.glob("snapshots/*")  # a folder for each commit
    complete = {path.name: path.stat().st_mtime for path in snapshots if _is_complete(path, model)}
    main = cache / "refs" / "main"
    main_commit = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
    return main_commit if main_commit in complete else max(complete, key=complete.__getitem__, default=None)


def is_usable_offline(model: KnownModel) -> bool:
    """Return whether a model can be opened without a network: it comes with this package, or is in the Hub's cache."""
    return model.name == EMBEDDED_NAME or cached_commit(model) is not None


def _is_complete(snapshot: Path, model: KnownModel) -> bool:
    """Return whether a folder has all files of a model."""
    *others, weights = needed_files(model)
    if not all((snapshot / name).is_file() for name in others):
        return False
    if model.onnx is not None:
        return _has_external_files(snapshot, weights)
    return (snapshot / weights).is_file() or _has_all_shards(snapshot)


def _has_external_files(snapshot: Path, graph: str) -> bool:
    """Return whether a folder has a graph, and the files that hold weights of it."""
    try:
        names = read_outline(snapshot / graph).external_files
    except (OSError, ValueError):  # missing or damaged
        return False
    return all(is_plain_name(name) and (snapshot / name).is_file() for name in names)


def _has_all_shards(snapshot: Path) -> bool:
    """Return whether a folder has weights in shards, all of them."""
    try:
        names = set(parse_json((snapshot / _WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
        return False
    return bool(names) and all(is_plain_name(name) and (snapshot / name).is_file() for name in names)
