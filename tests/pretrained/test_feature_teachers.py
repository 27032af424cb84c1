"""Teachers with an input size of their own: any vision model of transformers, its output or several of its layers."""

import json

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, MobileNetV2Config, MobileNetV2Model, ViTConfig, ViTModel

from d2vpr_hf.encoders.load_teacher import load_teacher
from d2vpr_hf.pretrained.teachers import Dinov2Teacher, FeatureTeacher
from d2vpr_hf.pretrained.token_grids import resample_patches
from tests.conftest import perturb, relative, save_folder, tiny_cricavpr

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PROCESSOR = {
    **{"image_processor_type": "MobileNetV2ImageProcessor", "size": {"height": 64, "width": 96}, "do_center_crop": False},
    **{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]},
}
EXPANSION = "layer.12.expand_1x1"


def save(model, folder, processor=PROCESSOR):
    perturb(model).save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    torch.manual_seed(0)
    return save(MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1)), tmp_path_factory.mktemp("mobilenet"))


def images(batch=3, height=64, width=96):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def maps_by_hand(folder, pixels):
    """Return the output, the eleventh hidden state and the expansion after it, for pixels that need no resizing."""
    model = MobileNetV2Model.from_pretrained(folder).eval()
    mean, std = (torch.tensor(PROCESSOR[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    with torch.no_grad():
        output = model((pixels / 255 - mean) / std, output_hidden_states=True)
        return output.last_hidden_state, output.hidden_states[11], model.layer[12].expand_1x1(output.hidden_states[11])


def gem(maps):
    return maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


@pytest.mark.parametrize(("taps", "number"), [((), 0), ((11,), 1), ((EXPANSION,), 2)])
def test_one_map(mobilenet, taps, number):
    """The global token is the GeM of the whole map, and tokens are the map row by row: a transposed grid would differ."""
    maps = maps_by_hand(mobilenet, images())[number]
    teacher = load_teacher(mobilenet, taps=taps)
    assert isinstance(teacher, FeatureTeacher) and teacher.input_size == (64, 96)
    (tokens,) = teacher.tap_tokens(images(), tuple(maps.shape[2:]))
    assert relative(tokens, torch.cat((gem(maps).unsqueeze(1), maps.flatten(2).transpose(1, 2)), dim=1)) < 1e-5
    assert teacher.width == maps.shape[1] == tokens.shape[2]


def test_several_maps_on_the_grid_of_the_student(mobilenet):
    """Each map is resampled from its own grid, 4x6 and 2x3, and each tap has patches of length 1."""
    teacher = load_teacher(mobilenet, taps=(EXPANSION, "conv_1x1"))
    last, _, expansion = maps_by_hand(mobilenet, images())
    tokens, descriptors = teacher(images(), (5, 5))
    first, second = tokens.split([expansion.shape[1], last.shape[1]], dim=2)
    assert tokens.shape[:2] == (3, 1 + 25) and descriptors.shape == (3, 14 * teacher.width)
    assert torch.allclose(first[:, 1:].norm(dim=2), torch.ones(3, 25))
    by_hand = resample_patches(last.flatten(2).transpose(1, 2), (2, 3), (5, 5))
    assert relative(second[:, 1:], torch.nn.functional.normalize(by_hand, dim=2)) < 1e-5
    assert relative(second[:, 0], gem(last) / by_hand.norm(dim=2).mean(1)[:, None]) < 1e-5


def test_images_of_another_size_are_resized(mobilenet):
    teacher = load_teacher(mobilenet)
    larger = torch.nn.functional.interpolate(images().float(), (128, 192)).to(torch.uint8)
    assert teacher(larger, (4, 4)).tokens.shape == (3, 17, teacher.width)
    even = torch.full((1, 3, 20, 50), 77, dtype=torch.uint8)
    assert relative(teacher(even, (4, 4)).tokens, teacher(even[:, :, :1, :1].expand(1, 3, 64, 96), (4, 4)).tokens) < 1e-5


def test_targets_do_not_depend_on_the_batch(mobilenet):
    """The CPU's cores divide a batch; images must come back in order."""
    teacher = load_teacher(mobilenet)
    batch = images(11)
    together, alone = teacher(batch, (4, 4)), [teacher(image[None], (4, 4)) for image in batch]
    assert relative(together.descriptors, torch.cat([targets.descriptors for targets in alone])) < 1e-5
    assert not together.tokens.is_inference()  # a loss must be able to save it for its gradient


@pytest.mark.parametrize("taps", [(), (1,), (1, "encoder.layer.0.attention")])
def test_tokens_of_a_vit(taps, tmp_path):
    """A ViT has a class token, which is the global token."""
    torch.manual_seed(0)
    folder = save(ViTModel(ViTConfig(**VIT, image_size=64)), tmp_path, None)
    names = dict(ViTModel(ViTConfig(**VIT, image_size=64)).named_modules())
    taps = tuple(tap if tap in (1, *names) else next(name for name in names if "attention" in name) for tap in taps)
    teacher = load_teacher(folder, taps=taps)
    model = ViTModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(images(2, 64, 64) / 127.5 - 1, output_hidden_states=True)
        state = model.layernorm(output.hidden_states[1]) if taps else output.last_hidden_state
    tokens = teacher(images(2, 64, 64), (4, 4)).tokens
    assert teacher.input_size == (64, 64) and tokens.shape == (2, 17, 32 * max(1, len(taps)))
    if len(taps) < 2:
        assert relative(tokens, state) < 1e-5


def test_a_size_for_a_model_that_takes_the_pixels_of_the_student(tmp_path):
    """A DINOv2 at its own size teaches the grid of a student of smaller images."""
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=70, patch_size=14)
    folder = save(Dinov2Model(config), tmp_path / "dinov2", None)
    plain, sized = load_teacher(folder), load_teacher(folder, image_size=(70, 98))
    assert isinstance(plain, Dinov2Teacher) and plain.input_size is None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = images(2, 70, 98)
    assert relative(sized(pixels).tokens, plain((pixels / 255 - mean) / std).tokens) < 1e-5
    assert sized(pixels, (4, 4)).tokens.shape == plain((pixels / 255 - mean) / std, (4, 4)).tokens.shape == (2, 17, 32)
    cricavpr = load_teacher(save_folder(tiny_cricavpr(), tmp_path / "cricavpr"), image_size=(70, 98))
    assert cricavpr(pixels, (4, 4)).tokens.shape == (2, 17, 48)


def test_half_precision(mobilenet):
    full = load_teacher(mobilenet)(images(), (4, 4))
    half = load_teacher(mobilenet, dtype=torch.bfloat16)(images(), (4, 4))
    assert half.tokens.dtype == torch.float32 and relative(half.tokens, full.tokens) < 0.05


def test_errors(mobilenet, tmp_path):
    with pytest.raises(
        ValueError, match=r"no module 'layer.12.expand'. Did you mean layer.12.expand_1x1\? It has: .*layer.\[0-15\]"
    ):
        load_teacher(mobilenet, taps=["layer.12.expand"])
    with pytest.raises(ValueError, match=r"`layer` must be in -15..15"):
        load_teacher(mobilenet, taps=[99])
    with pytest.raises(ValueError, match=r"Leave `teacher_taps` out"):
        load_teacher(save_folder(tiny_cricavpr(), tmp_path / "cricavpr"), taps=[1])
    with pytest.raises(ValueError, match="`teacher_image_size` must be multiples of the teacher's patch size, 16 pixels"):
        load_teacher(save(ViTModel(ViTConfig(**VIT, image_size=64)), tmp_path / "vit", None), image_size=(70, 70))
    teacher = load_teacher(mobilenet)
    with pytest.raises(ValueError, match=r"Expected images .* of bytes"):
        teacher(images().float())


def test_resampling_by_hand():
    """Shrinking 3 cells to 2 takes each cell by its share; enlarging 2 to 4 interpolates between centres."""
    cells = torch.tensor([0.0, 3.0, 9.0]).view(1, 3, 1)
    assert torch.allclose(resample_patches(cells, (1, 3), (1, 2)).flatten(), torch.tensor([1.0, 7.0]))
    assert torch.allclose(resample_patches(cells, (3, 1), (2, 1)).flatten(), torch.tensor([1.0, 7.0]))
    pair = torch.tensor([0.0, 4.0]).view(1, 2, 1)
    assert torch.allclose(resample_patches(pair, (2, 1), (4, 1)).flatten(), torch.tensor([0.0, 1.0, 3.0, 4.0]))
    grid = torch.randn(2, 24, 5)
    square = resample_patches(grid, (4, 6), (2, 9)).unflatten(1, (2, 9))
    image = grid.unflatten(1, (4, 6)).permute(0, 3, 1, 2)
    halved = torch.nn.functional.avg_pool2d(image, (2, 1))
    wanted = torch.nn.functional.interpolate(halved, (2, 9), mode="bilinear").permute(0, 2, 3, 1)
    assert torch.allclose(square, wanted, atol=1e-6)
