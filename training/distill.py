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

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from d2vpr_hf.encoders.encoder_teacher import EncoderTeacher
from d2vpr_hf.encoders.load_teacher import load_teacher
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.modeling.vision_transformer import GridSize
from d2vpr_hf.training.command_line import run_script
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import gather_with_gradients
from d2vpr_hf.training.model_setup import TrainingWrapper, choose_cross_image_encoder, load_or_make
from d2vpr_hf.training.objectives.distillation_loss import DistillationLoss
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.objectives.head import StudentWithHeads, keep_head, metric_of_prefixes
from d2vpr_hf.training.objectives.metric_loss import MetricLoss
from d2vpr_hf.training.objectives.teacher_components import TeacherComponents
from d2vpr_hf.training.options import DistillOptions
from d2vpr_hf.training.teacher_space import shared_space
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
    student = choose_cross_image_encoder(
        load_or_make(options.model, options.seed, options.vit), options.cross_image_encoder, options.seed
    )
    if student.config.use_cross_image_encoder and options.gradient_accumulation_steps > 1:
        raise ValueError("A student with a cross-image encoder needs the whole batch: set gradient_accumulation_steps to 1.")
    teachers = [_open_teacher(name, options, accelerator.device) for name in options.teachers]
    data = TrainingData(options, accelerator, teacher_size=_largest_size(teachers, options))
    is_projected = options.teacher_components or options.teacher_components_of
    components = TeacherComponents(options, teachers[0].teacher) if is_projected else None
    for teacher in teachers:
        teacher.check_fit(
            student,
            data.images_per_forward,
            None if components is None else components.width,
            same_descriptors=options.compares_descriptors and options.head == "none",
            same_tokens=options.compares_tokens,
        )
    loss_of = DistillationLoss(
        options.descriptor_weight,
        options.token_mse_weight,
        options.token_cosine_weight,
        options.mse_reduction,
        options.descriptor_cosine_weight,
        options.relational_weight,
        options.matryoshka_dims or (),
    )
    metric_weight, metric_loss = options.weight("metric_weight"), None
    if not metric_weight.is_zero:
        data.check_negatives()
        metric_loss = MetricLoss(options.ms_alpha, options.ms_beta, options.ms_base, options.miner_epsilon)
    student.config.compatible_with = []
    if accelerator.is_main_process and not student.config.use_cross_image_encoder:
        student.config.compatible_with = shared_space(options, teachers[0])
    network = _with_head(student, options, teachers, components)
    run = TrainingRun(options, accelerator, student, network, data)

    def grid_of(size: tuple[int, int] | None) -> GridSize:
        """Return the rows and columns of the student's patches; `None` is the size of validation."""
        height, width = size or options.size
        return height // student.config.patch_size, width // student.config.patch_size

    def images_of(batch: PlaceBatch, teacher: GroupedTeacher) -> torch.Tensor:
        """Return the images that a teacher sees, in the form that it takes."""
        pixels = batch.pixels if batch.teacher_pixels is None else batch.teacher_pixels
        return run.pixel_values(batch._replace(pixels=pixels)) if teacher.teacher.input_size is None else pixels

    def prepare(resumed: bool) -> None:
        """Project the teacher's tokens, if the options request it."""
        if components is not None:
            path = run.folder.teacher_components
            images = functools.partial(images_of, teacher=teachers[0])
            components.fit_or_load(path, data, accelerator, images, grid_of(None), resumed=resumed)

    def step_loss(batch: PlaceBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of a batch, or of one of its micro-batches."""
        pixel_values = run.pixel_values(batch)
        targets = [teacher.targets(images_of(batch, teacher), step, grid_of(batch.size)) for teacher in teachers]
        output = run.network(pixel_values)
        output, mapped = output if isinstance(output, tuple) else (output, None)
        loss, terms = loss_of(output, targets, step, mapped)
        if metric_loss is None:
            return loss, terms
        descriptors = gather_with_gradients(output.pooler_output.float())
        place_ids = gather_with_gradients(batch.place_ids.to(descriptors.device))
        metric, numbers = metric_of_prefixes(metric_loss, descriptors, place_ids, options.matryoshka_dims or ())
        return loss + metric_weight(step) * metric, {**terms, "metric_loss": metric.detach(), **numbers}

    run.begin(lambda batch: step_loss(batch, step=0)[0], prepare)
    for batch in run.batches():
        for micro_batch in run.micro_batches(batch):
            loss, terms = step_loss(micro_batch, run.state.step)
            run.backward(loss, terms, micro_batches=options.gradient_accumulation_steps)
        run.update(batch)
    return run.finish()


def _open_teacher(name: str, options: DistillOptions, device: torch.device) -> GroupedTeacher:
    """Open a teacher on the device, with its groups and its cache."""
    teacher = load_teacher(
        name,
        dtype=_teacher_dtype(options, device),
        taps=options.taps,
        image_size=options.teacher_size,
        descriptor=options.teacher_descriptor,
        device=device,
    ).to(device)
    if isinstance(teacher, EncoderTeacher):
        teacher.with_tokens = options.compares_tokens
    return GroupedTeacher(
        teacher,
        options.teacher_groups,
        options.teacher_group_places * options.images_per_place,
        options.seed,
        options.teacher_cache,
    )


def _largest_size(teachers: Sequence[GroupedTeacher], options: DistillOptions) -> tuple[int, int] | None:
    """Return the height and width that cover the images of all teachers; `None` if all take the student's pixels."""
    sizes = [teacher.teacher.input_size for teacher in teachers]
    if not any(sizes):
        return None
    height, width = (max(sides) for sides in zip(*(size or options.size for size in sizes), strict=True))
    return height, width


def _with_head(
    student: VPRPreTrainedModel,
    options: DistillOptions,
    teachers: Sequence[GroupedTeacher],
    components: TeacherComponents | None,
) -> TrainingWrapper:
    """Return the module to train: the student, with a head for each teacher if the options request them."""
    if options.head == "none":
        return TrainingWrapper(student)
    frozen = [teacher.teacher for teacher in teachers]
    widths = [teacher.descriptor_dim for teacher in frozen]
    if components is not None:
        widths = [frozen[0].descriptor_dim // frozen[0].width * components.width]
    if options.head_dim is not None:
        widths = [options.head_dim] * len(frozen)
    if options.head_policy == "keep":
        too_wide = [dim for dim in options.matryoshka_dims or () if dim > widths[0]]
        if too_wide:
            raise ValueError(f"The head has {widths[0]} numbers, got the matryoshka_dims {too_wide}. Leave them out.")
        normalize = frozen[0].has_unit_length or options.head_dim is not None
        keep_head(student, widths[0], options.seed, normalize=normalize)
        student.config.matryoshka_dims = sorted(set(options.matryoshka_dims or ()))
        return TrainingWrapper(student)
    return StudentWithHeads(student, widths, [teacher.has_unit_length for teacher in frozen], options.seed)


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
