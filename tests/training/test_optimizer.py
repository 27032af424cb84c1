"""The optimizer's groups of parameters and their learning rates."""

import pytest
import torch

from d2vpr_hf.training.model_setup import TrainingWrapper, freeze
from d2vpr_hf.training.optimizer import make_optimizer, set_learning_rate
from d2vpr_hf.training.options import DistillOptions
from tests.conftest import tiny_model


def options(*factors, **changes):
    given = {"out": "out", "model": "model", "photos": "photos", "teacher": "teacher", "learning_rate_factors": list(factors)}
    return DistillOptions(**(given | changes))


def steps_of(network, *factors):
    """Return Adam's first step for each parameter: the learning rate times its factor, whatever the gradient."""
    optimizer = make_optimizer(network, options(*factors))
    set_learning_rate(optimizer, 0.5)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0) if parameter.requires_grad else None
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    optimizer.step()
    return {name: (before[name] - parameter).mean().item() for name, parameter in network.named_parameters()}


def test_the_first_factor_whose_pattern_matches_scales_the_learning_rate():
    moved = steps_of(TrainingWrapper(tiny_model()), "aggregator.sampler.*.output.*=0.1", "aggregator.*=0.5")
    assert moved.pop("model.aggregator.sampler.offset_generator.output.weight") == pytest.approx(0.05, rel=1e-4)
    assert moved.pop("model.aggregator.sampler.offset_generator.output.bias") == pytest.approx(0.05, rel=1e-4)
    for name, step in moved.items():
        assert step == pytest.approx(0.25 if name.startswith("model.aggregator.") else 0.5, rel=1e-4), name


def test_the_optimizer_does_not_hold_frozen_parameters():
    model = tiny_model()
    freeze(model, ["encoder.*"])
    optimizer = make_optimizer(TrainingWrapper(model), options("recovery.*=2"))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for name, parameter in model.named_parameters() if not name.startswith("encoder.")}
    with pytest.raises(ValueError, match=r"no trained parameter has a name like encoder\.\*"):
        make_optimizer(TrainingWrapper(model), options("encoder.*=0.5"))


@pytest.mark.parametrize("text", ["recovery.*", "recovery.*=", "recovery.*=slow", "=0.5", "a=nan", "a=0", "a=inf"])
def test_invalid_factors_are_refused(text):
    with pytest.raises(ValueError, match="PATTERN=FACTOR with a factor above 0"):
        make_optimizer(TrainingWrapper(tiny_model()), options(text))


def test_adam_with_weight_decay_is_refused():
    with pytest.raises(ValueError, match="take adamw"):
        make_optimizer(TrainingWrapper(tiny_model()), options(weight_decay=0.1))
