"""Compute gradients of the same batch in one process or in two; `test_two_processes.py` starts this as torchrun does.

Usage: two_processes.py OUT ROOT TEACHER STUDENT
"""

import sys

import torch
from accelerate.state import AcceleratorState

from d2vpr_hf.training import distill as distill_stage
from d2vpr_hf.training import model_setup, training_run
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.objectives import metric_loss
from d2vpr_hf.training.options import DistillOptions, FinetuneOptions

COMMON = {
    "image_size": [70, 70],
    "places_per_batch": 4,
    "num_workers": 0,
    "max_steps": 1,
    "log_every": 1,
    "batches": "mixed",
}


class StopError(Exception):
    """Ends a stage after its first gradients are computed, before its first step."""


def cases(root, teacher, student):
    """Yield the name, stage and options of each case."""
    common = {"photos": root, "model": student, "out": "none", **COMMON}
    distilled = {**common, "teacher": teacher, "teacher_group_places": 2}
    for policy in ("published", "frozen", "synchronised"):
        yield f"distill-{policy}", distill, DistillOptions(**distilled, batch_norm=policy)
        yield f"finetune-{policy}", finetune, FinetuneOptions(**common, batch_norm=policy)
    frozen = {"batch_norm": "frozen"}
    micro_batches = {**frozen, "gradient_accumulation_steps": 2}
    yield "distill-micro-batches", distill, DistillOptions(**{**distilled, "teacher_group_places": 1}, **micro_batches)
    yield "distill-tokens", distill, DistillOptions(**distilled, **frozen, token_mse_weight=0.1, token_cosine_weight=0.1)
    yield "distill-metric", distill, DistillOptions(**distilled, **frozen, metric_weight=0.5)
    relational = {"descriptor_weight": "0.5", "descriptor_cosine_weight": "0.5", "relational_weight": "1"}
    yield "distill-relational", distill, DistillOptions(**distilled, **frozen, **relational)
    for policy in ("drop", "keep"):
        head = {"head": "linear", "head_policy": policy, "learning_rate": 1e-3}
        yield f"distill-head-{policy}", distill, DistillOptions(**distilled, **frozen, **relational, **head)
    yield "distill-sizes", distill, DistillOptions(**distilled, **frozen, image_sizes=["56x42"], token_cosine_weight=0.1)
    yield "finetune-micro-batches", finetune, FinetuneOptions(**common, **micro_batches)
    yield "finetune-encoder", finetune, FinetuneOptions(**common, **frozen, cross_image_encoder="add")
    yield "finetune-checkpointing", finetune, FinetuneOptions(**common, batch_norm="synchronised", gradient_checkpointing=True)
    yield "distill-float32", distill, DistillOptions(**distilled, **frozen)
    yield "finetune-float32", finetune, FinetuneOptions(**common, **frozen)


def compute_in_float64():
    """Let both stages compute in float64, so that rounding hides no difference; return a function that undoes it."""
    load_student, load_teacher = model_setup.load_model, distill_stage.load_teacher
    model_setup.load_model = lambda name: load_student(name).double()
    distill_stage.load_teacher = lambda name, dtype, **options: load_teacher(name, dtype=torch.float64, **options)
    return lambda: (setattr(model_setup, "load_model", load_student), setattr(distill_stage, "load_teacher", load_teacher))


def first_step(stage, options):
    """Run a stage up to its first gradients; return them with the loss, the pairs and BatchNorm's statistics."""
    outcome = {}

    def stop(run, batch):
        outcome["loss"] = run.meter._sums["loss"].clone()
        outcome["gradients"] = {
            key: weights.grad.clone() for key, weights in run.model.named_parameters() if weights.grad is not None
        }
        outcome["statistics"] = {key: value.clone() for key, value in run.model.named_buffers() if "running" in key}
        raise StopError

    def watch(loss, descriptors, place_ids):
        outcome["pairs"] = torch.cat(
            [torch.stack((pairs[0], pairs[1])) for pairs in _halves(loss.mine(descriptors, place_ids))], 1
        )
        outcome["place_ids"] = place_ids
        return call(loss, descriptors, place_ids)

    call = metric_loss.MetricLoss.__call__
    metric_loss.MetricLoss.__call__ = watch
    training_run.TrainingRun.update = stop
    training_run.TrainingRun.begin = begin_without_files
    try:
        stage(options)
    except StopError:
        return outcome
    finally:
        metric_loss.MetricLoss.__call__ = call
    raise AssertionError(f"{options} took no step")


def begin_without_files(run, held_out_loss, prepare=None):
    training_run.apply_policy(run.model, run.options.batch_norm)


def _halves(pairs):
    return (pairs[0], pairs[1]), (pairs[2], pairs[3])


def main():
    out, root, teacher, student = sys.argv[1:]
    results = {}
    back_to_float32 = compute_in_float64()
    for name, stage, options in cases(root, teacher, student):
        if name.endswith("float32"):
            back_to_float32()
        results[name] = first_step(stage, options)
        AcceleratorState._reset_state()
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(results, f"{out}-{rank}.pt")


if __name__ == "__main__":
    main()
