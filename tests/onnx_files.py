"""Small ONNX graphs of the shape of MegaLoc's, written node by node, and hostile ones."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after the check that it is installed

GRID = 4  # cells in each direction, whose means are the features
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def write_graph(
    path: Path,
    *,
    width: int = 24,
    size: int | None = None,
    batch: int | None = None,
    number_type: int = TensorProto.FLOAT,
    unit: bool = True,
    kind: str = "plain",
    external: str | None = None,
    names: tuple[str, str] = ("images", "descriptor"),
    seed: int = 0,
    **resizing: object,
) -> Path:
    """Write a graph that averages the cells of a grid, multiplies them by random weights, and divides by the norm.

    Args:
        path: The file.
        width: Width of the descriptors.
        size: Height and width of the images; `None` for any.
        batch: Number of images; `None` for any.
        number_type: Number type of input, weights and output.
        unit: Whether descriptors are divided by their norms.
        kind: `"plain"`; `"batch"` mixes the photos of a batch, `"nan"` takes the logarithm of negative numbers, `"two"` has a
            second output, `"maps"` gives four axes, `"custom"` uses an operator of another domain.
        external: Name of a file for the weights; `None` keeps them in the graph.
        names: Names of input and output.
        seed: Of the weights.
        resizing: Attributes of the operator that makes the grid of a graph for any size.
    """
    numbers = np.random.default_rng(seed).standard_normal((3 * GRID * GRID, width), dtype=np.float32)
    kernel = numpy_helper.from_array(numbers, "weights")
    features, pixels = "grid", names[0]
    nodes = []
    if number_type != TensorProto.FLOAT:
        pixels = "pixels"
        nodes.append(helper.make_node("Cast", [names[0]], [pixels], to=TensorProto.FLOAT))
    if size is None:
        nodes.append(helper.make_node("Resize", [pixels, "", "", "sizes"], ["cells"], mode="linear", axes=[2, 3], **resizing))
        constants = [numpy_helper.from_array(np.array([GRID, GRID], np.int64), "sizes")]
    else:
        step = size // GRID
        nodes.append(helper.make_node("AveragePool", [pixels], ["cells"], kernel_shape=[step, step], strides=[step, step]))
        constants = []
    nodes += [helper.make_node("Flatten", ["cells"], ["grid"])]
    if kind == "batch":
        constants.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
        nodes += [
            helper.make_node("ReduceMean", ["grid", "first"], ["mean"]),
            helper.make_node("Sub", ["grid", "mean"], ["centred"]),
            helper.make_node("Add", ["centred", "grid"], ["mixed"]),
        ]
        features = "mixed"
    nodes.append(helper.make_node("MatMul", [features, "weights"], ["product"]))
    last = "product"
    if kind == "nan":
        nodes += [
            helper.make_node("Abs", ["product"], ["positive"]),
            helper.make_node("Neg", ["positive"], ["negative"]),
            helper.make_node("Log", ["negative"], ["logarithm"]),
        ]
        last = "logarithm"
    if kind == "custom":
        nodes.append(helper.make_node("Mystery", [last], ["solved"], domain="example.ops"))
        last = "solved"
    if unit and kind != "maps":
        nodes.append(helper.make_node("LpNormalization", [last], ["unit"], axis=1, p=2))
        last = "unit"
    nodes.append(helper.make_node("Cast", ["cells" if kind == "maps" else last], [names[1]], to=number_type))
    side = size or "side"
    axes = [3, GRID, GRID] if kind == "maps" else [width]
    outputs = [helper.make_tensor_value_info(names[1], number_type, [batch or "batch", *axes])]
    if kind == "two":
        nodes.append(helper.make_node("Identity", ["grid"], ["attention"]))
        outputs.append(helper.make_tensor_value_info("attention", TensorProto.FLOAT, [batch or "batch", 3 * GRID * GRID]))
    graph = helper.make_graph(
        nodes,
        "descriptors",
        [helper.make_tensor_value_info(names[0], number_type, [batch or "batch", 3, side, side if size else "other"])],
        outputs,
        [kernel, *constants],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("example.ops", 1)] if kind == "custom" else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if external is None:
        onnx.save_model(model, path)
    else:
        onnx.save_model(model, path, save_as_external_data=True, location=external, size_threshold=64)
    return path


def rename_external(path: Path, name: str) -> None:
    """Let a graph name another file for its weights, without a check."""
    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    path.write_bytes(model.SerializeToString())


def plain_descriptors(path: Path, photos: list[Path], size: int, name: str = "descriptor") -> np.ndarray:
    """Return the descriptors that a plain script of onnxruntime and Pillow gives."""
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = []
    for photo in photos:
        pixels = np.asarray(Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
        pixels = (pixels - np.array(IMAGENET["mean"], np.float32)) / np.array(IMAGENET["std"], np.float32)
        rows.append(session.run([name], {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})[0][0])
    return np.stack(rows)
