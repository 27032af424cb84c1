"""Cached targets are the same numbers without computing the teacher, and never those of other pixels or teachers."""

import pytest
import torch
from transformers import ViTConfig, ViTModel

from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.pretrained.principal_components import PrincipalComponents
from d2vpr_hf.pretrained.teachers import FeatureTeacher, PlaceTeacher
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from tests.conftest import tiny_cricavpr


def pixels(seed=0):
    return torch.randn(8, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


class CountedTeacher:
    """A teacher with a cross-image encoder and a cache; `num_computed` is the number of its forward passes."""

    def __init__(self, folder, groups="shuffled", seed=0, bias=0.0):
        model = tiny_cricavpr(use_cross_image_encoder=True)
        with torch.no_grad():
            model.norm.bias += bias
        self.teacher = PlaceTeacher(model)
        self.num_computed = 0
        self.teacher.register_forward_pre_hook(self._count)
        self.grouped = GroupedTeacher(self.teacher, groups, 4, seed, str(folder))

    def _count(self, *_):
        self.num_computed += 1


@pytest.mark.parametrize("groups", ["places", "shuffled", "off"])
def test_a_second_run_does_not_compute_the_teacher(tmp_path, groups):
    first, second = CountedTeacher(tmp_path, groups), CountedTeacher(tmp_path, groups)
    wanted, cached = first.grouped.targets(pixels(), step=3), second.grouped.targets(pixels(), step=3)
    assert torch.equal(cached.tokens, wanted.tokens) and torch.equal(cached.descriptors, wanted.descriptors)
    assert (first.num_computed, second.num_computed) == (1 if groups == "off" else 2, 0)
    assert not cached.tokens.requires_grad


def test_other_pixels_groups_or_teachers_are_computed(tmp_path):
    """A cache with steps or names as keys would return the targets of other photos, groups or weights."""
    CountedTeacher(tmp_path).grouped.targets(pixels(), step=3)
    for teacher, step, seed in (
        *((CountedTeacher(tmp_path), 3, 1), (CountedTeacher(tmp_path), 4, 0), (CountedTeacher(tmp_path, "places"), 3, 0)),
        *((CountedTeacher(tmp_path, "off"), 3, 0), (CountedTeacher(tmp_path, bias=0.5), 3, 0)),
    ):
        targets = teacher.grouped.targets(pixels(seed), step)
        assert teacher.num_computed > 0
        plain = GroupedTeacher(teacher.teacher, teacher.grouped.groups, 4, 0).targets(pixels(seed), step)
        assert torch.equal(targets.descriptors, plain.descriptors)


def test_damaged_targets_are_computed_again(tmp_path):
    wanted = CountedTeacher(tmp_path, "places").grouped.targets(pixels(), step=0)
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:100])
    again = CountedTeacher(tmp_path, "places")
    assert torch.equal(again.grouped.targets(pixels(), step=0).descriptors, wanted.descriptors)
    assert again.num_computed == 1 and first.stat().st_size == second.stat().st_size


def images(seed=0, count=6):
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class CountedFeatureTeacher:
    """A teacher of single images with a cache; `computed` has the number of images of each of its forward passes."""

    def __init__(self, folder, components=False, size=64):
        torch.manual_seed(0)
        config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=64)
        self.teacher = FeatureTeacher(ViTModel(config).eval(), Preprocessing(size=(size, size)))
        if components:
            self.teacher.project([PrincipalComponents(torch.zeros(32), torch.eye(32)[:, :8], 1.0)])
        self.computed = []
        self.teacher.register_forward_pre_hook(lambda module, arguments: self.computed.append(len(arguments[0])))
        self.grouped = GroupedTeacher(self.teacher, "places", 4, 0, str(folder))


def test_images_are_found_in_other_batches(tmp_path):
    """A crop that comes again in another batch, at another place of it, is not computed again."""
    first, second = CountedFeatureTeacher(tmp_path), CountedFeatureTeacher(tmp_path)
    wanted = first.grouped.targets(images(), 0, (4, 4))
    mixed = torch.cat((images(seed=1, count=2), images().flip(0)))
    targets = second.grouped.targets(mixed, 7, (4, 4))
    assert (first.computed, second.computed) == ([6], [2])
    assert torch.equal(targets.tokens[2:], wanted.tokens.flip(0))
    assert torch.equal(targets.descriptors[2:], wanted.descriptors.flip(0))
    again = second.grouped.targets(mixed, 8, (4, 4))
    assert second.computed == [2] and torch.equal(again.tokens, targets.tokens)


def test_another_grid_size_or_projection_is_computed(tmp_path):
    CountedFeatureTeacher(tmp_path).grouped.targets(images(), 0, (4, 4))
    for counted, grid_size in (
        *((CountedFeatureTeacher(tmp_path), (3, 4)), (CountedFeatureTeacher(tmp_path, components=True), (4, 4))),
        (CountedFeatureTeacher(tmp_path, size=96), (4, 4)),
    ):
        targets = counted.grouped.targets(images(), 0, grid_size)
        assert counted.computed == [6] and targets.tokens.shape == (6, 1 + grid_size[0] * grid_size[1], counted.teacher.width)


def test_a_damaged_image_is_computed_again(tmp_path):
    wanted = CountedFeatureTeacher(tmp_path).grouped.targets(images(), 0, (4, 4))
    files = sorted(tmp_path.rglob("*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    files[2].unlink()
    again = CountedFeatureTeacher(tmp_path)
    targets = again.grouped.targets(images(), 0, (4, 4))
    assert again.computed == [3] and torch.allclose(targets.tokens, wanted.tokens, atol=1e-6)
    assert len(files) == 6 and sorted(tmp_path.rglob("*")) == sorted({*files, *(file.parent for file in files)})
