"""A MobileNetV2 of a plan becomes a model of transformers that computes the same."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import MobileNetV2Config, MobileNetV2Model

from d2vpr_hf.convert import ConversionError, convert_mobilenet_v2
from d2vpr_hf.convert.mobilenet_v2 import is_mobilenet_v2
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from tests.command_line import run

CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def tiny_plan():
    """Return the plan of the network of a tenth of the channels, as a TensorFlow Lite file lists it, and random weights."""
    plan, weights = [], {}
    tensor = 0
    generator = torch.Generator().manual_seed(0)

    def convolve(before, channels, kernel, stride, relu6, depthwise=False):
        nonlocal tensor
        number, tensor = len(plan), tensor + 2
        shape = (channels, 1 if depthwise else before, kernel, kernel)
        fan = shape[1] * kernel * kernel
        weights[f"{number}.weight"] = (torch.randn(shape, generator=generator) * (2 / fan) ** 0.5).half()
        weights[f"{number}.bias"] = torch.randn(channels, generator=generator).half() / 4
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        step = {"op": kind, "in": [tensor - 2], "out": tensor, "k": number, "stride": stride, "relu6": relu6}
        plan.append(step)

    narrow = [max(8, int(channels / 10 + 4) // 8 * 8) for channels in CHANNELS]
    narrow = [value + 8 if value < 0.9 * channels / 10 else value for value, channels in zip(narrow, CHANNELS, strict=True)]
    convolve(3, 8, 3, 2, True)
    convolve(8, 8, 3, 1, True, depthwise=True)
    convolve(8, narrow[0], 1, 1, False)
    for before, after, stride in zip(narrow[:-1], narrow[1:], STRIDES, strict=True):
        block = tensor
        convolve(before, 6 * before, 1, 1, True)
        convolve(6 * before, 6 * before, 3, stride, True, depthwise=True)
        convolve(6 * before, after, 1, 1, False)
        if stride == 1 and before == after:
            plan.append({"op": "ADD", "in": [tensor, block], "out": tensor + 2, "relu6": False})
            tensor += 2
    convolve(narrow[-1], 1280, 1, 1, True)
    return plan, weights


def write(path, plan, weights):
    save_file(weights, path, {"plan": json.dumps(plan)})
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plan") / "mobilenet.safetensors", *tiny_plan())


def run_plan(plan, weights, pixels):
    """Compute every tensor of a plan with TensorFlow's padding: as much before as after, one pixel more after."""
    tensors = {0: pixels}
    for step in plan:
        value = tensors[step["in"][0]]
        if step["op"] == "ADD":
            tensors[step["out"]] = value + tensors[step["in"][1]]
            continue
        weight, bias = (weights[f"{step['k']}.{part}"].float() for part in ("weight", "bias"))
        stride, kernel = step["stride"], weight.shape[-1]
        missing = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in (value.shape[3], value.shape[2])]
        padded = functional.pad(value, [part for side in missing for part in (side // 2, side - side // 2)])
        groups = value.shape[1] if step["op"] == "DEPTHWISE_CONV_2D" else 1
        value = functional.conv2d(padded, weight, bias, stride, groups=groups)
        tensors[step["out"]] = value.clamp(0, 6) if step["relu6"] else value
    return tensors


@pytest.mark.parametrize("size", [(224, 224), (112, 112), (97, 130)])
def test_the_converted_network_computes_the_same(source, size, tmp_path):
    """Padding on the wrong side, a missing sum or the small number in BatchNorm would change all maps."""
    plan, weights = tiny_plan()
    model = MobileNetV2Model.from_pretrained(convert(source, tmp_path / "model")).eval()
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tensors = run_plan(plan, weights, pixels)
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
        expansion = model.layer[12].expand_1x1(output.hidden_states[11])
    for computed in (output.last_hidden_state, output.hidden_states[11], expansion):
        differences = [(value - computed).abs().max() for value in tensors.values() if value.shape == computed.shape]
        assert min(differences) < 1e-4 * computed.abs().max()


def convert(source, out):
    convert_mobilenet_v2(source, out)
    return out


def test_it_is_an_encoder_of_the_expanded_map(source, tmp_path):
    """GeM of the map before the stride of 32, which a layer's name selects."""
    folder = convert(source, tmp_path / "model")
    pixels = torch.randint(0, 256, (160, 224, 3), dtype=torch.uint8).numpy()
    encoder = PlaceEncoder(folder, pool="gem", layer="layer.12.expand_1x1", image_size=(160, 224), device="cpu")
    model = MobileNetV2Model.from_pretrained(folder).eval()
    maps = []
    model.layer[12].expand_1x1.register_forward_hook(lambda module, arguments, output: maps.append(output))
    with torch.no_grad():
        model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
    wanted = functional.normalize(maps[0].clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3), dim=1)
    assert torch.allclose(torch.from_numpy(encoder.encode([pixels]).descriptors), wanted, atol=1e-5)


def test_the_command(source, tmp_path):
    status, out, _ = run("convert", source, tmp_path / "model")
    assert status == 0 and "is a MobileNetV2; wrote the folder" in out
    assert (tmp_path / "model" / "preprocessor_config.json").is_file()
    status, _, err = run("convert", source, tmp_path / "model")
    assert status and "--overwrite" in err
    assert run("convert", source, tmp_path / "model", "--overwrite")[0] == 0
    status, _, err = run("convert", source, tmp_path / "other", "--as", "student")
    assert status and "a complete model; omit `--as`" in err


def test_other_files_are_refused(source, tmp_path):
    plan, weights = tiny_plan()
    assert is_mobilenet_v2(source) and not is_mobilenet_v2(tmp_path / "missing.safetensors")
    save_file(weights, tmp_path / "weights.safetensors")
    assert not is_mobilenet_v2(tmp_path / "weights.safetensors")
    without_sum = [step for step in plan if step["op"] != "ADD"]
    renumbered = [
        step | {"in": [0 if not position else without_sum[position - 1]["out"]]} for position, step in enumerate(without_sum)
    ]
    with pytest.raises(ConversionError, match="is not a MobileNetV2"):
        convert(write(tmp_path / "sums.safetensors", renumbered, weights), tmp_path / "model")
    with pytest.raises(ConversionError, match=r"does not use: 999\.weight"):
        convert(write(tmp_path / "more.safetensors", plan, weights | {"999.weight": torch.zeros(1)}), tmp_path / "model")
    with pytest.raises(ConversionError, match=r"plan of .* cannot be read"):
        convert(write(tmp_path / "plan.safetensors", plan, {"0.weight": torch.zeros(1)}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_tiny_plan_is_that_of_transformers(source):
    """The plan of this test is written from the paper's table; it must have the shapes of transformers' network."""
    shapes = [tuple(weight.shape) for name, weight in tiny_plan()[1].items() if name.endswith("weight")]
    model = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1))
    assert shapes == [tuple(weight.shape) for name, weight in model.named_parameters() if "convolution" in name]
