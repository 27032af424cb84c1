"""Stage 1 of D²-VPR (arXiv 2511.12528): a student learns its teacher's descriptors.

On a laptop, offline, in a few minutes, after training the teacher (see `finetune.py`):
    accelerate launch training/distill.py distill_gridtown_tiny --teacher runs/teacher/best --out runs/student
As published, on one GPU:
    accelerate launch training/distill.py distill_gsv_cities --photos GSV --teacher CRICAVPR --model STUDENT --out runs/stage1 \
        --validation-data MSLS --best-metric recall@5
On 4 nodes of 8 GPUs, which share each batch (the teacher's groups of 8 places then need batches of 256 places):
    accelerate launch --config_file training/configs/accelerate/4x8_gpus.yaml training/distill.py distill_gsv_cities ... \
        --places-per-batch 256
Flags override any option of the YAML file. `-m d2vpr_hf.training.distill` runs the script of the installed package.
"""

from pathlib import Path

import torch

from d2vpr_hf.pretrained.teachers import load_teacher
from d2vpr_hf.training.command_line import run_script
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import gather_with_gradients
from d2vpr_hf.training.model_setup import TrainingWrapper, load_or_make
from d2vpr_hf.training.objectives.distillation_loss import DistillationLoss
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.objectives.metric_loss import MetricLoss
from d2vpr_hf.training.objectives.teacher_components import TeacherComponents
from d2vpr_hf.training.options import DistillOptions
from d2vpr_hf.training.training_run import TrainingRun, start_accelerator


def distill(options: DistillOptions) -> Path:
    """Train a student; return the folder of the best model.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: If something that the options name is missing or does not fit.
        FloatingPointError: If the loss is not finite.
        OSError: If a checkpoint or a model cannot be written.
        RunStoppedError: If the process received SIGINT or SIGTERM, after saving a checkpoint.
    """
    accelerator = start_accelerator(options)
    student = load_or_make(options.model, options.seed, options.vit)
    student.remove_cross_image_encoder()  # the student encodes each photo independently of the batch
    teacher = GroupedTeacher(
        load_teacher(
            options.teacher,
            dtype=_teacher_dtype(options, accelerator.device),
            taps=options.taps,
            image_size=options.teacher_size,
        ).to(accelerator.device),
        options.teacher_groups,
        options.teacher_group_places * options.images_per_place,
        options.seed,
        options.teacher_cache,
    )
    data = TrainingData(options, accelerator, teacher_size=teacher.teacher.input_size)
    is_projected = options.teacher_components or options.teacher_components_of
    components = TeacherComponents(options, teacher.teacher) if is_projected else None
    teacher.check_fit(student, data.images_per_forward, None if components is None else components.width)
    loss_of = DistillationLoss(
        options.descriptor_weight, options.token_mse_weight, options.token_cosine_weight, options.mse_reduction
    )
    metric_loss = None
    if options.metric_weight:
        data.check_negatives()
        metric_loss = MetricLoss(options.ms_alpha, options.ms_beta, options.ms_base, options.miner_epsilon)
    run = TrainingRun(options, accelerator, student, TrainingWrapper(student), data)
    patch_size = student.config.patch_size
    grid_size = (options.size[0] // patch_size, options.size[1] // patch_size)

    def images_of(batch: PlaceBatch) -> torch.Tensor:
        """Return the images that the teacher sees, in the form that it takes."""
        pixels = batch.pixels if batch.teacher_pixels is None else batch.teacher_pixels
        return run.pixel_values(batch._replace(pixels=pixels)) if teacher.teacher.input_size is None else pixels

    def prepare(resumed: bool) -> None:
        """Project the teacher's tokens, if the options request it."""
        if components is not None:
            path = run.folder.teacher_components
            components.fit_or_load(path, data, accelerator, images_of, grid_size, resumed=resumed)

    def step_loss(batch: PlaceBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of a batch, or of one of its micro-batches."""
        pixel_values = run.pixel_values(batch)
        targets = teacher.targets(images_of(batch), step, grid_size)
        output = run.network(pixel_values)
        loss, terms = loss_of(output, targets)
        if metric_loss is None:
            return loss, terms
        descriptors = gather_with_gradients(output.pooler_output.float())
        place_ids = gather_with_gradients(batch.place_ids.to(descriptors.device))
        metric, numbers = metric_loss(descriptors, place_ids)
        return loss + options.metric_weight * metric, {**terms, "metric_loss": metric.detach(), **numbers}

    run.begin(lambda batch: step_loss(batch, step=0)[0], prepare)
    for batch in run.batches():
        for micro_batch in run.micro_batches(batch):
            loss, terms = step_loss(micro_batch, run.state.step)
            run.backward(loss, terms, micro_batches=options.gradient_accumulation_steps)
        run.update(batch)
    return run.finish()


def _teacher_dtype(options: DistillOptions, device: torch.device) -> torch.dtype:
    """Return the data type of the teacher's weights: with `auto`, half precision if the device supports it."""
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
