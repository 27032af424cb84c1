"""Weights of any type: quantised layers keep integers, so that nothing may be converted to the type of a weight."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from tests.conftest import perturb, tiny_cricavpr
from tests.photos import draw

BOUND = 0.98  # cosine with the float32 model


class Int8Linear(nn.Linear):
    """Integers in place of the weight, multiplied by a scale in the forward, as bitsandbytes has them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.bias = linear.bias
        self.scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(values, self.weight.to(values.dtype) * self.scale.to(values.dtype), self.bias)


class Int8Conv2d(nn.Conv2d):
    """A convolution whose weight is stored as integers."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> nn.Conv2d:
        made = copy.deepcopy(conv)
        made.__class__ = cls
        made.scale = conv.weight.detach().abs().max() / 127
        made.weight = nn.Parameter((conv.weight / made.scale).round().to(torch.int8), requires_grad=False)
        return made

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(values, self.weight.to(values.dtype) * self.scale.to(values.dtype), self.bias)


def quantise(model: nn.Module) -> nn.Module:
    """Replace all linear layers, and all convolutions, by layers of integers."""
    for part in list(model.modules()):
        for name, layer in list(part.named_children()):
            if type(layer) is nn.Linear:
                setattr(part, name, Int8Linear(layer))
            elif type(layer) is nn.Conv2d:
                setattr(part, name, Int8Conv2d.of(layer))
    return model


def student(**changes) -> D2VPRModel:
    """Make a student of four blocks, 128 wide: some kernels for 4-bit weights need multiples of 64."""
    torch.manual_seed(0)
    config = D2VPRConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=112, recovery_size=128, **changes
    )
    return perturb(D2VPRModel(config)).eval()


def dynamically(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=dtype)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    photos = [draw(seed, 200, 150) for seed in range(3)]
    return load_image_processor(None)(photos, return_tensors="pt")["pixel_values"]


@torch.no_grad()
def cosine(model: nn.Module, exact: nn.Module, pixels: torch.Tensor) -> float:
    """Return the smallest cosine between descriptors of two models."""
    found, expected = (one(pixels).pooler_output.float() for one in (model, exact))
    return torch.cosine_similarity(found, expected).min().item()


MODELS = {
    "embedded": lambda: load_model(None),
    "student": student,
    "with cross-image encoder": lambda: student(use_cross_image_encoder=True),
    "teacher": tiny_cricavpr,
}
QUANTISED = {
    "integers": quantise,
    "quantize_dynamic int8": lambda model: dynamically(model, torch.qint8),
    "quantize_dynamic fp16": lambda model: dynamically(model, torch.float16),
}


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("method", QUANTISED)
@pytest.mark.parametrize("name", MODELS)
def test_quantised_weights_give_nearly_the_same_descriptors(name, method, pixels):
    exact = MODELS[name]()
    images = pixels if name == "embedded" else pixels[..., :70, :70]
    assert cosine(QUANTISED[method](copy.deepcopy(exact)), exact, images) > BOUND


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_integers_beside_half_precision(dtype, pixels):
    """Activations are then half precision, and pixels come as float32."""
    exact = load_model(None)
    assert cosine(quantise(load_model(None)).to(dtype), exact, pixels) > BOUND


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("student")
    student().save_pretrained(folder)
    D2VPRImageProcessor().save_pretrained(folder)
    return {"embedded": str(EMBEDDED_MODEL), "student": str(folder)}


def check_loading(folder: str, pixels: torch.Tensor, settings, bound: float = BOUND, **kwargs) -> None:
    """Load with a quantisation, and compare; quantised weights do not count as untrained parts."""
    exact = AutoModel.from_pretrained(folder)
    loaded = AutoModel.from_pretrained(folder, quantization_config=settings, **kwargs)
    assert loaded.config.untrained_parts == exact.config.untrained_parts
    assert cosine(loaded, exact, pixels) > bound


@pytest.mark.parametrize("name", ["embedded", "student"])
def test_bitsandbytes(name, folders, pixels):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    check_loading(folders[name], pixels, BitsAndBytesConfig(load_in_8bit=True), device_map="cpu")
    if name == "student":
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["aggregator"])
        check_loading(folders[name], pixels, settings, device_map="cpu")


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_that_are_restored_wrongly_are_refused(kind, pixels):
    """bitsandbytes gives layers of 96 columns other weights on the CPU: the cosine of descriptors is 0.7, without a message."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    def load(skipped):
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, llm_int8_skip_modules=skipped)
        return AutoModel.from_pretrained(EMBEDDED_MODEL, quantization_config=settings, device_map="cpu")

    kinds = ["adapter.down", "adapter.up", "attention.proj", "attention.qkv", "mlp.fc1", "position_encoding.fc2"]
    with pytest.raises(
        ValueError, match=r"computes 31 layers of 4-bit weights wrongly .* such as encoder\.layers\.0\.attention\.qkv"
    ) as caught:
        PlaceEncoder(load([]), load_image_processor())
    assert f"`llm_int8_skip_modules={kinds}`" in str(caught.value)
    remaining = load([*kinds, "aggregator"])  # some processors' kernels refuse the aggregator's widths
    assert any(isinstance(layer, bitsandbytes.nn.Linear4bit) for layer in remaining.modules())
    PlaceEncoder(remaining, load_image_processor())
    assert cosine(remaining, load_model(None), pixels) > (BOUND if kind == "nf4" else 0.96)


@pytest.mark.parametrize("name", ["embedded", "student"])
def test_torchao(name, folders, pixels):
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    for settings in (quantization.Int8WeightOnlyConfig(), quantization.Int8DynamicActivationInt8WeightConfig()):
        check_loading(folders[name], pixels, TorchAoConfig(settings))


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_a_saved_quantised_model_is_opened_as_a_folder(library, tmp_path):
    """Its configuration has one more key; its descriptors and its fingerprint are those of the model that was saved."""
    pytest.importorskip(library)
    if library == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        settings = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        from transformers import BitsAndBytesConfig

        settings = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModel.from_pretrained(EMBEDDED_MODEL, quantization_config=settings, device_map="cpu")
    processor = load_image_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoders = [PlaceEncoder(model, processor, device="cpu"), PlaceEncoder(tmp_path)]
    first, second = (encoder.encode([draw(0, 90, 70)]).descriptors for encoder in encoders)
    assert (first == second).all() and encoders[0].fingerprint == encoders[1].fingerprint
    assert (encoders[0].model_name, encoders[1].model_name) == (None, str(tmp_path))


@pytest.mark.parametrize("name", ["embedded", "student"])
def test_quanto(name, folders, pixels):
    pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    check_loading(folders[name], pixels, QuantoConfig(weights="int8"))
