"""Turn a MobileNetV2 (arXiv 1801.04381) whose BatchNorm is folded into its convolutions into a model of transformers.

The file has the form of a dequantised TensorFlow Lite model: `N.weight` and `N.bias` of each convolution, and in its metadata a
`plan`, the list of its operations. Each operation is a table with

- `op`: `CONV_2D`, `DEPTHWISE_CONV_2D` or `ADD`,
- `in` and `out`: the numbers of its input tensors and of its output; the image has the number 0,
- `k`: the number N of a convolution's weights,
- `stride`: the stride of a convolution,
- `relu6`: whether ReLU6 follows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2Model
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2ConvLayer

from d2vpr_hf.convert.convert import check_output, move_into
from d2vpr_hf.convert.layouts import Weights
from d2vpr_hf.convert.weights_file import ConversionError, listing, read_weights
from d2vpr_hf.utils.atomic_files import scratch_folder, set_usual_modes, write_file
from d2vpr_hf.utils.bounded_files import parse_json

_PLAN = "plan"
_WIDTHS = (0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # multipliers of the number of channels
_SIDE = 224  # pixels of the photos that it is trained on
_PREPROCESSOR = {  # whole photos, and pixel values from -1 to 1
    **{"image_processor_type": "MobileNetV2ImageProcessor", "do_resize": True, "size": {"height": _SIDE, "width": _SIDE}},
    **{"resample": 2, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255},
    **{"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
}


@dataclass(frozen=True)
class _Operation:
    """An operation of the network.

    Attributes:
        kind: `"convolution"` or `"sum"`.
        shape: Shape of a convolution's weights; empty for a sum.
        stride: Stride of a convolution; 1 for a sum.
        relu6: Whether ReLU6 follows.
        inputs: Positions of the operations whose outputs it takes, in ascending order; -1 is the image.
    """

    kind: str
    shape: tuple[int, ...]
    stride: int
    relu6: bool
    inputs: tuple[int, ...]


def is_mobilenet_v2(source: str | Path) -> bool:
    """Return whether a file is a safetensors file with a plan in its metadata."""
    if Path(source).suffix.lower() != ".safetensors" or not Path(source).is_file():
        return False
    try:
        return _PLAN in _read_metadata(Path(source))
    except SafetensorError:
        return False  # reading its weights names the damage


def convert_mobilenet_v2(source: str | Path, out: str | Path, *, overwrite: bool = False) -> MobileNetV2Model:
    """Write a folder of transformers' `MobileNetV2Model` with the weights of a file, and its image processor.

    Args:
        source: Safetensors file with a plan of the operations.
        out: The folder; missing or empty unless `overwrite` is set.
        overwrite: Whether files in `out` may be replaced.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: If there is no such file.
        FileExistsError: If `out` is not free.
        ConversionError: If the file cannot be read, or its network is not a MobileNetV2.
    """
    out = Path(out)
    check_output(source, out, overwrite)
    model = load_mobilenet_v2(source)
    with scratch_folder(out) as scratch:
        folder = scratch / "model"
        model.save_pretrained(folder)
        write_file(folder / "preprocessor_config.json", json.dumps(_PREPROCESSOR, indent=2) + "\n")
        set_usual_modes(folder.iterdir())
        move_into(folder, out)
    return model


def load_mobilenet_v2(source: str | Path) -> MobileNetV2Model:
    """Turn a file into a `MobileNetV2Model` in eval mode without writing it; see [`convert_mobilenet_v2`]."""
    weights = read_weights(Path(source))
    try:
        plan = parse_json(_read_metadata(Path(source))[_PLAN])
        numbers = [step["k"] for step in plan if step["op"] != "ADD"]
        operations = list(_planned_operations(plan, weights))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConversionError(f"The plan of {source} cannot be read: {error!r}.") from error
    left_over = sorted(set(weights) - {f"{number}.{part}" for number in numbers for part in ("weight", "bias")})
    if left_over:
        raise ConversionError(f"{source} has weights that its plan does not use: {listing(left_over)}.")
    model = _empty_model(source, operations)
    with torch.no_grad():
        for layer, number in zip(_convolutions(model), numbers, strict=True):
            _fill(layer, weights[f"{number}.weight"].float(), weights[f"{number}.bias"].float())
    return model.eval()


def _read_metadata(source: Path) -> dict[str, str]:
    with safe_open(source, "pt") as file:
        return file.metadata() or {}


def _planned_operations(plan: list[dict[str, Any]], weights: Weights) -> Iterator[_Operation]:
    """Yield the operations of a plan, which names its tensors by numbers."""
    makers = {0: -1}
    for position, step in enumerate(plan):
        inputs = tuple(sorted(makers[number] for number in step["in"]))
        is_sum = step["op"] == "ADD"
        shape = () if is_sum else tuple(weights[f"{step['k']}.weight"].shape)
        yield _Operation(
            "sum" if is_sum else "convolution", shape, 1 if is_sum else step["stride"], step.get("relu6", False), inputs
        )
        makers[step["out"]] = position


def _empty_model(source: str | Path, operations: list[_Operation]) -> MobileNetV2Model:
    """Return a model with the operations of a plan, and random weights.

    Raises:
        ConversionError: If no MobileNetV2 has these operations.
    """
    first = operations[0].shape[0] if operations else 0
    for width in _WIDTHS:
        config = MobileNetV2Config(depth_multiplier=width, image_size=_SIDE, tf_padding=True)
        with torch.device("meta"):
            expected = list(_model_operations(MobileNetV2Model(config)))
        if expected == operations:
            return MobileNetV2Model(config)
    raise ConversionError(
        f"{source} is not a MobileNetV2 of one of the widths {', '.join(map(str, _WIDTHS))}: it has {len(operations)} "
        f"operations, and {first} channels after the first one."
    )


def _model_operations(model: MobileNetV2Model) -> Iterator[_Operation]:
    """Yield the operations of a model in the order in which they are computed."""
    position = -1
    for block in (model.conv_stem, *model.layer, model.conv_1x1):
        before_block = position
        for layer in _convolutions(block):
            shape, stride = tuple(layer.convolution.weight.shape), layer.convolution.stride[0]
            yield _Operation("convolution", shape, stride, layer.activation is not None, (position,))
            position += 1
        if getattr(block, "use_residual", False):
            yield _Operation("sum", (), 1, False, (before_block, position))
            position += 1


def _convolutions(module: nn.Module) -> list[MobileNetV2ConvLayer]:
    """Return the convolutions of a module in the order in which they are computed, each with its BatchNorm."""
    return [layer for layer in module.modules() if isinstance(layer, MobileNetV2ConvLayer)]


def _fill(layer: MobileNetV2ConvLayer, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Copy the weights of a convolution into a layer, whose BatchNorm then only adds the bias."""
    norm = layer.normalization
    assert norm is not None and norm.running_mean is not None and norm.running_var is not None
    layer.convolution.weight.copy_(weight)
    norm.bias.copy_(bias)
    norm.weight.fill_(1.0)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)  # BatchNorm divides by the root of running_var + eps
