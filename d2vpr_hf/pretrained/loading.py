"""Load models and raise where transformers only logs: wrong or missing weights, unknown configuration keys."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, find_adapter_config_file, is_peft_available

from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.modeling import MODELS, D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.modeling.refused_settings import refuse_code, with_attention
from d2vpr_hf.pretrained.model_files import EMPTY_NAME
from d2vpr_hf.utils.hub_ids import is_hub_id

# keys that save_pretrained writes into a config.json and that are not fields of a configuration
_BOOKKEEPING_KEYS = {
    *("auto_map", "model_type", "quantization_config", "torch_dtype", "transformers_version"),
    *("_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "_experts_implementation"),
}
_TRAINING_FIELDS = {
    *("initializer_range", "layerscale_value", "adapter_conv_init", "gem_p", "recovery_norm_value"),
    *("adapter_batch_norm_momentum", "fusion_dropout", "cross_image_dropout", "untrained_parts"),
    *("compatible_with", "own_fingerprint", "matryoshka_dims"),
}
# errors that transformers raises on invalid configurations
_CONFIGURATION_ERRORS = (
    *(TypeError, AttributeError, KeyError, IndexError, ZeroDivisionError, OverflowError, RecursionError),
    StrictDataclassError,
)
# transformers' model types that are DINOv2
DINOV2_TYPES = ("dinov2", "dinov2_with_registers")
# switches, and the prefix of the fields that have no effect while a switch is off
_SWITCHED_FIELDS = {
    "use_cross_image_encoder": "cross_image_",
    "use_top_down_fusion": "fusion_",
    "use_position_encoding": "position_encoding_",
}
IDLE_TENSORS = ("mask_token", "num_batches_tracked")


def load_model(name: str | Path | None = None, *, dtype: torch.dtype = torch.float32, **kwargs: Any) -> VPRPreTrainedModel:
    """Load a model of this package in eval mode, and raise if it is not complete.

    Use this instead of `from_pretrained`, which fills missing weights with random numbers, ignores unexpected weights and
    unknown configuration keys, and only logs it.

    Args:
        name: A local folder or a Hub id; `None` or `"embedded"` loads the small model that comes with this package.
        dtype: Type of the weights.
        kwargs: Passed to `from_pretrained` (`revision`, `attn_implementation`, `device_map`, `token`, ...).

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks the configuration or the weights.
        ValueError: If weights are missing, unexpected or of another shape, or a configuration key is unknown.
    """
    source = resolve_model(name)
    stored, config = _load_config(source, kwargs)
    if not isinstance(config, VPRConfig):
        types = " or ".join(repr(config_class.model_type) for config_class in MODELS)
        hint = " `d2vpr convert --as` converts it." if config.model_type in DINOV2_TYPES else ""
        raise ValueError(f"{source} is a model of type {config.model_type!r}; expected {types}.{hint}")
    _refuse_unknown_keys(source, stored, config)
    return _load_complete(source, config, dtype, **kwargs)


def load_dinov2(name: str | Path, *, dtype: torch.dtype = torch.float32, **kwargs: Any) -> PreTrainedModel:
    """Load a transformers `Dinov2Model` or `Dinov2WithRegistersModel` in eval mode, and raise if it is not complete.

    Args:
        name: A local folder or a Hub id, such as `"facebook/dinov2-base"`, written by any transformers 5.
        dtype: Type of the weights.
        kwargs: Passed to `from_pretrained`.

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks the configuration or the weights.
        ValueError: If it is another kind of model, or weights are missing, unexpected or of another shape.
    """
    source, config = resolve_model(name), load_config(name, **kwargs)
    if config.model_type not in DINOV2_TYPES:
        raise ValueError(f"{source} is a model of type {config.model_type!r}; expected {' or '.join(map(repr, DINOV2_TYPES))}.")
    return _load_complete(source, config, dtype, **kwargs)


def load_config(name: str | Path | None = None, **kwargs: Any) -> PreTrainedConfig:
    """Load a model's configuration, of any type transformers knows; arguments and errors as for [`load_model`].

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the configuration cannot be read, or would load code or another repository.
    """
    return _load_config(resolve_model(name), kwargs)[1]


def _load_config(source: str, kwargs: dict[str, Any]) -> tuple[dict[str, Any], PreTrainedConfig]:
    """Return the values in a model's config.json, and the configuration; errors as for [`load_config`]."""
    try:
        stored, _ = PreTrainedConfig.get_config_dict(source, **_hub_arguments(kwargs))
        attention = kwargs.get("attn_implementation")
        checked = with_attention(stored, attention)
        if stored.get("model_type") in CONFIG_MAPPING:  # transformers has its code, and does not look for other code
            checked = {key: value for key, value in checked.items() if key != "auto_map"}
        refuse_code(checked, source)
        _refuse_adapter(source, kwargs)
        chosen = {} if attention is None else {"attn_implementation": attention}
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **chosen, **_hub_arguments(kwargs))
        if attention is not None:
            config._attn_implementation = attention  # transformers takes the stored one of its own models
        return stored, config
    except OSError as error:
        if Path(source).is_dir():
            raise ValueError(f"The configuration of {source} cannot be read: {error}") from error
        raise FileNotFoundError(
            f"There is no model {source}: the folder does not exist, and the Hub answered: {error}"
        ) from error
    except _CONFIGURATION_ERRORS as error:
        raise ValueError(f"The configuration of {source} cannot be read: {error!r}") from error


def _load_complete(source: str, config: PreTrainedConfig, dtype: torch.dtype, **kwargs: Any) -> Any:
    """Load a model, and raise if its weights are not exactly those that its configuration requires."""
    if kwargs.get("attn_implementation") is not None:
        kwargs["config"] = config  # read from the file again, it would have the stored attention
    model, report = load_reported(source, dtype, **kwargs)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    refuse_keys(source, {kind: report[kind] for kind in kinds})
    return model.eval()


def load_reported(source: str, dtype: torch.dtype, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Load a model from safetensors without executing its code; return it with transformers' report on its weights.

    Raises:
        ValueError: If the weights are damaged, or the configuration does not describe a model.
    """
    report: dict[str, Any]
    try:
        model, report = AutoModel.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the report lists all of them
            **kwargs,
        )
    except SafetensorError as error:
        raise ValueError(f"The weights of {source} are damaged: {error}.") from error
    except _CONFIGURATION_ERRORS as error:
        raise ValueError(f"The configuration of {source}, or an argument, does not describe a model: {error!r}") from error
    return model, report


def refuse_keys(source: str, keys: dict[str, Any]) -> None:
    """Raise ValueError if there are names of weights that do not fit; `keys` has them by the kind of problem."""
    problems = {kind: sorted(map(str, names)) for kind, names in keys.items() if names}
    if problems:
        raise ValueError(f"The weights of {source} do not fit its configuration: {json.dumps(problems, indent=2)}")


def load_image_processor(name: str | Path | None = None, **kwargs: Any) -> D2VPRImageProcessor:
    """Load the image processor that belongs to a model; arguments as for [`load_model`].

    Raises:
        FileNotFoundError: If there is no such folder, or it has no image processor.
    """
    source = resolve_model(name)
    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **kwargs)
    except OSError as error:
        if isinstance(error, ConnectionError | PermissionError):
            raise
        save = f'save_pretrained("{source}")' if Path(source).is_dir() else f'push_to_hub("{source}")'
        raise FileNotFoundError(
            f"{source} has no preprocessor_config.json, the settings by which photos are prepared for the model; "
            "`save_pretrained` of a model does not write it. Add it, with the size that the model was trained with: "
            f'D2VPRImageProcessor(size={{"height": 224, "width": 224}}).{save}.'
        ) from error


def fingerprint(
    model: VPRPreTrainedModel, processor: D2VPRImageProcessor, weights: Mapping[str, torch.Tensor] | None = None
) -> str:
    """Hash everything that determines descriptors: weights, configuration and preprocessing.

    Args:
        model: The model.
        processor: Its image processor.
        weights: State dict to hash in place of the model's own, of a model that is divided over processes; `None` for its own.

    Returns:
        A SHA-256 in hexadecimal, of names, shapes and values. The type that weights are stored in does not matter; quantised
        weights have other values, and so another fingerprint.
    """
    digest = hashlib.sha256()
    stored = model.config.to_dict()  # lacks fields that were added later and have their default
    values = {name: value for name, value in computing_values(model.config).items() if name in stored}
    settings: list[Any] = [model.config.model_type, values, _preprocessing(processor)]
    if adapters := adapter_settings(model):
        settings.append(adapters)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted((model.state_dict() if weights is None else weights).items()):
        if not name.endswith(IDLE_TENSORS):
            hash_weights(digest, name, value)
    return digest.hexdigest()


def hash_weights(digest: Any, name: str, value: Any) -> None:
    """Hash an entry of a state dict: a tensor, or a tuple or a number type, which torch's quantised layers have."""
    if isinstance(value, tuple):
        for part in value:
            hash_weights(digest, name, part)
    elif isinstance(value, torch.Tensor):
        if value.is_quantized or type(value) not in (torch.Tensor, nn.Parameter):
            value = value.dequantize()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().data)
    else:
        digest.update(f"{name}{value!r}".encode())


def adapter_settings(model: nn.Module) -> dict[str, Any]:
    """Return the factors and the active adapters of PEFT's layers, which a state dict lacks."""
    layers = ((name, module) for name, module in model.named_modules() if hasattr(module, "active_adapters"))
    return {
        name: [module.active_adapters, module.disable_adapters, module.scaling]
        for name, module in layers
        if hasattr(module, "scaling")
    }


def own_fields(config: PreTrainedConfig | type[PreTrainedConfig]) -> list[str]:
    """Return the names of the fields that a configuration of this package adds to those of transformers' base class."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return [field.name for field in dataclasses.fields(config) if field.name not in inherited]


def computing_values(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields that descriptors depend on: without those for fresh weights or training, or of a part that is off."""
    off = tuple(prefix for switch, prefix in _SWITCHED_FIELDS.items() if not getattr(config, switch, True))
    names = [name for name in own_fields(config) if name not in _TRAINING_FIELDS and not name.startswith(off)]
    return {name: plain_value(getattr(config, name)) for name in names}


def plain_value(value: Any) -> Any:
    """Replace whole floats by integers, in lists and tables too, so that 4.0 and 4 are hashed alike."""
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def resolve_model(name: str | Path | None) -> str:
    """Return the name or folder for from_pretrained, after checking that a folder holds a model."""
    if name is None or name == EMBEDDED_NAME:
        return str(EMBEDDED_MODEL)
    if not str(name):
        raise ValueError(EMPTY_NAME)
    path = Path(name)
    if path.is_file():
        raise FileNotFoundError(
            f"{name} is a file, not a model folder. If it holds weights, `d2vpr convert` converts it to a folder."
        )
    if not path.is_dir():
        if isinstance(name, Path) or not is_hub_id(name):
            raise FileNotFoundError(
                f"There is no model folder {name}. Give a folder, a Hub id such as user/model, or `embedded` for the model in "
                "this package."
            )
        return str(name)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is not a model folder: it has no config.json. `d2vpr convert` writes model folders.")
    if not any((path / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise FileNotFoundError(f"{path} has a config.json but no weights: expected model.safetensors next to it.")
    return str(path)


def _hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "cache_dir", "local_files_only", "force_download")
    return {name: kwargs[name] for name in names if name in kwargs}


def _refuse_adapter(source: str, kwargs: dict[str, Any]) -> None:
    """Raise ValueError for an adapter: transformers would load the model that its `adapter_config.json` names."""
    if is_peft_available() and find_adapter_config_file(source, **_hub_arguments(kwargs)) is not None:
        raise ValueError(
            f"{source} has an adapter_config.json, which names another model to load. Merge the adapter into its model "
            "(`merge_and_unload` of PEFT), or load both in Python and give the object."
        )


def _refuse_unknown_keys(source: str, stored: dict[str, Any], config: PreTrainedConfig) -> None:
    allowed = {field.name for field in dataclasses.fields(config)} | _BOOKKEEPING_KEYS
    unknown = sorted(key for key in stored if key not in allowed)
    if unknown:
        raise ValueError(
            f"The configuration of {source} has keys that are not fields of {type(config).__name__}: {', '.join(unknown)}. "
            "Remove them, or load the model with the version of this package that wrote them."
        )


def _preprocessing(processor: D2VPRImageProcessor) -> dict[str, Any]:
    names = (
        "size",
        "resample",
        "do_resize",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
    )
    settings = processor.to_dict()
    return {name: settings.get(name) for name in names}
