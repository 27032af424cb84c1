"""A vision model of transformers with the features of its layers, and with the pooling of one of them, as one network."""

import difflib
import inspect
import re
import threading
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from d2vpr_hf.model_info.model_families import ModelFamily
from d2vpr_hf.model_info.model_options import Layer, Pool
from d2vpr_hf.pretrained.pooling import Features, RegionPooling, pool_features, split_output

_STAGE_STRIDES = (1, 2, 4, 8, 16, 32)  # of a patch's side; models with stages merge patches
_LISTED = 20  # names of modules in an error


class LayerNetwork(nn.Module):
    """A vision model and some of its layers: images (B, 3, height, width) to the features of each layer.

    Args:
        model: The vision model.
        family: Its family.
        layers: The layers: numbers of hidden states, or names of modules such as `"layer.12.expand_1x1"`; `None` for the
            model's output.

    Raises:
        ValueError: If the model has no module of such a name.
    """

    def __init__(self, model: PreTrainedModel, family: ModelFamily, layers: Sequence[Layer | None]) -> None:
        super().__init__()
        self.model, self.family = model, family
        self.layers = tuple(layers)
        self._recorders = {name: _record(model, name) for name in layers if isinstance(name, str)}
        parameters = inspect.signature(model.forward).parameters
        self._can_interpolate = "interpolate_pos_encoding" in parameters
        self._takes_patches = "spatial_shapes" in parameters  # NaFlex models
        self._patch_size = patch_size_of(model.config)
        self._native_size = image_size_of(model.config)

    def layer_features(self, pixel_values: torch.Tensor) -> list[Features]:
        """Return class token, patches and the output of the model's own pooling, for each layer.

        Raises:
            ValueError: If the model has fewer layers, or a module is not computed for images or has another kind of output.
        """
        image_size = (pixel_values.shape[2], pixel_values.shape[3])
        arguments: dict[str, Any] = {"return_dict": True}
        if any(isinstance(layer, int) for layer in self.layers):
            arguments["output_hidden_states"] = True
        if self._can_interpolate and self._native_size is not None and image_size != self._native_size:
            arguments["interpolate_pos_encoding"] = True
        if self._takes_patches:
            output = self.model(**_to_patches(pixel_values, self._patch_size or 1), **arguments)
        else:
            output = self.model(pixel_values, **arguments)
        return [self._split(output, self._state(output, layer), image_size) for layer in self.layers]

    def _state(self, output: Any, layer: Layer | None) -> torch.Tensor:
        """Return the tokens or the map of a layer."""
        if layer is None:
            return cast(torch.Tensor, output.last_hidden_state)
        return self._recorders[layer].take() if isinstance(layer, str) else self._hidden_state(output, layer)

    def _hidden_state(self, output: Any, layer: int) -> torch.Tensor:
        """Return a hidden state, after the model's last norm where the model has one of this width."""
        states = output.hidden_states
        count = len(states) - 1
        if not -count - 1 <= layer <= count:
            raise ValueError(f"`layer` must be in {-count}..{count} for this model, got {layer}.")
        if layer % (count + 1) == count:
            return cast(torch.Tensor, output.last_hidden_state)
        state: torch.Tensor = states[layer]
        norm = getattr(self.model, self.family.norm, None) if self.family.norm else None
        return norm(state) if norm is not None and list(norm.normalized_shape) == [state.shape[-1]] else state

    def _split(self, output: Any, state: torch.Tensor, image_size: tuple[int, int]) -> Features:
        """Divide the tokens or the map of a layer into class token and patches."""
        if state.ndim == 4 and _has_channels_last(self.model):
            state = state.permute(0, 3, 1, 2)  # (B, H, W, D) -> (B, D, H, W)
        factors = _STAGE_STRIDES if hasattr(self.model.config, "depths") else _STAGE_STRIDES[:1]
        strides = [self._patch_size * factor for factor in factors] if self._patch_size else []
        return split_output(
            output,
            state,
            image_size,
            num_prefix=self._num_prefix(),
            has_cls=self.family.has_cls is not False,
            strides=strides or list(_STAGE_STRIDES),
        )

    def _num_prefix(self) -> int | None:
        """Return the number of tokens before the patches; `None` if it must be found by their grid."""
        timm_model = getattr(self.model, "timm_model", None)
        if timm_model is not None:
            return int(getattr(timm_model, "num_prefix_tokens", 0))
        if self.family.has_cls is None:
            return None
        registers = getattr(self.model.config, "num_register_tokens", 0) or 0
        return int(self.family.has_cls) + int(registers)


class FeatureNetwork(LayerNetwork):
    """A vision model and the pooling of its tokens: images (B, 3, height, width) to descriptors (B, D), L2-normalised.

    Args:
        model: The vision model.
        family: Its family.
        pool: The pooling.
        layer: The layer whose tokens are pooled, as for [`LayerNetwork`].

    Raises:
        ValueError: If the model has no such layer.
    """

    def __init__(self, model: PreTrainedModel, family: ModelFamily, pool: Pool | None, layer: Layer | None) -> None:
        super().__init__(model, family, [layer])
        self.layer = layer
        self.pool: Pool = pool or ("gem" if layer is not None and family.pool == "pooler" else family.pool)
        self.regions = RegionPooling() if self.pool == "regions" else None

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the descriptors (B, D) of images, in float32."""
        return pool_features(self.features(pixel_values), self.pool, self.regions)

    def features(self, pixel_values: torch.Tensor) -> Features:
        """Return class token, patches and the output of the model's own pooling."""
        return self.layer_features(pixel_values)[0]


class _Recorder:
    """A forward hook that keeps the output of a module until it is taken, for each thread separately."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._outputs: dict[int, Any] = {}

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._outputs[threading.get_ident()] = output

    def take(self) -> torch.Tensor:
        """Return the output of this thread's last call, and forget it.

        Raises:
            ValueError: If there was no call, or its output is not a tensor.
        """
        output = self._outputs.pop(threading.get_ident(), None)
        if output is not None and not isinstance(output, torch.Tensor):
            output = output[0]  # of a tuple, or of an output object of transformers
        if not isinstance(output, torch.Tensor):
            reason = "is not computed for images" if output is None else f"gives a {type(output).__name__} and not a tensor"
            raise ValueError(f"The module {self.name} {reason}; choose another `layer`.")
        return output


def _record(model: nn.Module, name: str) -> _Recorder:
    """Add a recorder to the module of a name.

    Raises:
        ValueError: If the model has no such module; the message lists those that it has.
    """
    modules = dict(model.named_modules())
    if not name or name not in modules:
        near = difflib.get_close_matches(name, modules, n=1, cutoff=0.75)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"The model has no module {name!r}.{hint} It has: {_list_modules(modules)}.")
    recorder = _Recorder(name)
    modules[name].register_forward_hook(recorder)
    return recorder


def _list_modules(names: Sequence[str] | dict[str, Any]) -> str:
    """List the names of modules; those that differ by numbers only are one entry, such as `layer.[0-15].conv_3x3`."""
    numbers: dict[str, list[list[int]]] = {}
    for name in names:
        if name:
            pattern = re.sub(r"(?<![^.])\d+(?![^.])", "{}", name)  # numbers between dots
            numbers.setdefault(pattern, []).append([int(part) for part in name.split(".") if part.isdecimal()])
    entries = []
    for pattern, rows in sorted(numbers.items(), key=lambda item: len(re.findall(r"[^.{}]+", item[0]))):  # outer modules first
        ranges = [(min(column), max(column)) for column in zip(*rows, strict=True)]
        entries.append(pattern.format(*(str(low) if low == high else f"[{low}-{high}]" for low, high in ranges)))
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return ", ".join(entries[:_LISTED]) + more


def patch_size_of(config: Any) -> int | None:
    """Return the side of a patch in pixels; `None` for a network without patches."""
    size = getattr(config, "patch_size", None)
    size = size[0] if isinstance(size, list | tuple) else size
    return size if isinstance(size, int) else None


def image_size_of(config: Any) -> tuple[int, int] | None:
    """Return the height and width that a model's position embeddings are made for; `None` if it has none."""
    size = getattr(config, "image_size", None)
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return (size, size) if isinstance(size, int) else None


def _has_channels_last(model: Any) -> bool:
    """Return whether feature maps are (B, H, W, D), as those of timm's Swin."""
    return getattr(getattr(model, "timm_model", None), "output_fmt", "NCHW") == "NHWC"


def _to_patches(pixel_values: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """Return the inputs of a NaFlex model: flat patches (B, N, patch_size² * 3), their mask and the shapes of the grids."""
    batch, _, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values[:, :, : rows * patch_size, : columns * patch_size]
    patches = patches.unflatten(3, (columns, patch_size)).unflatten(2, (rows, patch_size))  # (B, 3, rows, P, columns, P)
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, rows * columns, P * P * 3)
    shapes = torch.tensor([[rows, columns]] * batch, device=pixel_values.device)
    mask = torch.ones(batch, rows * columns, dtype=torch.int32, device=pixel_values.device)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
