"""Teachers: whatever the model, tokens and descriptors of one form, frozen."""

import copy
from itertools import pairwise

import pytest
import torch
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from d2vpr_hf.convert import load_converted
from d2vpr_hf.encoders.load_teacher import load_teacher
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.pretrained.teachers import Dinov2Teacher, PlaceTeacher
from tests.conftest import hub_cache, perturb, relative, save_folder, tiny_cricavpr, tiny_model

TINY_DINOV2 = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
KINDS = {
    "plain": (Dinov2Model, Dinov2Config, {}),
    "gated": (Dinov2Model, Dinov2Config, {"use_swiglu_ffn": True}),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig, {"num_register_tokens": 4}),
    "sizes as lists": (Dinov2Model, Dinov2Config, {"patch_size": [14, 14], "image_size": [70, 70]}),
}


def dinov2(kind="plain"):
    model, config, changes = KINDS[kind]
    torch.manual_seed(0)
    return perturb(model(config(**(TINY_DINOV2 | changes)))).eval()


def save(model, folder):
    model.save_pretrained(folder)
    return folder


def pool_by_hand(tokens, height, width):
    """The pyramid, cell by cell: normalised patches to the third power, their mean, its third root."""
    patches = torch.nn.functional.normalize(tokens[:, 1:], dim=-1).clamp(min=1e-6).pow(3).unflatten(1, (height, width))
    features = [tokens[:, 0]]
    for cuts in ([0.5], [5 / 16, 11 / 16]):
        rows, columns = ([0, *(round(cut * side) for cut in cuts), side] for side in (height, width))
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                features.append(patches[:, top:bottom, left:right].mean((1, 2)).pow(1 / 3))
    return torch.nn.functional.normalize(torch.cat(features, dim=1), dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dinov2(kind, tmp_path):
    """Registers stand between the global token and the patches: left in, every cell would shift."""
    model = dinov2(kind)
    teacher = load_teacher(save(model, tmp_path))
    assert isinstance(teacher, Dinov2Teacher)
    assert (teacher.width, teacher.descriptor_dim, teacher.depends_on_batch) == (48, 14 * 48, False)
    images = torch.randn(2, 3, 70, 98)
    tokens, descriptors = teacher(images)
    with torch.no_grad():
        states = model(images).last_hidden_state
    assert tokens.shape == (2, 1 + 5 * 7, 48)
    assert torch.equal(tokens, torch.cat((states[:, :1], states[:, -35:]), dim=1))
    assert relative(descriptors, pool_by_hand(tokens, 5, 7)) < 1e-6


def test_a_dinov2_and_a_cricavpr_that_starts_from_it_teach_the_same(tmp_path):
    """Two ways: transformers' blocks with the pyramid on top, and our blocks with adapters that are still silent."""
    folder = save(dinov2(), tmp_path / "dinov2")
    changes = {"position_embedding_offset": 0, "use_cross_image_encoder": False, "adapter_ratio": 1 / 3}
    cricavpr = load_converted(folder, target="cricavpr", changes=changes).model
    images = torch.randn(2, 3, 70, 98)
    first, second = load_teacher(folder)(images), PlaceTeacher(cricavpr)(images)
    assert relative(first.tokens, second.tokens) < 1e-6
    assert relative(first.descriptors, second.descriptors) < 1e-6


@pytest.mark.parametrize("make", [tiny_cricavpr, tiny_model])
def test_a_model_of_this_package(make, tmp_path):
    folder = save_folder(make(), tmp_path)
    teacher, model = load_teacher(folder), load_model(folder)
    images = torch.randn(3, 3, 70, 98)
    tokens, descriptors = teacher(images)
    with torch.no_grad():
        output = model(images)
    assert (teacher.width, teacher.descriptor_dim) == (48, 14 * 48)
    assert relative(tokens, output.last_hidden_state) < 1e-6
    assert relative(descriptors, output.pooler_output) < 1e-6
    assert teacher.depends_on_batch == model.config.use_cross_image_encoder == (make is tiny_cricavpr)


def test_a_projection_is_left_out():
    """A student learns all 14 features; a teacher's PCA is for its own index."""
    teacher = PlaceTeacher(tiny_cricavpr(projection_dim=5))
    descriptors = teacher(torch.randn(2, 3, 70, 70)).descriptors
    assert teacher.descriptor_dim == descriptors.shape[1] == 14 * 48
    assert torch.allclose(descriptors.norm(dim=1), torch.ones(2))


def test_flags_in_a_configuration_change_nothing(tmp_path):
    for name, model in {"dinov2": dinov2(), "cricavpr": tiny_cricavpr()}.items():
        images = torch.randn(1, 3, 70, 70)
        plain = load_teacher(save(model, tmp_path / name))(images)
        model.config.return_dict, model.config.output_hidden_states = False, True
        flagged = load_teacher(save(model, tmp_path / f"{name} flagged"))(images)
        assert torch.equal(plain.tokens, flagged.tokens) and torch.equal(plain.descriptors, flagged.descriptors)


def test_teachers_stay_frozen():
    """Inside a module that trains, statistics, dropout and weights of the teacher must not move."""
    for teacher in (PlaceTeacher(tiny_cricavpr()), Dinov2Teacher(dinov2())):
        before = copy.deepcopy(teacher.state_dict())
        torch.nn.ModuleList([teacher]).train()
        images = torch.randn(2, 3, 70, 70, requires_grad=True)
        targets, again = teacher(images), teacher(images)
        assert not any(module.training for module in teacher.modules())
        assert not any(weight.requires_grad for weight in teacher.parameters())
        assert not targets.tokens.requires_grad and not targets.descriptors.requires_grad
        assert torch.equal(targets.descriptors, again.descriptors)
        assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    for name, model in {"dinov2": dinov2(), "cricavpr": tiny_cricavpr()}.items():
        folder = save(model, tmp_path / name)
        images = torch.randn(2, 3, 70, 70)
        full, half = load_teacher(folder)(images), load_teacher(folder, dtype=dtype)(images)
        assert half.descriptors.dtype == half.tokens.dtype == dtype
        assert relative(half.descriptors, full.descriptors) < 0.05


def test_a_hub_id(tmp_path):
    cache = hub_cache(tmp_path / "cache", "facebook/dinov2-base", save(dinov2(), tmp_path / "model"))
    teacher = load_teacher("facebook/dinov2-base", cache_dir=cache)
    assert all(torch.equal(w, dict(dinov2().named_parameters())[n]) for n, w in teacher.model.named_parameters())


@pytest.mark.parametrize("shape", [(2, 3, 70, 71), (2, 1, 70, 70), (3, 70, 70)])
def test_wrong_images_are_refused(shape):
    """transformers would crop 71 pixels to 70 without a word."""
    for teacher in (PlaceTeacher(tiny_cricavpr()), Dinov2Teacher(dinov2())):
        with pytest.raises(ValueError, match="`pixel_values`"):
            teacher(torch.zeros(shape))


def test_what_is_no_teacher(tmp_path):
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    with pytest.raises(ValueError, match="of type 'bert', which has no vision tower"):
        load_teacher(save(BertModel(config), tmp_path / "bert"))
    with pytest.raises(FileNotFoundError, match="There is no model someone/nothing"):
        load_teacher("someone/nothing")
