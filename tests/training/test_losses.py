"""Losses, learning rates and targets, by hand."""

from types import SimpleNamespace

import pytest
import torch

from d2vpr_hf.pretrained.teachers import PlaceTeacher, TeacherTargets
from d2vpr_hf.training.objectives.distillation_loss import DistillationLoss
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.objectives.metric_loss import MetricLoss
from d2vpr_hf.training.optimizer import learning_rate_factor
from tests.conftest import tiny_cricavpr, tiny_model

E = torch.eye(4)


def outputs(descriptors, tokens=None):
    return SimpleNamespace(pooler_output=descriptors, last_hidden_state=tokens)


def test_descriptor_error_by_hand():
    """The squared error of orthogonal unit vectors is 2. The first image has no error, the second 2, or 2/4 as a mean."""
    student, teacher = outputs(E[[0, 1]]), TeacherTargets(torch.zeros(2, 1, 4), E[[0, 2]])
    assert DistillationLoss()(student, teacher)[0].item() == pytest.approx(0.25)
    assert DistillationLoss(reduction="sum")(student, teacher)[0].item() == pytest.approx(1.0)


def test_weights_and_token_terms_by_hand():
    tokens, wanted = E[None, :2] * 3, E[None, [0, 2]]
    student, teacher = outputs(E[:1], tokens), TeacherTargets(wanted, E[:1])
    loss, terms = DistillationLoss(1.0, 0.5, 2.0)(student, teacher)
    assert {name: round(term.item(), 4) for name, term in terms.items()} == {
        "descriptor_mse": 0.0,
        "token_mse": (4 + 9 + 1) / 8,
        "token_cosine": 0.5,
    }
    assert loss.item() == pytest.approx(0.5 * 14 / 8 + 2 * 0.5)
    assert list(DistillationLoss(0.0, 0.0, 1.0)(student, teacher)[1]) == ["token_cosine"]


def test_weights_of_zero_and_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="not all of them 0"):
        DistillationLoss(0.0)
    with pytest.raises(ValueError, match=r"shape \(1, 4\), the teacher's \(1, 3\)"):
        DistillationLoss()(outputs(E[:1]), TeacherTargets(E[None], E[:1, :3]))


def test_multi_similarity_by_hand():
    """Two places with two photos each: all pairs are orthogonal, except one negative pair at 60 degrees.

    Positives have similarity 0. The miner takes negatives above (lowest positive - 0.1), which are all (0 and 0.5), and
    positives below (highest negative + 0.1), which are all too.
    Loss of an anchor: log(1 + exp(-s_p)) + log(1 + sum exp(50 s_n)) / 50.
    """
    half = torch.tensor([0.5, 0.0, 0.75**0.5, 0.0])
    descriptors, places = torch.stack((E[0], E[1], half, E[3])), torch.tensor([0, 0, 1, 1])
    loss, numbers = MetricLoss()(descriptors, places)
    positive = torch.log1p(torch.exp(torch.zeros(()))).item()
    hard = torch.log(1 + torch.exp(torch.tensor(25.0)) + 1).item() / 50
    easy = torch.log(torch.tensor(3.0)).item() / 50
    assert loss.item() == pytest.approx(positive + (2 * hard + 2 * easy) / 4, rel=1e-5)
    assert {name: number.item() for name, number in numbers.items()} == {
        "positive_pairs": 4,
        "negative_pairs": 8,
        "active": 1,
    }


def test_a_batch_without_hard_pairs_has_no_gradient_and_no_active_images():
    descriptors = E[[0, 0, 1, 1]].requires_grad_()
    loss, numbers = MetricLoss()(descriptors, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == 0 and numbers["active"].item() == 0 and not descriptors.grad.any()


def test_metric_loss_is_float32_under_autocast():
    descriptors, places = torch.nn.functional.normalize(torch.randn(8, 16), dim=1), torch.arange(8) // 2
    plain = MetricLoss()(descriptors, places)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MetricLoss()(descriptors, places)[0], plain)


def test_learning_rates_by_hand():
    """The published rate reaches 2e-4 * 120 / 3900 = 6.15e-6 at the end of epoch 120."""
    assert learning_rate_factor("constant", 7, 10, 5) == 1
    assert learning_rate_factor("published", 120 * 500 - 1, 10**6, 500) * 2e-4 == pytest.approx(6.15e-6, rel=1e-3)
    assert learning_rate_factor("published", 0, 10, 5) == 1 / 19500
    assert [learning_rate_factor("cosine", step, 12, 5, 2) for step in (0, 1, 2, 7)] == pytest.approx([0.5, 1, 1, 0.5])
    assert 0 < learning_rate_factor("cosine", 11, 12, 5, 2) < 0.03


@pytest.fixture(scope="module")
def crica():
    return tiny_cricavpr(use_cross_image_encoder=True)


def pixels(count=8, seed=0):
    return torch.randn(count, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


def test_groups_do_not_see_each_other(crica):
    """Targets of eight images in groups of four are those of two batches of four, and not those of one batch of eight."""
    teacher, images = PlaceTeacher(crica), pixels()
    grouped = GroupedTeacher(teacher, "places", 4, 0).targets(images, step=0)
    apart = torch.cat([teacher(images[:4]).descriptors, teacher(images[4:]).descriptors])
    assert torch.equal(grouped.descriptors, apart)
    assert (grouped.descriptors - teacher(images).descriptors).abs().max() > 1e-3


def test_shuffled_groups_come_back_in_order(crica):
    """Tokens depend only on their image, so they must be the same; descriptors depend on the group, which each step draws."""
    teacher, images = PlaceTeacher(crica), pixels()
    plain = GroupedTeacher(teacher, "places", 4, 0).targets(images, step=3)
    first, again, next_step = (GroupedTeacher(teacher, "shuffled", 4, 0).targets(images, step) for step in (3, 3, 4))
    torch.testing.assert_close(first.tokens, plain.tokens, rtol=1e-5, atol=1e-5)
    assert torch.equal(first.descriptors, again.descriptors)
    assert (first.descriptors - plain.descriptors).abs().max() > 1e-3
    assert (first.descriptors - next_step.descriptors).abs().max() > 1e-3


def test_a_teacher_without_its_encoder_sees_images_alone():
    teacher = GroupedTeacher(PlaceTeacher(tiny_cricavpr(use_cross_image_encoder=True)), "off", 4, 0)
    images = pixels()
    alone = torch.cat([teacher.targets(image[None], 0).descriptors for image in images])
    torch.testing.assert_close(teacher.targets(images, 0).descriptors, alone, rtol=1e-4, atol=1e-6)


def test_a_teacher_that_does_not_fit_is_refused(crica):
    teacher = GroupedTeacher(PlaceTeacher(crica), "places", 8, 0)
    teacher.check_fit(tiny_model(), share=16)
    with pytest.raises(ValueError, match=r"have 672 numbers \(48 for each region\), the student's 896 .*recovery_size=48"):
        teacher.check_fit(tiny_model(recovery_size=64), share=16)
    with pytest.raises(ValueError, match=r"groups have 8 images .* computes 12 at once"):
        teacher.check_fit(tiny_model(), share=12)
