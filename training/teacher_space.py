"""The models whose descriptors a student can be compared with: the teachers into whose space it is distilled."""

import logging

from d2vpr_hf.encoders.encoder_teacher import EncoderTeacher
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.pretrained.own_facts import steps_of
from d2vpr_hf.pretrained.teachers import PlaceTeacher
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.options import DistillOptions

logger = logging.getLogger(__name__)


def shared_space(options: DistillOptions, teacher: GroupedTeacher) -> list[str]:
    """Return the fingerprint of the teacher at the size of this run, if the student's descriptors can be compared with its own.

    They can if the student learns them number by number, directly or through a head that is kept, and an encoder of the teacher
    computes them: a teacher of the published regions with a projection, or of pooled tokens, has other descriptors in an index.

    Args:
        options: Options of the run.
        teacher: The only teacher, with its groups.

    Returns:
        The fingerprint of an index of the teacher whose photos are resized to the size that the teacher sees in this run; empty
        if the spaces differ.
    """
    is_kept = options.head == "none" or options.head_policy == "keep"
    if not (is_kept and options.compares_descriptors and len(options.teachers) == 1):
        return []
    if isinstance(teacher.teacher, EncoderTeacher):
        return [teacher.teacher.encoder.fingerprint]
    if teacher.teacher.input_size is None and options.size not in options.sizes:
        logger.info(
            "The student cannot search indexes of its teacher, which sees photos in the `image_sizes` of this run and never in "
            "`image_size`. Add it to them, or set `teacher_image_size`."
        )
        return []
    if not isinstance(teacher.teacher, PlaceTeacher) or teacher.teacher.model.projection is not None:
        logger.info(
            "An index of %s holds other descriptors than the student learns, so that the student cannot search it. With "
            "`teacher_descriptor: encoder` it learns those of the index.",
            options.teachers[0],
        )
        return []
    try:
        encoder = PlaceEncoder(
            options.teachers[0],
            device="cpu",
            image_size=teacher.teacher.input_size or options.size,
            cross_image_encoder=None if teacher.depends_on_batch else False,
        )
    except FileNotFoundError as error:  # a teacher without an image processor teaches, but cannot encode photos
        logger.info("The student cannot search indexes of its teacher, which cannot encode photos: %s", error)
        return []
    if difference := _difference(options.resize, encoder):
        logger.info(
            "The student cannot search indexes of its teacher, because the teacher sees other pixels in this run than in an "
            "index: %s. With `teacher_descriptor: encoder` it sees those of an index.",
            difference,
        )
        return []
    return [encoder.fingerprint]


def _difference(resize: str, encoder: PlaceEncoder) -> str:
    """Return a text of the steps by which a teacher sees photos in a run but not in an index; empty if there is none."""
    steps = steps_of(encoder.processor)
    in_run = Preprocessing(size=steps.size, resample=resize, resized_as=steps.resized_as)  # type: ignore[arg-type] # bilinear or bicubic
    pairs = {name: (getattr(in_run, name), getattr(steps, name)) for name in ("resample", "rescale_factor", "mean", "std")}
    return ", ".join(f"{name} {run} and not {index}" for name, (run, index) in pairs.items() if run != index)
