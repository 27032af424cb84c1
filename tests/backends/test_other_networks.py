"""Networks of other libraries are exported like models of this package: here a DINOv2 of two layers with GeM pooling."""

import numpy as np
import onnx
import pytest
import torch

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.backends.graph.onnx_graph import GraphPreprocessing
from d2vpr_hf.export import export
from d2vpr_hf.model_info.encoder_entry import EncoderEntry
from d2vpr_hf.model_info.preprocessing import Preprocessing
from tests.other_model import OtherModel
from tests.photos import draw, save


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [save(folder / f"{i}.jpg", i) for i in range(6)]


@pytest.mark.parametrize(
    ("format", "input", "tolerance"),
    [("onnx", "fixed", 1e-5), ("openvino", "photos", 1e-3), ("transformers-js", "photos", 1e-3)],
)
def test_a_graph_gives_the_descriptors_of_the_network(format, input, tolerance, tmp_path):
    """Resizing in the graph rounds pixels as Pillow does, but for ties."""
    encoder = PlaceEncoder(OtherModel())
    done = export(encoder, tmp_path / "out", ExportOptions(format, input=input))
    info = done.model.info
    assert (info["fingerprint"], info["model"]) == (encoder.fingerprint, "user/tiny")
    entry = EncoderEntry.from_dict(info["encoder"])
    assert (entry.facts, entry.model_options, entry.descriptor_dim) == (encoder.facts, {"pool": "gem"}, 32)
    steps, backend = entry.preprocessing, done.model.open_backend("auto", None)
    assert (steps.input_size == (70, 70)) == (input == "fixed")
    for seed in range(3):
        expected = OtherModel().describe(OtherModel().prepare(draw(seed))[None])
        np.testing.assert_allclose(backend.encode(steps(draw(seed))[None]), expected, atol=tolerance)
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        f"# Tiny DINOv2, {'for transformers.js' if format == 'transformers-js' else 'as a graph'}" in card
        and "license: apache-2.0" in card
        and "arXiv 2304.07193" in card
    )
    assert "base_model: user/tiny" in card and "D²-VPR" not in card


def test_a_graph_takes_images_of_any_size(tmp_path):
    done = export(PlaceEncoder(OtherModel()), tmp_path / "out", ExportOptions(input="any-size"))
    backend = done.model.open_backend("auto", None)
    for shape in ((1, 3, 70, 70), (2, 3, 42, 126), (3, 3, 98, 56)):
        pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.testing.assert_allclose(backend.encode(pixels), OtherModel().describe(pixels), atol=1e-5)


def test_int8_is_calibrated_on_photos(tmp_path, photos):
    done = export(PlaceEncoder(OtherModel()), tmp_path / "out", ExportOptions(precision="int8"), photos=photos[0].parent)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) >= 8  # activations of two blocks
    assert 1e-5 < done.model.info["relative_difference"] < 0.1


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        ({"shortest_edge": 70}, ExportOptions(input="photos"), "cannot resize photos by a rule that keeps their shape"),
        (
            {"size": (70, 70), "resample": "lanczos"},
            ExportOptions(input="photos"),
            "cannot resize photos by the filter 'lanczos'",
        ),
    ],
)
def test_a_graph_that_cannot_be_written_has_a_reason(steps, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(PlaceEncoder(OtherModel(Preprocessing(**steps))), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_network_of_one_size_has_no_graph_for_any_size(tmp_path):
    model = OtherModel()
    model.patch_size = None
    with pytest.raises(ValueError, match="Tiny DINOv2 takes images of one size only"):
        export(PlaceEncoder(model), tmp_path / "out", ExportOptions(input="any-size"))


def test_an_object_without_a_network_cannot_be_exported(tmp_path):
    model = OtherModel()
    model.network = None
    with pytest.raises(ValueError, match="user/tiny cannot be exported: it is not a network of torch with its preprocessing"):
        export(PlaceEncoder(model), tmp_path / "out")


@pytest.mark.parametrize(
    "steps",
    [
        {"size": (70, 50), "resample": "bicubic"},
        {"size": (90, 60), "crop_size": (70, 70)},
        {"size": (60, 60), "crop_size": (71, 70), "pad_size": (90, 81)},
    ],
)
def test_steps_in_a_graph_equal_those_of_pillow(steps):
    """To a level of 255; to two for few pixels, where the roundings of both passes add up."""
    steps = Preprocessing(**steps, mean=(0.0, 0.1, 0.2), std=(1.0, 1.0, 1.0))
    image = draw(1, 75, 121)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    levels = 255 * np.abs(GraphPreprocessing(steps)(pixels)[0].numpy() - steps(image))
    assert levels.shape == (3, *steps.input_size) and levels.max() < 2.1 and np.mean(levels > 0.5) < 0.08
