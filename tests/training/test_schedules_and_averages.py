"""Learning rates over steps, averages of weights, precise statistics, and the recipes that use them."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import nn

from d2vpr_hf.training.batch_norm import PreciseStatistics
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.model_setup import TrainingWrapper, choose_cross_image_encoder, freeze
from d2vpr_hf.training.objectives.head import StudentWithHeads, keep_head
from d2vpr_hf.training.optimizer import learning_rate_factor, make_optimizer
from d2vpr_hf.training.options import DistillOptions, FinetuneOptions, parse_options
from d2vpr_hf.training.training_run import _check_accelerator
from d2vpr_hf.training.weight_average import MovingAverage
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.training.places import write_places
from tests.training.run_files import read_metrics

NEEDED = ["--out", "o", "--model", "m", "--photos", "p"]


def test_rates_by_hand():
    """OpenVPRLab's increase of 3,900 steps, and milestones after epochs of 500 steps."""
    assert [learning_rate_factor("linear", step, 10, 5, 4) for step in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1, 1, 1]
    rates = [learning_rate_factor("steps", step, 10**5, 500, 3900, (10, 20), 0.1) for step in (0, 3899, 4999, 5000, 10000)]
    assert rates == pytest.approx([1 / 3900, 1, 1, 0.1, 0.01])
    assert learning_rate_factor("steps", 1500, 10**5, 500, 0, (3, 6), 0.5) == 0.5


def test_options_that_do_not_belong_together():
    for flags, problem in (
        (["--schedule", "steps"], "milestones belong to"),
        (["--milestones", "3"], "milestones belong to"),
        (["--schedule", "steps", "--milestones", "0"], "epochs of at least 1"),
        (["--ema-decay", "1"], "between 0 and 1"),
        (["--precise-batch-norm", "2", "--batch-norm", "frozen"], "keeps"),
        (["--precise-batch-norm", "2", "--compile"], "a compiled network does not show"),
    ):
        with pytest.raises(ValueError, match=problem):
            parse_options(FinetuneOptions, [*NEEDED, *flags])


def test_an_average_by_hand():
    """Decay is 2/11 after one update and 3/12 after two: both below 0.9. The weights themselves come back afterwards."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = MovingAverage(network, 0.9)
    for value in (1.0, 2.0):
        nn.init.constant_(network.weight, value)
        average.update()
    wanted = 0.25 * (9 / 11) + 0.75 * 2
    with average.in_place():
        assert network.weight.item() == pytest.approx(wanted)
    assert network.weight.item() == 2.0
    restored = MovingAverage(network, 0.9)
    restored.load_state_dict(average.state_dict())
    with restored.in_place():
        assert network.weight.item() == pytest.approx(wanted)


def test_precise_statistics_are_those_of_all_batches():
    """Of the first BatchNorm, whose inputs do not depend on other statistics; momentum would forget the first batch."""
    model = tiny_model()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs = []
    handle = norms[0].register_forward_pre_hook(lambda norm, arguments: inputs.append(arguments[0]))
    batches = [torch.randn(4, 3, 42, 42, generator=torch.Generator().manual_seed(seed)) * (1 + seed) for seed in range(3)]
    counted = norms[0].num_batches_tracked.clone()
    PreciseStatistics(model).measure(batches)
    handle.remove()
    features = torch.cat(inputs)
    assert torch.allclose(norms[0].running_mean, features.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norms[0].running_var, features.var((0, 2, 3)), rtol=1e-4)
    assert torch.equal(norms[0].num_batches_tracked, counted) and not model.training


def test_statistics_of_no_image_are_an_error():
    """They would be 0 / 0, and the saved model would give numbers that are not finite."""
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="No batch reached a BatchNorm"):
        PreciseStatistics(model).measure([])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_average_of_sharded_weights_is_refused():
    options = SimpleNamespace(ema_decay=0.9, mixed_precision="no", trackers=None)
    accelerator = SimpleNamespace(num_processes=1, distributed_type=DistributedType.FSDP, log_with=[])
    with pytest.raises(ValueError, match="FSDP shards them"):
        _check_accelerator(accelerator, options)


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_rates_of_the_modern_recipe_name_parameters(policy):
    """With a head that is dropped, parameters have other names than with one that is kept."""
    flags = [] if policy == "keep" else ["--learning-rate-factors", "heads.*=10", "aggregator.sampler.*=0.1"]
    words = ["distill_modern", *NEEDED, "--teacher", "t", "--validation-data", "v", "--head-policy", policy]
    options = parse_options(DistillOptions, [*words, *flags])
    student = tiny_model()
    network = StudentWithHeads(student, [8], [True], 0)
    if policy == "keep":
        keep_head(student, 8, 0, normalize=True)
        network = TrainingWrapper(student)
    assert {group["factor"] for group in make_optimizer(network, options).param_groups} == {10, 1, 0.1}


def test_a_resumed_run_with_average_and_precise_statistics_ends_at_the_same_weights(tmp_path):
    """An average that begins again on resuming forgets the steps before; the saved model is the average, not the weights."""
    values = {"photos": str(write_places(tmp_path / "gsv")), "model": str(save_folder(tiny_model(), tmp_path / "student"))}
    values |= {"image_size": [42, 42], "places_per_batch": 4, "num_workers": 0, "learning_rate": 1e-2, "log_every": 1}
    values |= {"schedule": "steps", "warmup_steps": 2, "milestones": [1], "milestone_factor": 0.5, "held_out_places": 4}
    values |= {"ema_decay": 0.9, "precise_batch_norm": 2, "validate_every_epochs": 1, "checkpoint_every": 2}
    for out, changes in (("whole", {}), ("resumed", {"max_steps": 2}), ("resumed", {"resume": True})):
        AcceleratorState._reset_state()
        finetune(FinetuneOptions(**values | {"out": str(tmp_path / out), "max_steps": 6} | changes))
    for name in ("last/model.safetensors", "best/model.safetensors", "checkpoints/step-00000006/model.safetensors"):
        whole, resumed = load_file(tmp_path / "whole" / name), load_file(tmp_path / "resumed" / name)
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items()), name
    trained = load_file(tmp_path / "whole" / "checkpoints/step-00000006/model.safetensors")
    saved = load_file(tmp_path / "whole" / "last" / "model.safetensors")
    assert any(not torch.equal(trained[f"model.{key}"], tensor) for key, tensor in saved.items() if "weight" in key)
    lines = read_metrics(tmp_path / "whole")
    assert [line["step"] for line in lines if "held_out_loss" in line] == [0, 3, 6]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005, 0.005, 0.005])


def test_recipes_state_what_they_change():
    distilled = [*NEEDED, "--teacher", "t", "--validation-data", "v"]
    plain = parse_options(DistillOptions, ["distill_gsv_cities", *distilled])
    many = parse_options(DistillOptions, ["distill_gsv_cities_8_gpus", *distilled])
    assert many.places_per_batch == 8 * plain.places_per_batch and many.batch_norm == "synchronised"
    assert many.learning_rate == pytest.approx(8**0.5 * plain.learning_rate, rel=1e-3)
    assert many.places_per_batch // 8 == many.teacher_group_places
    with_encoder = parse_options(DistillOptions, ["distill_encoder_gsv_cities", *distilled])
    assert (with_encoder.cross_image_encoder, plain.cross_image_encoder) == ("add", "remove")
    modern = parse_options(DistillOptions, ["distill_modern", *distilled])
    assert (modern.head, modern.head_policy, modern.relational_weight, modern.metric_weight) == (
        *("linear", "keep", 1.0),
        "0:0.0 2000:0.1",
    )
    warm = parse_options(FinetuneOptions, ["finetune_warmup_gsv_cities", *NEEDED])
    assert (warm.schedule, warm.warmup_steps, warm.milestones) == ("steps", 3900, [10, 20, 30])


def test_cricavpr_trains_adapters_and_what_follows_the_frozen_vit():
    model = tiny_cricavpr(use_cross_image_encoder=True)
    options = parse_options(FinetuneOptions, ["cricavpr_gsv_cities", *NEEDED])
    freeze(model, options.frozen)
    trained = [name for name, weights in model.named_parameters() if weights.requires_grad]
    assert {"adapters" if ".adapter." in name else name.partition(".")[0] for name in trained} == {
        *("adapters", "aggregator", "cross_image_encoder")
    }
    assert sum(".adapter." in name for name, _ in model.named_parameters()) == sum(".adapter." in name for name in trained)


def test_a_student_keeps_or_gets_a_cross_image_encoder():
    model = choose_cross_image_encoder(tiny_model(), "add", 0)
    assert model.config.use_cross_image_encoder and choose_cross_image_encoder(model, "keep", 0) is model
    assert not choose_cross_image_encoder(model, "remove", 0).config.use_cross_image_encoder
