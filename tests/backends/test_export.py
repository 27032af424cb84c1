"""Exported graphs give the model's descriptors with other runtimes; a graph that differs is not written.

An export takes seconds, so each kind of graph is made once.
"""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos, search_photos
from d2vpr_hf.backends import export_model as export_module
from d2vpr_hf.backends import registry
from d2vpr_hf.backends.export_model import ExportOptions, export_model
from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.model_info.encoder_entry import EncoderEntry
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from tests.conftest import relative, tiny_cricavpr, tiny_model
from tests.photos import draw

SIZES = [(60, 90), (80, 41), (60, 90)]


@pytest.fixture(scope="module")
def any_size(tmp_path_factory, tiny_folder):
    """ONNX, float32, for images of any size in whole patches."""
    return export(tiny_folder, tmp_path_factory.mktemp("any") / "out", ExportOptions("onnx", "fp32", "any-size"))


@pytest.fixture(scope="module")
def resizing(tmp_path_factory, tiny_folder):
    """OpenVINO, float32, for photos of any size."""
    return export(tiny_folder, tmp_path_factory.mktemp("photos") / "out", ExportOptions("openvino", "fp32", "photos"))


def export(model_folder, out, options):
    return export_model(
        load_model(model_folder), load_image_processor(model_folder), out, options, info={"fingerprint": "a"}
    ).folder


def images(count, height, width):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_graph_takes_any_number_of_images_of_any_size(any_size, tiny_folder, name):
    """The grid that position embeddings are stored for (70x70) among them, where they are not resampled."""
    backend, model = ExportedModel.open(any_size).open_backend(name, None), load_model(tiny_folder)
    for shape in ((1, 70, 70), (5, 42, 126), (2, 126, 42), (3, 14, 14)):
        with torch.no_grad():
            expected = model(images(*shape)).pooler_output
        assert relative(torch.from_numpy(backend.encode(images(*shape))), expected) < 1e-5


@pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ, reason="OpenVINO looks for bf16 in the processor, and for its kernels within this limit"
)
def test_descriptors_in_bf16_are_close(any_size, tiny_folder):
    backend, model = ExportedModel.open(any_size).open_backend("openvino", "bf16"), load_model(tiny_folder)
    with torch.no_grad():
        expected = model(images(4, 70, 70)).pooler_output
    descriptors = torch.from_numpy(backend.encode(images(4, 70, 70)))
    assert torch.cosine_similarity(descriptors, expected).min() > 0.999


def test_a_graph_that_resizes_takes_photos_of_any_size(resizing, tiny_folder):
    photos = [draw(i, *size) for i, size in enumerate(SIZES)]
    encoder = PlaceEncoder(resizing)
    assert (encoder.backend.name, encoder.backend.precision) == ("openvino", "fp32") and encoder.runtime == Runtime(
        "openvino", "fp32"
    )
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    np.testing.assert_allclose(encoder.encode(photos).descriptors, expected, atol=1e-6)


def test_products_over_tokens_are_in_int8(quantised):
    """Pooling by powers and attention by probabilities of a few steps of 8 bits stay in float32."""
    graph = onnx.load(quantised[0] / "model.onnx").graph
    weights = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]
    scopes = [next(entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")) for node in products]
    blocks = [scope for scope in scopes if "'network.encoder'" in scope]
    assert len(blocks) == 2 * 9  # of each block: query, key, value, proj, two of the MLP, three of the adapter
    assert sorted(scope.split("'")[-4].split(".", 1)[1] for scope in scopes if scope not in blocks) == [
        "aggregator.sampler.offset_generator.patch_projection.linear",
        "embeddings.projection.linear",
        "recovery.projection.linear",
    ]


def test_outputs_of_products_in_int8_are_not_rounded(quantised):
    """Rounded outputs doubled the change of descriptors, and runtimes converted them there and back."""
    graph = onnx.load(quantised[0] / "model.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    sources = [made_by.get(node.input[0]) for node in graph.node if node.op_type == "QuantizeLinear"]
    assert sources and "MatMul" not in sources


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_descriptors_in_int8_are_close(quantised, tiny_folder, name, world):
    """Rounding changes descriptors by 0.012 (both runtimes with VNNI, OpenVINO with AVX2 alone too), saturation by 0.051."""
    photos = sorted((world / "queries").iterdir())
    descriptors = PlaceEncoder(quantised[0], backend=name).encode(photos).descriptors
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    assert 1e-4 < np.linalg.norm(descriptors - expected) / np.linalg.norm(expected) < 0.03


def test_an_export_reports_the_change_of_recall(quantised):
    """Database and queries are the same photos, so that both find all."""
    out, output = quantised
    assert "onnx, int8" in output and "R@1" in output
    info = ExportedModel.open(out).info
    assert info["recall_before_and_after"]["recall@1"] == [1.0, 1.0] and info["calibration_photos"] == 6


def test_an_index_of_the_model_is_searched_by_its_export(quantised, tiny_folder, world, tmp_path):
    """And the other way round; a robot has the graph, the server has torch."""
    index_photos(world / "database", tmp_path / "index", PlaceEncoder(tiny_folder))
    found = search_photos(PlaceIndex.open(tmp_path / "index"), [world / "queries"], PlaceEncoder(quantised[0]))
    assert [result.query.name for result in found] == [result.matches[0].place.path for result in found]


def test_an_export_records_its_encoder(any_size, resizing, tiny_folder):
    """A program without torch runs the graph by these values: the steps that the graph does not contain, first of all."""
    encoder = PlaceEncoder(tiny_folder)
    entry = EncoderEntry.from_dict(ExportedModel.open(any_size).info["encoder"])
    assert entry.to_dict() == ExportedModel.open(any_size).info["encoder"]
    assert (entry.descriptor_dim, entry.projection_dim, entry.depends_on_batch) == (encoder.descriptor_dim, None, False)
    assert entry.facts == encoder.facts and entry.preprocessing.input_size == encoder.input_size
    photo = draw(3, 75, 121)
    np.testing.assert_allclose(entry.preprocessing(photo), encoder.descriptor_model.prepare(photo), atol=2e-5)
    in_the_graph = EncoderEntry.from_dict(ExportedModel.open(resizing).info["encoder"]).preprocessing
    assert in_the_graph.input_size is None
    np.testing.assert_array_equal(in_the_graph(photo), np.asarray(photo, np.float32).transpose(2, 0, 1))


def test_an_export_has_no_weights(quantised):
    with pytest.raises(ValueError, match="is an exported graph; this needs the model that it was made of"):
        _ = PlaceEncoder(quantised[0]).model


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("onnxruntime", "int8", "was exported in fp32; for int8 export the model again"),
        ("onnxruntime", "fp32", "holds a graph for openvino; the backend onnxruntime cannot run it"),
        ("torch-compiled", None, "the backend torch-compiled cannot run it"),
    ],
)
def test_a_backend_that_cannot_run_a_graph_is_refused(any_size, resizing, name, precision, message):
    folder = any_size if precision == "int8" else resizing
    with pytest.raises(ValueError, match=message):
        ExportedModel.open(folder).open_backend(name, precision)


def test_a_graph_that_differs_from_its_model_is_not_written(tiny_folder, tmp_path, monkeypatch):
    """An export that computes something else must not look like one."""
    true_graph = export_module.DescriptorNetwork
    monkeypatch.setattr(export_module, "DescriptorNetwork", lambda model, *rest: true_graph(tiny_model(seed=1), *rest))
    with pytest.raises(ValueError, match=r"differs from the model by .*; nothing was written"):
        export(tiny_folder, tmp_path / "out", ExportOptions())
    assert not list(tmp_path.iterdir())


def test_exports_that_are_not_possible_are_refused(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="The precision of an export must be fp32 or int8, got 'bf16'"):
        ExportOptions("onnx", "bf16")
    with pytest.raises(ValueError, match=r"The format of an export must be onnx, .* or .*, got 'tflite'"):
        ExportOptions("tflite")
    with pytest.raises(ValueError, match="int8 is calibrated on photos like those to come"):
        export(tiny_folder, tmp_path / "out", ExportOptions("onnx", "int8"))
    (tmp_path / "full" / "mine").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        export(tiny_folder, tmp_path / "full", ExportOptions())
    with pytest.raises(ValueError, match="int8 needs photos to be calibrated on: `d2vpr export MODEL OUT --format onnx"):
        _ = PlaceEncoder(tiny_folder, backend="onnxruntime", precision="int8").backend


@pytest.mark.parametrize("name", ["coreml", "executorch"])
def test_a_model_that_needs_batches_is_not_exported_for_single_photos(tmp_path, name):
    """The descriptor of a photo would not be the one that it has in a batch."""
    with pytest.raises(ValueError, match=r"attend to each other, but a graph for .* takes one photo at once"):
        export_model(tiny_cricavpr(), D2VPRImageProcessor(), tmp_path / "out", ExportOptions(name))


@pytest.mark.parametrize(("name", "library"), [("coreml", "coremltools"), ("executorch", "executorch")])
def test_a_library_that_writes_a_format_is_named(tiny_folder, tmp_path, monkeypatch, name, library):
    for module in (library, f"{library}.exir"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{library} cannot be imported .* pip install "d2vpr-hf\[{name}\]" installs it'):
        export(tiny_folder, tmp_path / "out", ExportOptions(name))
    assert not list(tmp_path.iterdir())


def test_auto_chooses_openvino_on_a_cpu_if_it_is_installed(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert registry.choose_backend(gpu) == "torch" and registry.choose_backend(cpu, "fp16") == "torch"
    assert registry.choose_backend(cpu) == "openvino"
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    assert registry.choose_backend(cpu) == "torch"


def test_a_backend_that_is_not_installed_is_named(any_size, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'pip install "d2vpr-hf\[openvino\]" installs it'):
        ExportedModel.open(any_size).open_backend("openvino", None)


def test_the_encoder_is_imported_without_the_runtimes():
    """`pip install d2vpr-hf` brings neither."""
    code = (
        "import sys; sys.modules.update(onnx=None, onnxruntime=None, onnxscript=None, openvino=None); "
        "import d2vpr_hf.encoders.place_encoder"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_damaged_export_is_refused(any_size, tmp_path):
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(ValueError, match="Export the model again"):
        PlaceEncoder(tmp_path)


def test_a_model_converted_for_one_process_gives_its_descriptors():
    model, processor = tiny_model(), D2VPRImageProcessor(size={"height": 70, "width": 42})
    descriptors = PlaceEncoder(model, processor, backend="onnxruntime").encode([draw(0), draw(1)]).descriptors
    expected = PlaceEncoder(model, processor).encode([draw(0), draw(1)]).descriptors
    np.testing.assert_allclose(descriptors, expected, atol=1e-6)
