"""The kinds of folders that `d2vpr push` uploads, recognised by their files. This module loads no network."""

from enum import StrEnum
from pathlib import Path

from d2vpr_hf.index.manifest import MANIFEST
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import CARD_FILE
from d2vpr_hf.utils.bounded_files import parse_json

_CONFIG_FILE = "config.json"
_EXPORT_FILE = "export.json"
_WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
_PUBLISHED = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


class FolderKind(StrEnum):
    """The kind of a folder."""

    MODEL = "model"
    GRAPH = "graph"  # that `d2vpr export` wrote
    ENCODER = "encoder"  # of another library, with a card
    INDEX = "index"


def recognize_folder(source: str | Path) -> FolderKind:
    """Return the kind of a folder; `"embedded"` is a model.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is not a model, an exported graph or an index.
    """
    folder = Path(source)
    if str(source) == EMBEDDED_NAME:
        return FolderKind.MODEL
    if folder.is_file():
        hint = " `d2vpr convert` makes a model folder of weights." if folder.suffix.lower() in _PUBLISHED else ""
        raise ValueError(f"{source} is a file. Expected the folder of a model or of an index.{hint}")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {source}. Give the folder of a model or of an index, or `embedded`.")
    if (folder / _EXPORT_FILE).is_file():
        return FolderKind.GRAPH
    if (folder / CARD_FILE).is_file():
        return FolderKind.ENCODER
    if (folder / _CONFIG_FILE).is_file():
        return FolderKind.MODEL
    if (folder / MANIFEST).is_file() and _is_manifest(folder / MANIFEST):
        return FolderKind.INDEX
    raise ValueError(_unknown(folder))


def _is_manifest(path: Path) -> bool:
    """Return whether a file is the manifest of an index, possibly a damaged one: programs for the web use the name too."""
    try:
        values = parse_json(path.read_bytes())
    except ValueError:
        return True
    return isinstance(values, dict) and "fingerprint" in values


def _unknown(folder: Path) -> str:
    """Return the message for a folder of an unknown kind."""
    expected = f"{folder} is neither a model (config.json), nor an exported graph (export.json), nor an index (manifest.json)."
    models = [name for name in ("best", "last") if (folder / name / _CONFIG_FILE).is_file()]
    if models:
        return f"{expected} It is the folder of a training run: push {folder / models[0]}."
    if any(path.is_file() for pattern in _WEIGHTS for path in folder.glob(pattern)):
        return f"{expected} It has weights, but no configuration; `d2vpr convert` makes a model folder of a weights file."
    return f"{expected} `d2vpr convert` writes models, and `d2vpr index` makes an index of photos."
