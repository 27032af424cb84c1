"""The model that is trained: loaded or fresh, which of it is trained, and how it takes its batch."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from d2vpr_hf.modeling import MODELS, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_model, own_fields
from d2vpr_hf.training.distributed import gather_with_gradients, num_processes


def load_or_make(name: str, seed: int) -> VPRPreTrainedModel:
    """Load a model, or make a fresh one of a configuration.

    Args:
        name: Folder or Hub id of a model of this package; or a `.json` file with the fields of its configuration, `model_type`
            among them.
        seed: What fresh weights are drawn from.

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] raises them; ValueError also for a configuration that makes no
            model, and for a model that projects its descriptors.
    """
    model = _make(Path(name), seed) if name.endswith(".json") else load_model(name)
    if model.projection is not None:
        raise ValueError(f"{name} projects its descriptors. Train the model without, and fit a projection to the outcome.")
    return model


def _make(path: Path, seed: int) -> VPRPreTrainedModel:
    fields = _read_fields(path)
    kinds = {config.model_type: config for config in MODELS}
    kind = fields.pop("model_type", None)
    if kind not in kinds:
        raise ValueError(f"{path}: `model_type` must be one of {', '.join(kinds)}, got {kind!r}.")
    unknown = sorted(fields.keys() - set(own_fields(kinds[kind])))
    if unknown:
        raise ValueError(f"{path}: a {kind} has no {', '.join(unknown)}.")
    torch.manual_seed(seed)
    config = kinds[kind](**fields)
    return MODELS[type(config)](config)


def _read_fields(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration {path}.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f'{path} must hold a configuration\'s fields, `{{"model_type": ...}}`.')
    return fields


def add_cross_image_encoder(model: VPRPreTrainedModel, seed: int) -> VPRPreTrainedModel:
    """Return the model with a fresh cross-image encoder.

    Raises:
        ValueError: If it has one.
    """
    if model.config.use_cross_image_encoder:
        raise ValueError("The model has a cross-image encoder already; `cross_image_encoder: keep` trains it.")
    torch.manual_seed(seed)
    config = type(model.config)(**{**model.config.to_dict(), "use_cross_image_encoder": True})
    larger = MODELS[type(config)](config)
    larger.to(model.dtype)  # type: ignore[arg-type] # transformers' wrapper loses the signature
    larger.load_state_dict({**larger.state_dict(), **model.state_dict()})
    return larger


def freeze(model: nn.Module, patterns: list[str] | None) -> None:
    """Switch gradients off of parameters by patterns of their names, such as `"encoder.layers.[0-7].*"`.

    Raises:
        ValueError: If a pattern fits no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    idle = [pattern for pattern in patterns or () if not any(fnmatchcase(name, pattern) for name in names)]
    if idle:
        raise ValueError(f"frozen: no parameter is called like {', '.join(idle)}. There are {', '.join(_parts(names))}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns or ()))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"frozen: {patterns} leaves nothing to train.")


def _parts(names: list[str]) -> list[str]:
    return sorted({".".join(name.split(".")[:2]) + ".*" for name in names})


class InTraining(nn.Module):
    """A model as training calls it. What Accelerate puts around this, such as mixed precision, leaves the model itself alone.

    Args:
        model: A model of this package.
    """

    def __init__(self, model: VPRPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Call the model."""
        return self.model(pixel_values)


class DescriptorsInParts(InTraining):
    """Describe a batch in parts of equal size, one after the other, to save memory.

    Where there are several parts, activations are not kept: each part is computed a second time in the backward pass, which
    gives the gradients of the whole batch (cached gradients). Dropout and BatchNorm's running statistics come out as if it had
    been computed once.

    Args:
        model: A model of this package, without cross-image encoder if there are several parts.
        num_parts: How many.
    """

    def __init__(self, model: VPRPreTrainedModel, num_parts: int = 1) -> None:
        super().__init__(model)
        if num_parts > 1 and model.config.use_cross_image_encoder:
            raise ValueError(
                "A model with a cross-image encoder describes a batch as a whole: gradient_accumulation_steps must be 1, got "
                f"{num_parts}. gradient_checkpointing saves memory too."
            )
        self.num_parts = num_parts

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Describe images (B, 3, height, width): (B, `descriptor_dim`)."""
        if self.num_parts == 1:
            return self._describe(pixel_values)
        parts = [checkpoint(self._describe, part, use_reentrant=False) for part in pixel_values.chunk(self.num_parts)]
        return torch.cat(parts)

    def _describe(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).pooler_output


def see_all_processes(model: VPRPreTrainedModel) -> None:
    """Let a cross-image encoder in training look at the images of all processes, as one process would at the joined batch."""
    if model.cross_image_encoder is not None and num_processes() > 1:
        model.cross_image_encoder.register_forward_pre_hook(_gather_features)
        model.cross_image_encoder.register_forward_hook(_keep_own_features)


def _gather_features(encoder: nn.Module, arguments: tuple[torch.Tensor]) -> torch.Tensor | None:
    return gather_with_gradients(arguments[0]) if encoder.training else None


def _keep_own_features(encoder: nn.Module, arguments: Any, features: torch.Tensor) -> torch.Tensor:
    if not encoder.training:
        return features
    return features.chunk(num_processes())[torch.distributed.get_rank()]
