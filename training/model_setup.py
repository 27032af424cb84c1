"""The model to train: loading or making it, freezing parameters, and computing a batch in micro-batches."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.modeling import MODELS, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_model, own_fields
from d2vpr_hf.training.distributed import gather_with_gradients, num_processes
from d2vpr_hf.utils.bounded_files import parse_json

_VIT = ("embeddings.", "encoder.")
_LAYER_SCALE = (".layer_scale1.gamma", ".layer_scale2.gamma")


def load_or_make(name: str, seed: int, vit: str | None = None, *, allows_projection: bool = False) -> VPRPreTrainedModel:
    """Load a model, or make one with random weights from a configuration.

    Args:
        name: Folder or Hub id of a model of this package; `embedded`; or a `.json` file with the fields of a configuration,
            including `model_type`.
        seed: Seed of random weights.
        vit: Folder or Hub id of a model of this package, or `embedded`, whose ViT the new model starts with; see [`take_vit`].
        allows_projection: Whether the model may project its descriptors.

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] and [`take_vit`] raise them; ValueError also for an invalid
            configuration, for a model that projects its descriptors, and for `vit` without a configuration.
    """
    is_new = name.endswith(".json")
    model = _make(Path(name), seed) if is_new else _load(name)
    if vit is not None:
        if not is_new:
            raise ValueError(
                f"`vit` gives a ViT to a new model, but {name} has weights. Set `model` to a configuration (.json)."
            )
        take_vit(model, _load(vit))
    model.config.compatible_with, model.config.own_fingerprint = [], None  # training changes the descriptors
    if model.projection is not None and not allows_projection:
        raise ValueError(
            f"{name} projects its descriptors. Train a model without projection, then fit a projection to the trained model."
        )
    return model


def _load(name: str) -> VPRPreTrainedModel:
    return load_model(EMBEDDED_MODEL if name == EMBEDDED_NAME else name)


def take_vit(model: VPRPreTrainedModel, source: VPRPreTrainedModel) -> None:
    """Copy the ViT of another model, whose blocks may be fewer, into a model.

    The blocks of a shallower source are spread evenly over the model's depth, the last one at the end. Each block between them
    starts with the weights of the next one and with LayerScales of 0, so that it changes nothing at first: the tokens after
    the last block are those of the source.

    Raises:
        ValueError: If the ViTs differ in more than their depth, or the source is deeper.
    """
    depth, source_depth = model.config.num_hidden_layers, source.config.num_hidden_layers
    weights_of_vit = {name: weights for name, weights in model.state_dict().items() if name.startswith(_VIT)}
    given = source.state_dict()
    # a block's source is the next block that has one; ceil(block * source_depth / depth) of 1-based numbers
    sources = {block: -(-(block + 1) * source_depth // depth) - 1 for block in range(depth)}
    taken = {name: given.get(_in_source(name, sources)) for name in weights_of_vit}
    unlike = [name for name, weights in taken.items() if weights is None or weights.shape != weights_of_vit[name].shape]
    if depth < source_depth or unlike:
        raise ValueError(
            f"The ViT of `vit` has {source_depth} blocks, the model's {depth}"
            + (f", and they differ in {len(unlike)} weights, such as {unlike[0]}" if unlike else "")
            + ". Take a ViT of the same width, heads, patch size and image size, with at most as many blocks."
        )
    model.load_state_dict(taken, strict=False)
    for name, weights in model.named_parameters():
        block = int(name.split(".")[2]) if name.endswith(_LAYER_SCALE) else depth
        if block + 1 < depth and sources[block] == sources[block + 1]:
            nn.init.zeros_(weights)


def _in_source(name: str, sources: dict[int, int]) -> str:
    """Return the name in the source of a weight of the ViT."""
    parts = name.split(".")
    if parts[:2] == ["encoder", "layers"]:
        parts[2] = str(sources[int(parts[2])])
    return ".".join(parts)


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
        raise FileNotFoundError(f"The configuration {path} does not exist.")
    try:
        fields = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f'{path} must hold a configuration\'s fields, `{{"model_type": ...}}`.')
    return fields


def add_cross_image_encoder(model: VPRPreTrainedModel, seed: int) -> VPRPreTrainedModel:
    """Return the model with a cross-image encoder of random weights.

    Raises:
        ValueError: If the model has a cross-image encoder.
    """
    if model.config.use_cross_image_encoder:
        raise ValueError("The model already has a cross-image encoder; `cross_image_encoder: keep` trains it.")
    torch.manual_seed(seed)
    config = type(model.config)(**{**model.config.to_dict(), "use_cross_image_encoder": True})
    larger = MODELS[type(config)](config)
    larger.to(model.dtype)  # type: ignore[arg-type] # transformers' wrapper loses the signature
    larger.load_state_dict({**larger.state_dict(), **model.state_dict()})
    larger.config.untrained_parts = [*model.config.untrained_parts, "cross_image_encoder"]
    return larger


def choose_cross_image_encoder(
    model: VPRPreTrainedModel, choice: Literal["keep", "add", "remove"], seed: int
) -> VPRPreTrainedModel:
    """Return a model with its cross-image encoder, with a new one, or without one; errors of [`add_cross_image_encoder`]."""
    if choice == "add":
        return add_cross_image_encoder(model, seed)
    if choice == "remove":
        model.remove_cross_image_encoder()
    return model


def freeze(model: nn.Module, patterns: list[str] | None) -> None:
    """Switch off the gradients of parameters whose names match a pattern, such as `"encoder.layers.[0-7].*"`.

    Raises:
        ValueError: If a pattern matches no parameter, or the patterns match all parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    unmatched = [pattern for pattern in patterns or () if not any(fnmatchcase(name, pattern) for name in names)]
    if unmatched:
        modules = sorted({".".join(name.split(".")[:2]) + ".*" for name in names})
        raise ValueError(f"frozen: no parameter has a name like {', '.join(unmatched)}. The model has {', '.join(modules)}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns or ()))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"frozen: {patterns} leaves no parameter to train.")


class TrainingWrapper(nn.Module):
    """A module around the model. Accelerate changes this module, for example for mixed precision, and not the model itself.

    Args:
        model: A model of this package.
    """

    def __init__(self, model: VPRPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Call the model."""
        return self.model(pixel_values)


class MicroBatchedDescriptors(TrainingWrapper):
    """Compute the descriptors of a batch in micro-batches of equal size, one after the other, to save memory.

    With several micro-batches, activations are not stored: each micro-batch is computed a second time in the backward pass,
    which gives the gradients of the whole batch (cached gradients). Dropout and BatchNorm's running statistics are the same as
    if each micro-batch was computed once.

    Args:
        model: A model of this package; without cross-image encoder if there are several micro-batches.
        num_micro_batches: Number of micro-batches.

    Raises:
        ValueError: If the model has a cross-image encoder and there are several micro-batches.
    """

    def __init__(self, model: VPRPreTrainedModel, num_micro_batches: int = 1) -> None:
        super().__init__(model)
        if num_micro_batches > 1 and model.config.use_cross_image_encoder:
            raise ValueError(
                "A model with a cross-image encoder needs the whole batch at once: gradient_accumulation_steps must be 1, got "
                f"{num_micro_batches}. gradient_checkpointing saves memory too."
            )
        self.num_micro_batches = num_micro_batches

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the descriptors (B, `descriptor_dim`) of images (B, 3, height, width)."""
        if self.num_micro_batches == 1:
            return self._encode(pixel_values)
        micro_batches = pixel_values.chunk(self.num_micro_batches)
        return torch.cat([checkpoint(self._encode, micro_batch, use_reentrant=False) for micro_batch in micro_batches])

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).pooler_output


def gather_for_cross_image_encoder(model: VPRPreTrainedModel) -> None:
    """Let a cross-image encoder in training see the images of all processes, as one process would see the joined batch."""
    if model.cross_image_encoder is not None and num_processes() > 1:
        model.cross_image_encoder.register_forward_pre_hook(_gather_features)
        model.cross_image_encoder.register_forward_hook(_select_local_features)


def _gather_features(encoder: nn.Module, arguments: tuple[torch.Tensor]) -> torch.Tensor | None:
    return gather_with_gradients(arguments[0]) if encoder.training else None


def _select_local_features(encoder: nn.Module, arguments: Any, features: torch.Tensor) -> torch.Tensor:
    if not encoder.training:
        return features
    return features.chunk(num_processes())[torch.distributed.get_rank()]
