"""Model objects that other libraries made or wrapped: torch.compile, PEFT, quantisation, code saved next to weights."""

import copy
from typing import Any

from torch import nn

from d2vpr_hf.backends.optimized.optimize import can_prepare
from d2vpr_hf.modeling import MODELS, D2VPRImageProcessor, VPRPreTrainedModel

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap_model(model: Any) -> VPRPreTrainedModel:
    """Return the model inside `torch.compile` and data-parallel wrappers, after checking its type.

    A model is recognised by the `model_type` of its configuration, because code saved next to weights has classes of its own.

    Raises:
        TypeError: If it is not a model of this package.
        ValueError: If weights are offloaded, so that they cannot be hashed.
    """
    while isinstance(model, _PARALLEL) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, _PARALLEL) else model._orig_mod
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    allowed = [config_class.model_type for config_class in MODELS]
    if not isinstance(model, nn.Module) or model_type not in allowed:
        described = type(model).__name__ + (f" of type {model_type!r}" if model_type else "")
        raise TypeError(
            f"Expected a model of type {' or '.join(map(repr, allowed))}, its folder or its Hub id; got {described}."
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "Weights of this model are offloaded, or on the meta device. Load all of them: omit `device_map` or offloading."
        )
    return model  # type: ignore[return-value] # PEFT's wrapper and saved code have the same attributes


def check_processor(processor: Any) -> None:
    """Raise TypeError unless an object is the image processor of this package, from here or from code saved next to weights."""
    if D2VPRImageProcessor.__name__ not in (base.__name__ for base in type(processor).__mro__):
        raise TypeError(
            f"Expected the model's image processor, a {D2VPRImageProcessor.__name__}; got {type(processor).__name__}. "
            "load_image_processor(folder) loads it."
        )


def merge_adapters(model: VPRPreTrainedModel) -> VPRPreTrainedModel:
    """Return a copy of a `PeftModel` with its adapters merged into the weights; other models, and quantised ones, unchanged."""
    if not hasattr(model, "merge_and_unload") or is_quantised(model):
        return model
    adapted: Any = copy.deepcopy(model)
    merged: VPRPreTrainedModel = adapted.merge_and_unload().eval()
    return merged


def is_quantised(model: nn.Module) -> bool:
    """Return whether a model has weights of another kind than floating-point numbers in torch's own tensors."""
    layers = (type(module).__module__ for module in model.modules())
    return (
        getattr(model, "is_quantized", False)
        or any(name.startswith("torch.ao.") for name in layers)
        or any(type(weight) is not nn.Parameter or not weight.is_floating_point() for weight in model.parameters())
    )


def is_immovable(model: nn.Module) -> bool:
    """Return whether a model must stay on its device: it is quantised, or spread over several devices."""
    return is_quantised(model) or len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def is_changed_in_memory(model: nn.Module) -> bool:
    """Return whether a model was adapted or quantised after loading, so that its folder gives other descriptors."""
    return hasattr(model, "merge_and_unload") or is_quantised(model) or _has_changed_layers(model)


def _has_changed_layers(model: nn.Module) -> bool:
    return isinstance(model, VPRPreTrainedModel) and not can_prepare(model)
