"""Forms of int8 graphs: time of the published shapes, recall and descriptors of the embedded model, as a Markdown table.

    python benchmarks/int8_forms.py --database DIR --queries DIR --calibration DIR [--rounds 6] [--work build/int8]

Each form has other products in 8 bits. Times are those of one core, by the processor's clock, so that other work on the machine
matters little: batches of eight images of 224×224, random weights, as ratios to bare Dinov2-small in float32 in the same run.
`ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2` measures OpenVINO's and torch's kernels for processors without VNNI.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from network_timing import bare, student
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from precision_cost import different_places, judge

from d2vpr_hf import compare_evaluations, load_image_processor, load_model
from d2vpr_hf.backends.graph.graph_names import INPUT
from d2vpr_hf.backends.graph.onnx_graph import DescriptorNetwork, write_onnx
from d2vpr_hf.backends.graph.quantization import safe_scales
from d2vpr_hf.backends.openvino_backend import OpenVinoBackend
from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.evaluation import PositiveRule
from d2vpr_hf.evaluation.photo_selection import PhotoSelection, select_photos
from d2vpr_hf.readers import find_photos, open_photo, read_places

BLOCKS, RECOVERY = "'network.encoder'", "'network.recovery'"
PATCHES, OFFSETS = "'network.embeddings'", "offset_generator.patch_projection'"
SCOPES = "pkg.torch.onnx.name_scopes"
BATCH = 8


class Form(NamedTuple):
    """A choice of operations in int8.

    Attributes:
        name: Its name in the table.
        parts: Parts of the names of modules whose products are in int8.
        rounded: Whether the results of products are rounded too.
        attention: Whether attention's two products are in int8.
        separate: Whether query, key and value are products of their own.
    """

    name: str
    parts: tuple[str, ...]
    rounded: bool = False
    attention: bool = False
    separate: bool = False


ALL = (BLOCKS, RECOVERY, PATCHES, OFFSETS)
FORMS = (
    Form("float32", ()),
    Form("float32, separate query, key, value", (), separate=True),
    Form("blocks, results rounded (earlier versions)", (BLOCKS,), rounded=True),
    Form("blocks", (BLOCKS,)),
    Form("and recovery", (BLOCKS, RECOVERY)),
    Form("and patches, offset head", ALL),
    Form("and separate query, key, value, as exported", ALL, separate=True),
    Form("and attention's products", ALL, attention=True, separate=True),
)


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Inputs on which ranges are measured."""

    def __init__(self, batches: Sequence[NDArray[np.float32]]) -> None:
        self._inputs: Iterator[dict[str, Any]] = ({INPUT: batch} for batch in batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input."""
        return next(self._inputs, None)


def write_forms(model: Any, size: int, folder: Path, batches: Sequence[NDArray[np.float32]]) -> dict[str, Path]:
    """Write the graph of a model in each form."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for separate in (False, True):
        network = DescriptorNetwork(model, None)
        network.network = prepare(model, for_graph=separate)
        sources[separate] = folder / f"float32-{'separate' if separate else 'joined'}.onnx"
        example = torch.zeros(2, 3, size, size)
        write_onnx(network, sources[separate], example, {0: torch.export.Dim("batch", min=1, max=65536)})
    files = {}
    for number, form in enumerate(FORMS):
        files[form.name] = folder / f"{number}.onnx" if form.parts else sources[form.separate]
        if form.parts:
            quantize(sources[form.separate], files[form.name], form, batches)
    return files


def quantize(source: Path, target: Path, form: Form, batches: Sequence[NDArray[np.float32]]) -> None:
    """Write a graph in a form, as `quantize_graph` writes the exported one."""
    graph = onnx.load(source).graph
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    modules = {node.name: "".join(entry.value for entry in node.metadata_props if entry.key == SCOPES) for node in graph.node}
    products = [
        node for node in graph.node if node.op_type == "MatMul" and any(part in modules[node.name] for part in form.parts)
    ]
    chosen = [node for node in products if node.input[1] in weights or form.attention]
    scales = {
        node.input[1]: [
            {"axis": 1, "quant_type": QuantType.QInt8, "scale": scale, "zero_point": np.int8(0)}
            for scale in safe_scales(weights[node.input[1]])
        ]
        if node.input[1] in weights
        else [{"quant_type": QuantType.QInt8, "symmetric": True}]
        for node in chosen
    }
    quantize_static(
        source,
        target,
        Batches(batches),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=[node.name for node in chosen],
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"TensorQuantOverrides": scales}
        | ({} if form.rounded else {"OpTypesToExcludeOutputQuantization": ["MatMul"]}),
    )


def time_forms(work: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the time of each form as a ratio to bare Dinov2-small: in OpenVINO, and in ONNX Runtime."""
    generator = np.random.default_rng(0)
    noise = [generator.standard_normal((1, 3, 224, 224), np.float32) for _ in range(3)]
    files = write_forms(student(), 224, work / "student", noise)
    images = generator.standard_normal((BATCH, 3, 224, 224), np.float32)
    network, settings = bare("small"), onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    calls: dict[str, Callable[[], Any]] = {"bare": lambda: network(torch.from_numpy(images))}
    for name, file in files.items():
        calls[f"{name} openvino"] = partial(OpenVinoBackend(file, "int8").encode, images)
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        calls[f"{name} onnxruntime"] = partial(session.run, None, {INPUT: images})
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    least = {name: min(values[1:]) for name, values in seconds.items()}  # the first round warms up
    return {name: (least[f"{name} openvino"] / least["bare"], least[f"{name} onnxruntime"] / least["bare"]) for name in files}


def recall_of_forms(work: Path, sides: tuple[PhotoSelection, PhotoSelection], calibration: Path) -> dict[str, str]:
    """Return, for each form of the embedded model, the cells of recall and change, by OpenVINO."""
    processor = load_image_processor()
    pixels = [_pixels(processor, [side.table.photo(place) for place in side.places]) for side in sides]
    seen = _pixels(processor, find_photos(calibration))
    files = write_forms(load_model().eval(), pixels[0].shape[-1], work / "embedded", np.split(seen, len(seen)))
    cells: dict[str, str] = {}
    for name, file in files.items():
        backend = OpenVinoBackend(file, "int8")
        descriptors = [
            np.concatenate([backend.encode(part) for part in np.array_split(side, len(side) // 16)]) for side in pixels
        ]
        if not cells:
            exact, exact_evaluation = descriptors, judge(descriptors, sides)
            apart = different_places(sides[0], exact[0])
        recall = compare_evaluations(exact_evaluation, judge(descriptors, sides)).differences[0]
        changes = 100 * np.linalg.norm(descriptors[1] - exact[1], axis=1) / apart
        low, high = (100 * end for end in recall.interval_95)
        difference = f"{100 * (recall.second - recall.first):+.2f}, {low:+.2f} to {high:+.2f}"
        cells[name] = f"{100 * recall.second:.1f} | {difference} | {np.median(changes):.1f} %, {changes.max():.1f} %"
    return cells


def _pixels(processor: Any, photos: Sequence[Path]) -> NDArray[np.float32]:
    """Return normalised images (N, 3, height, width) of photos."""
    images = (processor(open_photo(photo), return_tensors="np")["pixel_values"] for photo in photos)
    return np.concatenate(list(images)).astype(np.float32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, required=True, help="photos with @ names")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="photos of another city")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--work", type=Path, default=Path("build/int8"))
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core: OpenVINO takes all that there are
    torch.set_num_threads(1)
    times = time_forms(arguments.work, arguments.rounds)
    sides = select_photos(read_places(arguments.database), read_places(arguments.queries), PositiveRule())
    cells = recall_of_forms(arguments.work, sides, arguments.calibration)
    print("| in int8 | openvino | onnxruntime | R@1 | difference, 95 % interval | change |")
    print("| --- " * 6 + "|")
    for name, (openvino, runtime) in times.items():
        print(f"| {name} | {openvino:.2f} | {runtime:.2f} | {cells[name]} |", flush=True)


if __name__ == "__main__":
    main()
