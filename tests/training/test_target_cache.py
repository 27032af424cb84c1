"""Targets that are remembered: the same numbers without the teacher, and never those of something else."""

import pytest
import torch

from d2vpr_hf.pretrained.teachers import PlaceTeacher
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from tests.conftest import tiny_cricavpr


def pixels(seed=0):
    return torch.randn(8, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


class Asked:
    """A teacher with a cross-image encoder and a folder for its targets, and how often it was asked."""

    def __init__(self, folder, groups="shuffled", seed=0, bias=0.0):
        model = tiny_cricavpr(use_cross_image_encoder=True)
        with torch.no_grad():
            model.norm.bias += bias
        self.teacher = PlaceTeacher(model)
        self.times = 0
        self.teacher.register_forward_pre_hook(self._count)
        self.grouped = GroupedTeacher(self.teacher, groups, 4, seed, str(folder))

    def _count(self, *_):
        self.times += 1


@pytest.mark.parametrize("groups", ["places", "shuffled", "off"])
def test_a_second_run_does_not_ask_the_teacher(tmp_path, groups):
    first, second = Asked(tmp_path, groups), Asked(tmp_path, groups)
    wanted, found = first.grouped.targets(pixels(), step=3), second.grouped.targets(pixels(), step=3)
    assert torch.equal(found.tokens, wanted.tokens) and torch.equal(found.descriptors, wanted.descriptors)
    assert (first.times, second.times) == (1 if groups == "off" else 2, 0)
    assert not found.tokens.requires_grad


def test_other_pixels_groups_or_teachers_are_asked(tmp_path):
    """A cache that answered by step or by name would give the targets of other photos, neighbours or weights."""
    Asked(tmp_path).grouped.targets(pixels(), step=3)
    for other, step, seed in (
        *((Asked(tmp_path), 3, 1), (Asked(tmp_path), 4, 0), (Asked(tmp_path, "places"), 3, 0)),
        *((Asked(tmp_path, "off"), 3, 0), (Asked(tmp_path, bias=0.5), 3, 0)),
    ):
        found = other.grouped.targets(pixels(seed), step)
        assert other.times > 0
        plain = GroupedTeacher(other.teacher, other.grouped.groups, 4, 0).targets(pixels(seed), step)
        assert torch.equal(found.descriptors, plain.descriptors)


def test_damaged_targets_are_computed_again(tmp_path):
    wanted = Asked(tmp_path, "places").grouped.targets(pixels(), step=0)
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:100])
    again = Asked(tmp_path, "places")
    assert torch.equal(again.grouped.targets(pixels(), step=0).descriptors, wanted.descriptors)
    assert again.times == 1 and first.stat().st_size == second.stat().st_size
