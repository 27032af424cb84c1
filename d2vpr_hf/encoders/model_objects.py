"""Model objects that other libraries made or wrapped: torch.compile, PEFT, quantisation, code saved next to weights."""

import copy
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from d2vpr_hf.backends.optimized.optimize import can_prepare
from d2vpr_hf.modeling import MODELS, D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import adapter_settings

_FOUR_BIT_ERROR = 0.13  # relative error of 4-bit weights that are not only rounded; rounding gives 0.09 (nf4) or 0.11 (fp4)
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap_model(model: Any) -> VPRPreTrainedModel:
    """Return the model inside `torch.compile` and data-parallel wrappers, after checking its type.

    A model is recognised by the `model_type` of its configuration, because code saved next to weights has classes of its own.

    Raises:
        TypeError: If it is not a model of this package.
        ValueError: If weights are offloaded, so that they cannot be hashed.
    """
    model = unwrap(model)
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    allowed = [config_class.model_type for config_class in MODELS]
    if not isinstance(model, nn.Module) or model_type not in allowed:
        described = type(model).__name__ + (f" of type {model_type!r}" if model_type else "")
        raise TypeError(
            f"Expected a model of type {' or '.join(map(repr, allowed))}, a vision model of transformers, its folder or "
            f"its Hub id; got {described}."
        )
    check_loaded(model)
    return model  # type: ignore[return-value] # PEFT's wrapper and saved code have the same attributes


def unwrap(model: Any) -> Any:
    """Return the object inside `torch.compile` and data-parallel wrappers."""
    while isinstance(model, _PARALLEL) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, _PARALLEL) else model._orig_mod
    return model


def without_adapters(model: Any) -> Any:
    """Return the model that a `PeftModel` wraps, whose layers contain the adapters; other objects unchanged."""
    return model.get_base_model() if hasattr(model, "merge_and_unload") else model


def check_loaded(model: nn.Module) -> None:
    """Raise ValueError if weights of a model are offloaded, so that they cannot be hashed."""
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "Weights of this model are offloaded, or on the meta device. Load all of them: omit `device_map` or offloading."
        )


def is_foreign_model(model: Any) -> bool:
    """Return whether an object is a vision model of transformers, or contains one, and is not of this package."""
    model = without_adapters(unwrap(model))
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    own_types = [config_class.model_type for config_class in MODELS]
    if not isinstance(model, PreTrainedModel) or model_type in own_types:
        return False
    return model.main_input_name == "pixel_values" or isinstance(getattr(model, "vision_model", None), nn.Module)


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


def check_four_bits(model: nn.Module) -> None:
    """Check that bitsandbytes restores 4-bit weights of a model's shapes on this device.

    bitsandbytes 0.50.2 gives layers on the CPU wrong weights if their width is not a multiple of the size of its blocks, 64.

    Raises:
        ValueError: If it does not.
    """
    wrong = []
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None and not _restores(state.shape[-1], state.quant_type, state.blocksize, state.absmax.device):
            wrong.append(name.removesuffix(".weight"))
    if wrong:
        kinds = sorted({".".join(name.split(".")[-2:]) for name in wrong})
        raise ValueError(
            f"bitsandbytes computes {len(wrong)} layers of 4-bit weights wrongly on this device, such as {wrong[0]}: their "
            f"width is not a multiple of its blocks. Load them as floats, by `llm_int8_skip_modules={kinds}`, or use 8 bits."
        )


@cache
def _restores(width: int, kind: str, block_size: int, device: torch.device) -> bool:
    """Return whether bitsandbytes restores 4-bit weights of a width, rounded."""
    import bitsandbytes.functional as bnb

    weights = torch.randn(4 * block_size, width, generator=torch.Generator().manual_seed(0)).to(device)
    restored = bnb.dequantize_4bit(*bnb.quantize_4bit(weights, quant_type=kind, blocksize=block_size))
    return bool((restored - weights).norm() <= _FOUR_BIT_ERROR * weights.norm())


def is_immovable(model: nn.Module) -> bool:
    """Return whether a model must stay on its device: it is quantised, or spread over several devices."""
    return is_quantised(model) or len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def is_changed_in_memory(model: nn.Module) -> bool:
    """Return whether a model was adapted or quantised after loading, so that its folder gives other descriptors."""
    return hasattr(model, "merge_and_unload") or is_quantised(model) or _has_changed_layers(model)


def _has_changed_layers(model: nn.Module) -> bool:
    if isinstance(model, VPRPreTrainedModel):
        return not can_prepare(model)
    return bool(adapter_settings(model)) or any(_has_foreign_hooks(layer) for layer in model.modules())


def _has_foreign_hooks(layer: nn.Module) -> bool:
    """Return whether a layer has hooks that may change its output; those of transformers and this package collect outputs."""
    hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    return any(not str(getattr(hook, "__module__", "")).startswith(("transformers.", "d2vpr_hf.")) for hook in hooks)
