"""Cached targets are the same numbers without computing the teacher, and never those of other pixels or teachers."""

import pytest
import torch

from d2vpr_hf.pretrained.teachers import PlaceTeacher
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
