"""The rows of both tables: their students, stages and options."""

from dataclasses import dataclass, field
from typing import Any

STEPS = 200  # of a stage in rows with two stages: 19,200 photos
SEEDS = range(5)
LEARNING_RATES = {"distill": 4e-3, "finetune": 1e-4, "tune": 1e-3}  # chosen on the validation city by learning_rates.py
# learning rates of the module that moves samples, near the published rates: docs/ablations.md
SAMPLER_RATES = {"distill": 4e-5, "finetune": 1e-5}

Options = dict[str, Any]
DISTILL: Options = {"learning_rate": LEARNING_RATES["distill"], "token_cosine_weight": 2.0, "mse_reduction": "sum"}


@dataclass(frozen=True)
class Stage:
    """A training stage of a run.

    Attributes:
        script: `distill` or `finetune`.
        steps: Number of batches of 96 photos.
        options: Options that override the common ones.
    """

    script: str
    steps: int
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A way to make a student.

    Attributes:
        name: Name in file names.
        title: Title in the table.
        stages: Stages, one after the other; none for the teacher's row.
        student: Fields of the student's configuration that differ from `student_small.json`, or on real photos from
            `student_real_small.json`.
        teacher: `plain`, `cross-image` for the teacher with CricaVPR's encoder, or `projected` for the plain one with a PCA of
            its descriptors.
        runs: Number of seeds.
    """

    name: str
    title: str
    stages: tuple[Stage, ...]
    student: Options = field(default_factory=dict)
    teacher: str = "plain"
    runs: int = len(SEEDS)

    @property
    def has_sampler(self) -> bool:
        """Whether the student moves its samples."""
        return self.student.get("use_offsets", True) or self.student.get("use_scales", True)


def both(*, distill: Options | None = None, common: Options | None = None) -> tuple[Stage, Stage]:
    """Return the stages of distillation, then fine-tuning, each with half of the photos."""
    shared = common or {}
    return (
        Stage("distill", STEPS, DISTILL | (distill or {}) | shared),
        Stage("finetune", STEPS, {"learning_rate": LEARNING_RATES["tune"]} | shared),
    )


ROWS = (
    Row("teacher", "the teacher", ()),
    Row("full", "distilled, then fine-tuned", both()),
    Row("finetuned", "fine-tuned only", (Stage("finetune", 2 * STEPS, {"learning_rate": LEARNING_RATES["finetune"]}),)),
    Row("distilled", "distilled only", (Stage("distill", 2 * STEPS, DISTILL),)),
    Row("last_layer", "last layer instead of four taps", both(), {"use_tap_layers": False}),
    Row("no_offsets", "offsets off", both(), {"use_offsets": False}),
    Row("no_scales", "scales off", both(), {"use_scales": False}),
    Row("fixed_grid", "offsets and scales off", both(), {"use_offsets": False, "use_scales": False}),
    Row("no_fusion", "top-down fusion off", both(), {"use_top_down_fusion": False}),
    Row("no_position_encoding", "position encoding off", both(), {"use_position_encoding": False}),
    Row("corrected_sampling", "offset map read where samples lie", both(), {"published_offset_sampling": False}),
    Row("descriptors_only", "no token loss", both(distill={"token_cosine_weight": 0.0})),
    Row("frozen_batch_norm", "BatchNorm frozen", both(common={"batch_norm": "frozen"})),
    Row("groups_of_places", "teacher with cross-image encoder, groups of places", both(), teacher="cross-image"),
    Row("shuffled_groups", "the same, groups shuffled", both(distill={"teacher_groups": "shuffled"}), teacher="cross-image"),
    Row("encoder_off", "the same, its encoder off", both(distill={"teacher_groups": "off"}), teacher="cross-image"),
)


# Rows on what a student learns from its teacher, docs/distillation_plan.md: distilled only, compared with `distilled`.

TEACHING_RUNS = 3
TEACHING_REFERENCE = "distilled"
RELATIONAL_WEIGHT = 10.0  # squared differences of cosines are a tenth of the tokens' distances or less
PROJECTED_DIM = 512  # width of the teacher's PCA
_NO_DESCRIPTORS: Options = {"descriptor_weight": 0, "token_cosine_weight": 0}
_RELATIONAL: Options = {"relational_weight": RELATIONAL_WEIGHT}
_COSINE_HEAD: Options = {"descriptor_cosine_weight": 1.0, "head": "linear"}
_OF_INDEX: Options = {"teacher_descriptor": "encoder", "teacher_image_size": [168, 168]}
_METRIC: Options = {"metric_weight": 0.1}


def _taught(name: str, title: str, *options: Options, teacher: str = "plain") -> Row:
    joined: Options = {}
    for each in options:
        joined |= each
    return Row(name, title, (Stage("distill", 2 * STEPS, DISTILL | joined),), teacher=teacher, runs=TEACHING_RUNS)


TEACHING_ROWS = (
    _taught("relational", "relational alone", _NO_DESCRIPTORS, _RELATIONAL),
    _taught("cosine_head", "cosine through a linear head", _NO_DESCRIPTORS, _COSINE_HEAD),
    _taught("relational_head", "both", _NO_DESCRIPTORS, _RELATIONAL, _COSINE_HEAD),
    _taught("relational_added", "relational in addition", _RELATIONAL),
    _taught(
        "projected_relational", "projected teacher: relational", _NO_DESCRIPTORS, _RELATIONAL, _OF_INDEX, teacher="projected"
    ),
    _taught("projected_head", "projected teacher: cosine, head", _NO_DESCRIPTORS, _COSINE_HEAD, _OF_INDEX, teacher="projected"),
    _taught(
        *("projected_both", "projected teacher: both"),
        *(_NO_DESCRIPTORS, _RELATIONAL, _COSINE_HEAD, _OF_INDEX),
        teacher="projected",
    ),
    _taught("metric_in_step", "MultiSimilarity in the same steps", _METRIC),
    _taught(
        *("kept_head", "projected teacher: both, head kept"),
        *(_NO_DESCRIPTORS, _RELATIONAL, _COSINE_HEAD, {"head_policy": "keep"}, _OF_INDEX),
        teacher="projected",
    ),
    _taught(
        *("matryoshka", "relational and MultiSimilarity at 64, 128, 256 and 512 numbers"),
        *(_NO_DESCRIPTORS, _RELATIONAL, _METRIC, {"head": "linear", "head_policy": "keep", "head_dim": PROJECTED_DIM}),
        {"matryoshka_dims": [64, 128, 256]},
    ),
)


# Rows on real photos, docs/real_photos.md: distilled from a frozen MobileNetV2 only.

REAL_STEPS = 256  # 24,576 photos
REAL_SEEDS = range(3)
REAL_OPTIONS: Options = {"learning_rate": LEARNING_RATES["distill"], "token_cosine_weight": 2.0, "mse_reduction": "sum"}


def _distilled(options: Options | None = None) -> tuple[Stage, ...]:
    return (Stage("distill", REAL_STEPS, REAL_OPTIONS | (options or {})),)


REAL_ROWS = (
    Row("teacher", "the teacher, frozen", ()),
    Row("full", "four taps, offsets, scales, fusion", _distilled()),
    Row("last_layer", "last layer instead of four taps", _distilled(), {"use_tap_layers": False}),
    Row("no_offsets", "offsets off", _distilled(), {"use_offsets": False}),
    Row("no_scales", "scales off", _distilled(), {"use_scales": False}),
    Row("no_fusion", "top-down fusion off", _distilled(), {"use_top_down_fusion": False}),
    Row("descriptors_only", "no token loss", _distilled({"token_cosine_weight": 0.0})),
)
