"""Model objects from outside: saved code, torch.compile, PEFT, quantisation; and one photo in place of several."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel, BertConfig, BertModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.optimized.optimize import can_prepare
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.modeling import D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from tests.conftest import tiny_model
from tests.modeling.test_quantised_weights import quantise
from tests.photos import draw
from tests.warm_python import warm_libraries

PHOTOS = [draw(seed, 90, 70) for seed in range(3)]
PROCESSOR = D2VPRImageProcessor(size={"height": 70, "width": 70})


def describe(model, **options) -> np.ndarray:
    return PlaceEncoder(model, PROCESSOR, device="cpu", **options).encode(PHOTOS).descriptors


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the smallest cosine; descriptors have length 1."""
    return (found * expected).sum(axis=1).min()


def remote(folder, reference: str):
    """Return a class from the code that was saved next to weights."""
    return get_class_from_dynamic_module(reference, str(folder))


def test_a_model_of_saved_code_is_recognised(tiny_folder):
    model = remote(tiny_folder, "modeling_d2vpr.D2VPRModel").from_pretrained(tiny_folder)
    processor = remote(tiny_folder, "image_processing_d2vpr.D2VPRImageProcessor").from_pretrained(tiny_folder)
    assert not isinstance(model, D2VPRModel) and not isinstance(processor, D2VPRImageProcessor)
    encoder, local = PlaceEncoder(model, processor, device="cpu"), PlaceEncoder(tiny_folder, device="cpu")
    assert not can_prepare(model)
    np.testing.assert_allclose(encoder.encode(PHOTOS).descriptors, local.encode(PHOTOS).descriptors, atol=2e-6)
    assert (encoder.fingerprint, encoder.model_name) == (local.fingerprint, local.model_name)
    assert encoder.runtime == Runtime("torch", "fp32") == PlaceEncoder(model, processor, device="cpu", backend="auto").runtime


def test_auto_classes_give_objects_for_an_encoder(tiny_folder):
    """As a user does it who imports transformers before this package."""
    code = (
        "from transformers import AutoModel, AutoImageProcessor\n"
        f"folder = {str(tiny_folder)!r}\n"
        "model = AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "import d2vpr_hf, numpy\n"
        "encoder = d2vpr_hf.PlaceEncoder(model, processor, device='cpu')\n"
        "print(encoder.encode([numpy.zeros((70, 70, 3), 'uint8')]).descriptors.shape, type(model).__module__)"
    )
    done = warm_libraries().run(code)
    dim = tiny_model().config.descriptor_dim
    assert done.stdout.startswith(f"(1, {dim})") and "d2vpr_hf" not in done.stdout, done.stderr


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))])
def test_wrapped_models_are_unwrapped(wrap):
    model = tiny_model()
    encoder = PlaceEncoder(wrap(model), PROCESSOR, device="cpu")
    assert encoder.model is model
    np.testing.assert_array_equal(encoder.encode(PHOTOS).descriptors, describe(model))


def test_a_model_compiled_in_place_gives_its_descriptors():
    model = tiny_model()
    expected = describe(model)
    model.compile(backend="eager")
    np.testing.assert_allclose(describe(model), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "quantised", [quantise, lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)]
)
def test_a_quantised_model_runs_as_it_is(quantised):
    """Folded as if its integers were weights, its descriptors would be unrelated."""
    exact = load_model(None)
    model = quantised(copy.deepcopy(exact))
    encoder, plain = (PlaceEncoder(one, load_image_processor(None), device="cpu") for one in (model, exact))
    assert cosine(encoder.encode(PHOTOS).descriptors, plain.encode(PHOTOS).descriptors) > 0.98
    assert encoder.fingerprint != plain.fingerprint
    assert encoder.fingerprint == PlaceEncoder(copy.deepcopy(model), encoder.processor).fingerprint
    assert encoder.model_name is None  # its folder gives the model in float32
    for options, message in (
        ({"backend": "onnxruntime"}, "neither quantised nor adapted"),
        ({"precision": "bf16"}, "fp32; got the precision bf16"),
    ):
        with pytest.raises(ValueError, match=message):
            describe(model, **options)


def hooked(model):
    model.encoder.layers[0].attention.qkv.register_forward_hook(lambda module, inputs, output: output + 1)
    return model


def parametrised(model):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(model.recovery.projection, "weight", Doubled())
    return model


@pytest.mark.parametrize("change", [hooked, parametrised, quantise])
def test_changed_layers_keep_their_effect(change):
    model = change(tiny_model())
    assert can_prepare(tiny_model()) and not can_prepare(model)
    with torch.no_grad():
        expected = model(PROCESSOR(PHOTOS, return_tensors="pt")["pixel_values"]).pooler_output.numpy()
    np.testing.assert_allclose(describe(model), expected, atol=2e-6)
    assert np.abs(expected - describe(tiny_model())).max() > 1e-5


def test_a_model_with_adapters_runs_with_merged_weights(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = peft.LoraConfig(target_modules=["qkv", "proj"], init_lora_weights=False, lora_alpha=16)
    model = peft.get_peft_model(tiny_model(), options).eval()
    with torch.no_grad():
        expected = model(PROCESSOR(PHOTOS, return_tensors="pt")["pixel_values"]).pooler_output.numpy()
    encoder = PlaceEncoder(model, PROCESSOR, device="cpu")
    np.testing.assert_allclose(encoder.encode(PHOTOS).descriptors, expected, atol=2e-6)
    assert encoder.model is model and encoder.model_name is None
    assert np.abs(expected - describe(tiny_model())).max() > 1e-3
    merged = copy.deepcopy(model).merge_and_unload()
    assert encoder.fingerprint == PlaceEncoder(merged, PROCESSOR).fingerprint
    assert encoder.fingerprint != PlaceEncoder(tiny_model(), PROCESSOR).fingerprint


def test_adapters_inside_a_model_count_in_its_fingerprint():
    """As `model.add_adapter` makes them; factors and switches are not among the weights."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = tiny_model()
    model.add_adapter(peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False))
    with torch.no_grad():
        expected = model(PROCESSOR(PHOTOS, return_tensors="pt")["pixel_values"]).pooler_output.numpy()
    np.testing.assert_allclose(describe(model), expected, atol=2e-6)
    before = PlaceEncoder(model, PROCESSOR).fingerprint
    model.disable_adapters()
    np.testing.assert_allclose(describe(model), describe(tiny_model()), atol=2e-6)
    assert PlaceEncoder(model, PROCESSOR).fingerprint != before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "or its Hub id; got Linear"),
        (
            BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)),
            "'d2vpr' or 'cricavpr', a vision model of transformers.*got BertModel of type 'bert'",
        ),
        (D2VPRModel, "got type"),
        (3, "got int"),
    ],
)
def test_other_objects_are_refused(model, message):
    with pytest.raises(TypeError, match=message):
        PlaceEncoder(model, PROCESSOR)


def test_offloaded_weights_are_refused():
    with pytest.raises(ValueError, match="offloaded, or on the meta device"):
        PlaceEncoder(tiny_model().to("meta"), PROCESSOR)


@pytest.mark.parametrize("processor", [tiny_model, "folder", AutoModel, AutoImageProcessor])
def test_other_image_processors_are_refused(processor):
    with pytest.raises(TypeError, match=r"Expected the model's image processor, a D2VPRImageProcessor; got"):
        PlaceEncoder(tiny_model(), processor)


def one_photo_forms(folder) -> dict:
    image = PHOTOS[0] if isinstance(PHOTOS[0], Image.Image) else Image.fromarray(np.asarray(PHOTOS[0]))
    path = folder / "photo.png"
    image.save(path)
    array = np.asarray(image)
    return {
        "str": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "image": image,
        "array": array,
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
        "function": lambda: path,
    }


def test_one_photo_gives_one_row(tmp_path):
    """A path was read letter by letter, which gave no rows and no error; an array of one photo row by row."""
    encoder = PlaceEncoder(tiny_model(), PROCESSOR, device="cpu")
    for name, photo in one_photo_forms(tmp_path).items():
        alone, listed = encoder.encode(photo), encoder.encode([photo])
        assert alone.rows.tolist() == [0] and alone.skipped == {}, name
        np.testing.assert_array_equal(alone.descriptors, listed.descriptors)
    missing = encoder.encode(str(tmp_path / "missing.jpg"))
    assert missing.descriptors.shape == (0, encoder.descriptor_dim) and list(missing.skipped) == [0]
    assert len(encoder.encode(np.zeros((2, 70, 70, 3), np.uint8)).rows) == 2
