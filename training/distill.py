"""Stage 1 of D²-VPR (arXiv 2511.12528): a student learns its teacher's descriptors.

On a laptop, offline (a few minutes; the teacher is trained before, see `finetune.py`):
    accelerate launch training/distill.py distill_gridtown_tiny --teacher runs/teacher/best --out runs/student
As published, on one GPU:
    accelerate launch training/distill.py distill_gsv_cities --photos GSV --teacher CRICAVPR --model STUDENT --out runs/stage1
On 4 nodes of 8 GPUs, the same batch shared by all (the teacher's groups of 8 places want 256 places then):
    accelerate launch --config_file training/configs/accelerate/4x8_gpus.yaml training/distill.py distill_gsv_cities ... \
        --places-per-batch 256
Any option of the YAML file can be said on the command line, and `-m d2vpr_hf.training.distill` starts the installed package's.
"""

from pathlib import Path

import torch

from d2vpr_hf.pretrained.teachers import load_teacher
from d2vpr_hf.training.command_line import run_script
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.model_setup import InTraining, load_or_make
from d2vpr_hf.training.objectives.distillation_loss import DistillationLoss
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.options import DistillOptions
from d2vpr_hf.training.training_run import TrainingRun, start_accelerator


def distill(options: DistillOptions) -> Path:
    """Train a student; return the folder of the best one.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: If something that the options name is missing or does not fit.
        FloatingPointError: If the loss is no finite number.
        OSError: If a checkpoint or a model cannot be written.
    """
    accelerator = start_accelerator(options)
    data = TrainingData(options, accelerator)
    student = load_or_make(options.model, options.seed)
    student.remove_cross_image_encoder()  # each photo's descriptor is its own
    teacher = GroupedTeacher(
        load_teacher(options.teacher, dtype=_teacher_dtype(options, accelerator.device)).to(accelerator.device),
        options.teacher_groups,
        options.teacher_group_places * options.images_per_place,
        options.seed,
        options.teacher_cache,
    )
    teacher.check_fit(student, data.images_at_a_time)
    loss_of = DistillationLoss(
        options.descriptor_weight, options.token_mse_weight, options.token_cosine_weight, options.mse_reduction
    )
    run = TrainingRun(options, accelerator, student, InTraining(student), data)

    def held_out_loss(batch: PlaceBatch) -> torch.Tensor:
        pixel_values = run.pixel_values(batch)
        return loss_of(run.network(pixel_values), teacher.targets(pixel_values, step=0))[0]

    run.begin(held_out_loss)
    for batch in run.batches():
        for part in run.parts(batch):
            pixel_values = run.pixel_values(part)
            targets = teacher.targets(pixel_values, run.state.step)
            loss, terms = loss_of(run.network(pixel_values), targets)
            run.backward(loss, terms, parts=options.gradient_accumulation_steps)
        run.update(batch)
    return run.finish()


def _teacher_dtype(options: DistillOptions, device: torch.device) -> torch.dtype:
    """Return the type of the teacher's weights: half precision where the device has it, unless the options say otherwise."""
    if options.teacher_dtype != "auto":
        return getattr(torch, options.teacher_dtype)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def main() -> None:
    """Run this stage from the command line."""
    run_script(DistillOptions, distill)


if __name__ == "__main__":
    main()
