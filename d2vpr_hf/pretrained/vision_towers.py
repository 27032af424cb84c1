"""Load the vision tower of a model of transformers: complete, from safetensors, without executing code that comes with it."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from d2vpr_hf.model_info.encoder_card import is_plain_name
from d2vpr_hf.pretrained.loading import IDLE_TENSORS, load_config, load_reported, refuse_keys, resolve_model
from d2vpr_hf.pretrained.model_files import fetch_file
from d2vpr_hf.utils.bounded_files import parse_json

logger = logging.getLogger(__name__)

_COUNTS = ("num_hidden_layers", "num_layers", "depths")  # of layers, in configurations of transformers
_MAX_LAYERS = 1000
_SMALL = 10_000_000  # weights that any machine has memory for

POOLER_PARTS = ("pooler.", "head.")  # a model's own pooling, which checkpoints of classifiers lack


class VisionTower(NamedTuple):
    """A vision model with its weights.

    Attributes:
        model: The model in eval mode; of a model for photos and texts, the part for photos.
        missing: Names of weights of its own pooling that the checkpoint lacks, so that they are random.
    """

    model: PreTrainedModel
    missing: frozenset[str]


def load_vision_tower(name: str | Path, stored: dict[str, Any], revision: str | None = None) -> VisionTower:
    """Load a vision tower in float32.

    Weights that it does not need, such as those for texts or a classifier's, are not loaded.

    Args:
        name: Folder or Hub id of a model that transformers has.
        stored: The contents of its `config.json`.
        revision: Commit of a model on the Hub.

    Raises:
        FileNotFoundError: If there are no weights in safetensors.
        ValueError: If transformers does not have the model, it is not for photos, it is quantised, or weights are missing or of
            another shape.
    """
    model_type = stored.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise ValueError(f"The configuration of {name} cannot be read: `model_type` must be a text, got {model_type!r}.")
    if "auto_map" in stored and model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has a network of its own, in code next to its weights ({stored['auto_map']}), which this package does not "
            "execute. Export it to ONNX, and describe the file with `d2vpr card-onnx`."
        )
    is_timm = model_type == "timm_wrapper" or (model_type is None and "architecture" in stored)
    if is_timm and importlib.util.find_spec("timm") is None:
        raise ImportError(f"{name} is a model of timm, which is not installed: pip install timm torchvision")
    _check_layers(name, stored)
    source = resolve_model(name)
    pinned = {} if revision is None else {"revision": revision}
    try:
        config = vision_config(source, load_config(name, **pinned))
    except ValueError as error:
        if model_type is not None and model_type not in CONFIG_MAPPING:
            raise ValueError(
                f"transformers has no model of type {model_type!r}, that of {name}. Update transformers."
            ) from error
        raise
    if stored.get("quantization_config"):
        raise ValueError(f"{name} has quantised weights. Take the model that it was made from.")
    if not is_timm:
        _check_size(name, config, revision)
    try:
        model, report = load_reported(source, torch.float32, config=config, **pinned)
    except OSError as error:
        raise FileNotFoundError(
            f"{name} has no weights in safetensors, such as model.safetensors; other files of weights can contain programs and "
            f"are not opened. transformers: {error}"
        ) from error
    missing = frozenset(str(key) for key in report["missing_keys"] if not str(key).endswith(IDLE_TENSORS))
    random = frozenset(key for key in missing if key.removeprefix("vision_model.").startswith(POOLER_PARTS))
    refuse_keys(source, {"missing_keys": missing - random, "mismatched_keys": report["mismatched_keys"]})
    if report["unexpected_keys"]:
        logger.debug("%s has %d weights that its vision tower does not need.", name, len(report["unexpected_keys"]))
    return VisionTower(tower_of(model.eval()), random)


def _check_size(name: str | Path, config: PreTrainedConfig, revision: str | None) -> None:
    """Check that a network is not larger than the file of its weights: a configuration could state any size.

    Raises:
        ValueError: If it is, or if the configuration does not describe a network.
    """
    stored_bytes = _size_of_weights(name, revision)
    if stored_bytes is None:
        return  # loading reports it
    try:
        with torch.device("meta"):  # without memory for weights
            network = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers checks few values of configurations
        raise ValueError(f"The configuration of {name} does not describe a network: {error!r}") from error
    num_parameters = sum(weight.numel() for weight in network.parameters())
    if num_parameters > max(stored_bytes, _SMALL):  # a weight has two bytes at least; some parts may be missing
        raise ValueError(
            f"The weights of {name} do not fit its configuration: it describes a network of {num_parameters:,} weights, and "
            f"the files have {stored_bytes:,} bytes."
        )


def _check_layers(name: str | Path, stored: dict[str, Any]) -> None:
    """Raise ValueError if a configuration, or that of its vision tower, states more layers than any network has."""
    tables = (stored, stored.get("vision_config"))
    values = [table[key] for table in tables if isinstance(table, dict) for key in _COUNTS if key in table]
    counts = [count for value in values for count in (value if isinstance(value, list) else [value])]
    largest = max((count for count in counts if isinstance(count, int)), default=0)
    if largest > _MAX_LAYERS:
        raise ValueError(f"The configuration of {name} states {largest} layers; at most {_MAX_LAYERS} are loaded.")


def _size_of_weights(name: str | Path, revision: str | None) -> int | None:
    """Return the size in bytes of a model's file of weights, or of its shards; `None` if it has none."""
    whole = fetch_file(name, SAFE_WEIGHTS_NAME, revision)
    if whole is not None:
        return whole.stat().st_size
    index = fetch_file(name, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is None:
        return None
    try:
        shards = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} cannot be read: {error!r}. Download it again.") from error
    if not all(map(is_plain_name, shards)):
        raise ValueError(f"{index} names files of weights outside of its folder. Only names of files next to it are allowed.")
    files = [fetch_file(name, shard, revision) for shard in shards]
    return sum(file.stat().st_size for file in files if file is not None)


def vision_config(source: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the vision tower of a model.

    Raises:
        ValueError: If the model has none.
    """
    candidates = (config, getattr(config, "vision_config", None))
    for candidate in candidates:
        if isinstance(candidate, PreTrainedConfig) and _takes_images_only(candidate):
            return candidate
    raise ValueError(
        f"{source} is a model of type {config.model_type!r}, which has no vision tower: expected a model for images, such as "
        "DINOv2, SigLIP, CLIP, ViT, Swin, ConvNeXt or ResNet."
    )


def _takes_images_only(config: PreTrainedConfig) -> bool:
    """Return whether transformers has a model of a configuration that takes images and nothing else."""
    try:
        classes = MODEL_MAPPING[type(config)]
    except KeyError:
        return False
    model_class: Any = classes[0] if isinstance(classes, tuple) else classes
    modalities = getattr(model_class, "input_modalities", ("image",))
    is_stated = modalities != PreTrainedModel.input_modalities  # RegNet, for one, has the value of the base class
    return model_class.main_input_name == "pixel_values" and (modalities in ("image", ("image",)) or not is_stated)


def tower_of(model: Any) -> Any:
    """Return the vision tower inside a model object for photos and texts, or below a classifier; other models unchanged."""
    tower = getattr(model, "vision_model", None)
    if isinstance(tower, torch.nn.Module):
        return tower
    model_class: Any = MODEL_MAPPING.get(type(model.config), None)
    if model_class is None or isinstance(model, model_class):
        return model
    return model.base_model if isinstance(model.base_model, model_class) else model
