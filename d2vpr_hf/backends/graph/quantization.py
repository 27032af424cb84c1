"""Quantise the products of an ONNX graph over tokens to int8, with activation ranges measured on photos.

Processors without VNNI (AVX2 and the first AVX-512) multiply unsigned activations with signed weights by `vpmaddubsw`, which
adds the products of two neighbouring inputs in 16 bits and saturates at 32767. With weights up to 127 and activations up to
255, two products reach 64770, so descriptors would differ three times as much there. The scales here keep every such sum
within 16 bits: the runtimes then compute the same on all processors.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.backends.graph.graph_names import INPUT
from d2vpr_hf.utils.optional_imports import import_extra

_SCOPES = "pkg.torch.onnx.name_scopes"  # the key under which torch records the module of a node
# the aggregator pools by powers; its products other than the first are small
_IN_FLOAT = "network.aggregator"
_FIRST_PRODUCT = "network.aggregator.sampler.offset_generator.patch_projection"
_LARGEST_PAIR = 128  # largest sum of two neighbouring weights of the same sign: 128 * 255 = 32640 fits in 16 bits


def quantize_graph(source: Path, target: Path, batches: Sequence[torch.Tensor]) -> None:
    """Write a graph that multiplies tokens by weights in int8: weight scales by output channel, activations by their range.

    Results of products stay in float32 up to the next product: to round them too doubles the change of descriptors. Attention
    multiplies in float32, because most of its probabilities are as small as the steps of 8 bits.

    Args:
        source: A graph that `write_onnx` wrote.
        target: The new file.
        batches: Inputs (B, 3, height, width) on which the ranges of activations are measured.

    Raises:
        ImportError: If onnxruntime or onnx is not installed.
        ValueError: If no weights are multiplied with tokens, as in a network of convolutions.
    """
    quantization = import_extra("onnxruntime.quantization", "export")
    onnx = import_extra("onnx", "export")

    class CalibrationPhotos(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self._inputs: Iterator[dict[str, Any]] = ({INPUT: batch.numpy()} for batch in batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._inputs, None)

    graph = onnx.load(source).graph
    weights = {weight.name: weight for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights and _is_quantised(node)]
    if not products:
        raise ValueError(
            "int8 multiplies tokens by weights, and this network has no such product: it consists of convolutions. Export it "
            'with `precision="fp32"`.'
        )
    scales = {
        node.input[1]: [
            {"axis": 1, "quant_type": quantization.QuantType.QInt8, "scale": scale, "zero_point": np.int8(0)}
            for scale in safe_scales(onnx.numpy_helper.to_array(weights[node.input[1]]))
        ]
        for node in products
    }
    quantization.quantize_static(
        source,
        target,
        CalibrationPhotos(),
        quant_format=quantization.QuantFormat.QDQ,  # which OpenVINO reads too
        nodes_to_quantize=[node.name for node in products],
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"TensorQuantOverrides": scales, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


def _is_quantised(node: Any) -> bool:
    """Return whether a product belongs to a module whose products are in int8."""
    modules = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    return f"'{_IN_FLOAT}'" not in modules or f"'{_FIRST_PRODUCT}'" in modules


def safe_scales(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a scale for each output channel such that no pair of neighbouring weights can saturate.

    Scales for all 8 bits would be finer but saturate. Scales for 7 bits (`reduce_range`) would be coarser than needed, because
    two neighbours are rarely both large.

    Args:
        weights: (C_in, C_out), of a product `activations @ weights`.

    Returns:
        (C_out,) scales: after rounding, two neighbours of the same sign sum to at most 128.
    """
    odd = len(weights) % 2
    pairs = np.pad(weights, ((0, odd), (0, 0))).reshape(-1, 2, weights.shape[1])  # (C_in, C_out) -> (C_in / 2, 2, C_out)
    positive, negative = (np.clip(sign * pairs, 0, None).sum(axis=1).max(axis=0) for sign in (1, -1))
    scales = np.maximum(positive, negative) / (_LARGEST_PAIR - 1)  # rounding adds at most a half to each weight
    return np.where(scales > 0, scales, 1).astype(np.float32)
