"""Objects of transformers that were wrapped or changed, options of unusual types, and graphs that decode as their model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, AutoModelForImageClassification, RegNetConfig, RegNetModel

from d2vpr_hf import PlaceEncoder, PlaceIndex
from d2vpr_hf.export import export
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing
from tests.command_line import run
from tests.encoders.vision_models import save_published
from tests.photos import draw, save_row

PHOTOS = [draw(seed, 90, 120) for seed in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_published("dinov2", tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def encoder(folder):
    return PlaceEncoder(folder, device="cpu")


def load(folder):
    return AutoModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: nn.DataParallel(load(folder)),
        lambda folder: nn.DataParallel(torch.compile(load(folder))),
        AutoModelForImageClassification.from_pretrained,
    ],
)
def test_the_vision_model_inside_runs(make, folder, encoder):
    """Its preprocessing is found by its name, which wrappers do not have."""
    opened = PlaceEncoder(make(folder), device="cpu")
    assert (opened.fingerprint, opened.model_name) == (encoder.fingerprint, encoder.model_name)
    np.testing.assert_allclose(opened.encode(PHOTOS).descriptors, encoder.encode(PHOTOS).descriptors, atol=1e-6)


def test_adapters_are_merged_and_have_a_fingerprint(folder, encoder):
    """A model with adapters has no name, because its folder gives other descriptors."""
    peft = pytest.importorskip("peft")

    def options(alpha):
        return peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_alpha=alpha)

    torch.manual_seed(0)
    wrapped = peft.get_peft_model(load(folder), options(8)).eval()
    opened = PlaceEncoder(wrapped, device="cpu")
    inside = [load(folder) for _ in range(2)]
    for model, alpha in zip(inside, (8, 16), strict=True):
        torch.manual_seed(0)
        model.add_adapter(options(alpha))
    unmerged, stronger = (PlaceEncoder(model, device="cpu") for model in inside)
    np.testing.assert_allclose(opened.encode(PHOTOS).descriptors, unmerged.encode(PHOTOS).descriptors, atol=1e-5)
    assert opened.model_name is None and unmerged.model_name is None
    assert len({encoder.fingerprint, opened.fingerprint, unmerged.fingerprint, stronger.fingerprint}) == 4


def test_changed_models_have_no_name(folder):
    hooked = load(folder)
    hooked.encoder.layer[0].register_forward_hook(lambda layer, inputs, output: output)
    assert PlaceEncoder(hooked, device="cpu").model_name is None
    collected = load(folder)
    PlaceEncoder(collected, layer=1, device="cpu").encode(PHOTOS)  # transformers collects hidden states by hooks
    assert PlaceEncoder(collected, device="cpu").model_name == str(folder)
    with pytest.raises(TypeError, match="got type, the class Dinov2Model"):
        PlaceEncoder(type(hooked))


def test_layer_0_is_an_option():
    assert ModelOptions(layer=0).to_dict() == {"layer": 0}
    assert ModelOptions.from_dict({"layer": 0}) == ModelOptions(layer=0)


def test_a_model_without_stated_modalities_is_for_images(tmp_path):
    """RegNet has the value "text" of transformers' base class."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "groups_width": 4}
    RegNetModel(RegNetConfig(**sizes)).save_pretrained(tmp_path)
    encoder = PlaceEncoder(tmp_path, Preprocessing(size=(64, 64)), device="cpu")
    assert encoder.encode(PHOTOS).descriptors.shape == (2, 16)


def test_an_index_refuses_other_options(folder, tmp_path):
    """And the command line takes layer 0 for a layer, not for no layer."""
    save_row(tmp_path / "photos")
    index, photo = tmp_path / "index", min((tmp_path / "photos").iterdir())
    status, _, err = run("index", tmp_path / "photos", "--out", index, "--model", folder, "--layer", "0")
    assert status == 0, err
    assert PlaceIndex.open(index).settings.model_options == {"pool": "gem", "layer": 0}
    assert run("search", index, photo)[0] == 0
    status, _, err = run("search", index, photo, "--pool", "cls")
    assert status == 1 and "with pool gem, layer 0 (here with pool cls, layer 0)" in err


def test_options_of_other_types():
    """Numbers of numpy become Python's, which an index can record; texts and booleans are refused."""
    options = ModelOptions(image_size=(np.int64(56), np.int32(84)), layer=np.int64(2))
    assert json.loads(json.dumps(options.to_dict())) == {"image_size": [56, 84], "layer": 2}
    assert ModelOptions(image_size=[56, 84]) == ModelOptions(image_size=(56, 84))
    for wrong in ({"image_size": "56"}, {"image_size": 56.0}, {"image_size": True}, {"layer": "2"}, {"layer": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ModelOptions(**wrong)
    with pytest.raises(ValueError, match="`center_crop` must be true or false, got 'no'"):
        ModelOptions(center_crop="no")


def test_a_graph_decodes_photos_as_its_model(folder, tmp_path):
    """JPEG files that are much larger than the input are decoded at a fraction of their size, the same for both."""
    encoder = PlaceEncoder(folder, center_crop=True, device="cpu")
    export(encoder, tmp_path / "graph")
    graph = PlaceEncoder(tmp_path / "graph")
    photo = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    assert graph.fingerprint == encoder.fingerprint
    np.testing.assert_allclose(graph.encode(photo).descriptors, encoder.encode(photo).descriptors, atol=1e-5)
