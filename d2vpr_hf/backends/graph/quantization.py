"""Quantise the products of an ONNX graph's blocks to int8, by what they saw on photos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf.backends.graph.onnx_graph import INPUT
from d2vpr_hf.utils.optional_imports import import_extra

_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch notes which module a node is of
_QUANTISED = "network.encoder"  # the blocks: what they do not hold decides where features are read, and takes little time


def quantize_graph(source: Path, target: Path, batches: Sequence[torch.Tensor]) -> None:
    """Write a graph whose blocks multiply in int8: weights by channel, activations by the range they had.

    Args:
        source: What `write_onnx` wrote.
        target: The new file.
        batches: Inputs (B, 3, height, width) that are like those to come.
    """
    quantization = import_extra("onnxruntime.quantization", "export")
    onnx = import_extra("onnx", "export")

    class Photos(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self._inputs: Iterator[dict[str, Any]] = ({INPUT: batch.numpy()} for batch in batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._inputs, None)

    quantization.quantize_static(
        source,
        target,
        Photos(),
        quant_format=quantization.QuantFormat.QDQ,  # which OpenVINO reads too
        nodes_to_quantize=_block_products(onnx.load(source)),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _block_products(graph: Any) -> list[str]:
    """Name the products of activations with weights in the blocks."""
    weights = {weight.name for weight in graph.graph.initializer}
    return [node.name for node in graph.graph.node if node.op_type == "MatMul" and node.input[1] in weights and _in_block(node)]


def _in_block(node: Any) -> bool:
    return any(entry.key == _SCOPES and f"'{_QUANTISED}'" in entry.value for entry in node.metadata_props)
