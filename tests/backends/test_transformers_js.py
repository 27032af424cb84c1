"""The folder for transformers.js: its layout, and with the library itself under Node.js, its descriptors.

`make node` installs the library from npm and runs the tests that are marked `node`.
"""

import json
import shutil

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image
from PIL.ExifTags import Base
from typer.testing import CliRunner

from benchmarks.transformers_js import PACKAGES, describe_by_node
from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.cli.commands import app
from tests.photos import draw

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not PACKAGES.is_dir(), reason="needs Node.js and @huggingface/transformers: make node"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Wide, tall and small ones, JPEG and PNG, grey, and one that EXIF turns."""
    folder = tmp_path_factory.mktemp("photos")
    turned = Image.Exif()
    turned[Base.Orientation] = 6
    draw(0, 120, 400).save(folder / "wide.jpg", quality=95)
    draw(1, 301, 77).save(folder / "tall.png")
    draw(2, 33, 41).save(folder / "small.png")
    draw(3, 70, 70).save(folder / "exact.png")
    draw(4, 480, 641).convert("L").save(folder / "grey.png")
    draw(5, 200, 100).save(folder / "turned.jpg", exif=turned, quality=95)
    return sorted(folder.iterdir())


def export(model, tmp_path_factory, *options):
    out = tmp_path_factory.mktemp("js") / "out"
    done = CliRunner().invoke(
        app, ["export", str(model), str(out), "--format", "transformers-js", *map(str, options)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    return export(tiny_folder, tmp_path_factory)


@pytest.fixture(scope="module")
def folder_int8(tiny_folder, tmp_path_factory, photos):
    return export(tiny_folder, tmp_path_factory, "--precision", "int8", "--photos", photos[0].parent)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_layout_is_that_of_the_library(folder):
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        ".gitattributes",
        "README.md",
        "config.json",
        "d2vpr_config.json",
        "export.json",
        "onnx/model.onnx",
        "preprocessor_config.json",
        "references.npz",
    }
    assert read(folder / "config.json")["transformers.js_config"] == {"dtype": "fp32"}  # in browsers it would look for q8
    processor = read(folder / "preprocessor_config.json")
    assert processor["image_processor_type"] == "ViTImageProcessor"
    assert not any(processor[step] for step in ("do_resize", "do_rescale", "do_normalize"))


def test_the_outputs_are_those_that_the_pipeline_returns(folder):
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    onnx.checker.check_model(folder / "onnx" / "model.onnx")
    assert [value.name for value in graph.input] == ["pixel_values"]
    assert [value.name for value in graph.output] == ["pooler_output", "image_embeds"]


def test_the_readme_is_a_card_of_the_library(folder, tiny_folder):
    _, metadata, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(metadata)
    assert card["library_name"] == "transformers.js" and card["pipeline_tag"] == "image-feature-extraction"
    width = PlaceEncoder(tiny_folder).config.descriptor_dim
    assert f"[1, {width}] numbers" in text and str(tiny_folder) not in text
    assert "## Licence\n\nThe licence of the model" in text
    assert "**Not trained yet**: adapters, aggregator" in text


@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_the_encoder_opens_the_folder(folder, tiny_folder, photos, backend):
    encoder = PlaceEncoder(folder, backend=backend)
    expected = PlaceEncoder(tiny_folder)
    assert encoder.fingerprint == expected.fingerprint and encoder.config.regions == expected.config.regions
    np.testing.assert_allclose(encoder.encode(photos).descriptors, expected.encode(photos).descriptors, atol=2e-6)


def test_int8_brings_both_files(folder_int8, tiny_folder, photos):
    assert read(folder_int8 / "config.json")["transformers.js_config"] == {"dtype": "q8"}
    graphs = sorted(path.name for path in (folder_int8 / "onnx").iterdir())
    assert graphs == ["model.onnx", "model_quantized.onnx"]
    encoder = PlaceEncoder(folder_int8)
    assert encoder.runtime.precision == "int8"
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    assert 1e-4 < np.abs(encoder.encode(photos).descriptors - expected).max() < 0.05
    exact = PlaceEncoder(folder_int8, precision="fp32").encode(photos).descriptors
    np.testing.assert_allclose(exact, expected, atol=2e-6)


def test_the_graph_takes_photos_only():
    assert ExportOptions("transformers-js").input_kind == "photos"
    with pytest.raises(ValueError, match="input of an export must be photos, got 'fixed' for the format transformers-js"):
        ExportOptions("transformers-js", input="fixed")


def test_both_graphs_are_verified(folder_int8):
    record = ExportedModel.open(folder_int8).info["verification"]
    assert record["runtime"] == "onnxruntime int8" and record["images"] > 1


@pytest.mark.node
@needs_node
def test_the_library_gives_the_descriptors_of_the_model(folder, tiny_folder, photos, tmp_path):
    """With `pool: true`, without it, and by the build of onnxruntime that browsers run."""
    results = describe_by_node(folder, photos, tmp_path)
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    assert results["dims"] == [1, expected.shape[1]] and results["batch"] == [2, expected.shape[1]]
    assert results["plain"] == results["pooled"]
    for way in ("plain", "wasm"):
        assert (np.array(results[way]) * expected).sum(axis=1).min() > 0.9999
    assert "Unknown" not in results["log"] and "not found" not in results["log"]


@pytest.mark.node
@needs_node
def test_the_library_runs_int8(folder_int8, tiny_folder, photos, tmp_path):
    results = describe_by_node(folder_int8, photos, tmp_path)
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    for way in ("plain", "wasm"):
        assert 0.99 < (np.array(results[way]) * expected).sum(axis=1).min() < 0.9999999
