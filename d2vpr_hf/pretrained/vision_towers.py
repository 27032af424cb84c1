"""Load the vision tower of a model of transformers: complete, from safetensors, without executing code that comes with it."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from d2vpr_hf.pretrained.loading import IDLE_TENSORS, load_config, load_reported, refuse_keys, resolve_model

logger = logging.getLogger(__name__)

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
    if "auto_map" in stored and model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has a network of its own, in code next to its weights ({stored['auto_map']}), which this package does not "
            "execute. Export it to ONNX, and describe the file with `d2vpr card-onnx`."
        )
    is_timm = model_type == "timm_wrapper" or (model_type is None and "architecture" in stored)
    if is_timm and importlib.util.find_spec("timm") is None:
        raise ImportError(f"{name} is a model of timm, which is not installed: pip install timm torchvision")
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
    model_class = MODEL_MAPPING.get(type(model.config), None)
    if model_class is None or isinstance(model, model_class):
        return model
    return model.base_model if isinstance(model.base_model, model_class) else model
