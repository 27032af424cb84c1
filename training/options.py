"""The options of a training run: one dataclass for each stage, filled from a YAML file and from flags that override it."""

import difflib
import logging
from argparse import ArgumentDefaultsHelpFormatter
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, cast

import yaml
from transformers import HfArgumentParser

from d2vpr_hf.gridtown import TRAIN_SEEDS, Wildness
from d2vpr_hf.training.batch_norm import BatchNormPolicy
from d2vpr_hf.training.option_values import ValidationSet, WeightSchedule, parse_size, parse_validation_sets, parse_weights
from d2vpr_hf.utils.bounded_files import parse_yaml

BatchKind = Literal["published", "city-wise", "mixed"]
Schedule = Literal["constant", "published", "cosine", "linear", "steps"]
AugmentationKind = Literal["randaugment", "photometric"]
BestMetric = Literal["recall@1", "recall@5", "recall@10", "mean_recall@1", "held_out_loss"]

LOSS_WEIGHTS = (  # options of distillation that are schedules of weights
    *("descriptor_weight", "descriptor_cosine_weight", "relational_weight"),
    *("token_mse_weight", "token_cosine_weight", "metric_weight"),
)

CONFIGS = Path(__file__).parent / "configs"
_MODEL_OPTIONS = ("model", "teacher")
_VALIDATION_OPTIONS = ("validation_data", "validation_database", "validation_sets", "held_out_places")

logger = logging.getLogger(__name__)


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingOptions:
    """Options that all stages share. The defaults are those of the published recipe where it has one."""

    out: str = _option("", "Folder of the run; it is created if missing. Required.")
    resume: bool = _option(False, "Continue from the newest checkpoint in `out`, if there is one.")
    seed: int = _option(0, "Random seed for weights, order of places, choice of photos, augmentation and dropout; at least 0.")

    model: str = _option(
        "",
        "Model to train: a folder or a Hub id; `embedded`, the model in this package; or a configuration file (.json), from "
        "which a model with random weights is made. Required.",
    )
    vit: str | None = _option(
        None,
        "Model whose ViT a model made from a configuration starts with: a folder, a Hub id, or `embedded`. It may have fewer "
        "blocks: the others change nothing at first.",
    )
    frozen: list[str] | None = _option(
        None, "Parameters that are not trained, as patterns of their names, such as 'encoder.layers.[0-7].*'."
    )
    batch_norm: BatchNormPolicy = _option(
        "published",
        "Statistics of BatchNorm. published: each process normalises by its own share of the batch, and running statistics are "
        "updated in frozen blocks too; frozen: running statistics are used and not updated; synchronised: as published, but "
        "over the batch of all processes.",
    )

    precise_batch_norm: int = _option(
        0,
        "Number of batches of places of all cities, without augmentation, that the statistics of BatchNorm are measured on "
        "before each validation and before a model is saved; 0 takes the moving averages of training.",
    )

    photos: list[str] | str = _option(
        "",
        "Photos of known places to train on: one or more of a folder in the layout of GSV-Cities, a table with place ids (made "
        "by `d2vpr places`), and `gridtown`, whose photos are rendered during training. Required, unless there are "
        "`unlabelled` photos or `panoramas`.",
    )
    unlabelled: list[str] | None = _option(
        None, "Folders of photos without labels: each photo is a place, and the photos of the place are random crops of it."
    )
    panoramas: list[str] | None = _option(
        None,
        "Folders of equirectangular panoramas: each panorama has a few places, its directions, and the photos of a place are "
        "random views in its direction.",
    )
    weights: list[str] | None = _option(
        None,
        "Shares of the sources, as SOURCE=WEIGHT above 0, for example gridtown=3; by default 1 each. They are shares of every "
        "batch, in which every source has at least one place, or with `batch_sources: one` of the batches.",
    )
    batch_sources: Literal["all", "one"] = _option(
        "all",
        "Sources of the places of a batch, if there are several. all: every batch has a share of each, by `weights`; one: each "
        "batch comes from one source, which is drawn from seed and step by `weights`.",
    )
    cities: list[str] | None = _option(None, "Cities of a GSV-Cities folder to train on; by default all.")
    gridtown_seeds: list[int] = _option([1, 2, 3, 4], "Seeds of the cities of Gridtown, each from 1 to 8000.")
    gridtown_places: int = _option(200, "Number of places in each city of Gridtown; at least 1.")
    gridtown_visits: int = _option(16, "Number of photos of each view of a place of Gridtown; at least `images_per_place`.")
    gridtown_tier: Literal["easy", "standard", "all"] = _option(
        "all", "Difficulty of Gridtown: how much the photos of a place differ."
    )
    gridtown_wild: float = _option(0.0, "Share of Gridtown's places whose photos have a random look, from 0 to 1.")
    gridtown_textures: str | None = _option(
        None, "Folder of photos that cover walls and ground of the places of `gridtown_wild`; by default these are drawn."
    )
    places_per_batch: int = _option(
        8,
        "P: number of places in a batch, over all processes and micro-batches; a multiple of processes times "
        "`gradient_accumulation_steps`.",
    )
    images_per_place: int = _option(
        4, "K: number of photos of each place in a batch; at least 2. Places with fewer photos are not trained on."
    )
    batches: BatchKind = _option(
        "published",
        "Places that form a batch. published: one city after another, places shuffled within each; city-wise: every batch from "
        "one city (or group of `d2vpr places`), batches in random order; mixed: places of all cities shuffled.",
    )
    redraw_order: bool = _option(True, "Draw a new order of places for every epoch.")
    image_size: list[int] = _option(
        [224, 224], "Height and width of training photos in pixels, multiples of the model's patch size."
    )
    image_sizes: list[str] | None = _option(
        None,
        "Sizes of training photos, of which one is drawn for each batch from seed and step: sides of squares such as 224, or "
        "heights and widths such as 224x280, multiples of the patch size. Validation and the saved model keep `image_size`. By "
        "default `image_size` alone.",
    )
    resize: Literal["bilinear", "bicubic"] = _option(
        "bilinear", "Interpolation that resizes photos, in training, in validation and in the model that is saved."
    )
    augmentation: AugmentationKind = _option(
        "randaugment",
        "Augmentation after resizing. randaugment: operations that change colours or move the photo's contents, as published; "
        "photometric: strong changes of colours, light and sharpness that move nothing.",
    )
    augment_operations: int = _option(3, "RandAugment: number of operations for each photo; 0 switches it off.")
    augment_magnitude: int = _option(9, "Strength of the augmentation, from 0 to 30; 0 switches photometric augmentation off.")
    crop_places: bool = _option(False, "Take random crops of photos of known places too; by default they are whole.")
    crop_scale: list[float] = _option([0.35, 1.0], "Smallest and largest share of a photo's area that a crop has.")
    crop_ratio: list[float] = _option(
        [0.75, 1.33], "Smallest and largest stretch of crops and views: their width to height as a multiple of the photo's."
    )
    flip: float = _option(0.5, "Probability that all crops or views of a place are mirrored, from 0 to 1.")
    crops_per_photo: int = _option(
        0,
        "Number of epochs after which crops and views repeat, so that `teacher_cache` can be used again; 0 draws new ones in "
        "each epoch.",
    )
    view_fov: list[float] = _option(
        [55.0, 85.0], "Smallest and largest horizontal field of view of views into panoramas, in degrees below 150."
    )
    view_pitch: list[float] = _option(
        [-10.0, 10.0], "Lowest and highest direction of these views, in degrees above the horizon."
    )
    view_turn: float = _option(12.0, "Largest angle between a view and the direction of its place, in degrees.")
    num_workers: int = _option(
        2, "Number of processes that load photos, for each training process; 0 loads in the training process."
    )

    epochs: int = _option(20, "Number of epochs; at least 1. `max_steps` may end the run earlier.")
    max_steps: int | None = _option(None, "Number of steps after which the run ends; by default `epochs` decides.")
    optimizer: Literal["adam", "adamw"] = _option("adam", "Optimizer: adam without weight decay, or adamw.")
    learning_rate: float = _option(
        2.5e-5, "Largest learning rate; the published schedule multiplies it by a factor far below 1."
    )
    learning_rate_factors: list[str] | None = _option(
        None,
        "Factors on the learning rate of some parameters, as PATTERN=FACTOR above 0, for example 'aggregator.sampler.*=0.1'. "
        "The first pattern that matches a parameter's name counts.",
    )
    weight_decay: float = _option(0.0, "Weight decay of adamw; at least 0.")
    schedule: Schedule = _option(
        "constant",
        "Learning rate over steps. constant; published: learning_rate * step / (3900 * steps per epoch), as in the published "
        "second stage; cosine: a linear increase over `warmup_steps`, then half a cosine down to 0 at the last step; linear: "
        "the same increase, then constant; steps: the same increase, and `milestone_factor` at each of `milestones`.",
    )
    warmup_steps: int = _option(0, "Number of steps over which the learning rate increases linearly, where it does.")
    milestones: list[int] | None = _option(
        None, "Epochs after which the schedule `steps` multiplies the learning rate by `milestone_factor`, such as 10 20 30."
    )
    milestone_factor: float = _option(0.1, "Factor on the learning rate at each milestone, above 0.")
    ema_decay: float | None = _option(
        None,
        "Decay of a moving average of the weights, such as 0.999, below 1 and above 0: the average is validated and saved. By "
        "default the weights themselves are.",
    )
    max_grad_norm: float | None = _option(
        None, "Largest norm of the gradients, above 0; larger gradients are scaled down to it. By default they are not."
    )

    mixed_precision: Literal["no", "bf16", "fp16"] = _option(
        "no", "Data type that the network computes in; no: float32. Weights stay float32."
    )
    gradient_accumulation_steps: int = _option(
        1,
        "Number of micro-batches that each process's share of a batch is divided into to save memory; at least 1. The batch "
        "stays the same.",
    )
    gradient_checkpointing: bool = _option(
        False, "Save memory: compute the activations inside the blocks again in the backward pass instead of storing them."
    )
    compile: bool = _option(False, "Compile the network with torch.compile.")

    validation_data: str | None = _option(
        None,
        "Data set that validation measures: its folder, in a form that public scripts write (docs/evaluation.md). If it has "
        "several query sets, recall@N is that of the first.",
    )
    validation_layout: str | None = _option(None, "Name of the layout of `validation_data`; by default it is recognised.")
    validation_database: str | None = _option(
        None, "Photos with positions that validation searches in; or `gridtown`, which has queries too."
    )
    validation_queries: str | None = _option(None, "Photos with positions that validation searches for.")
    validation_sets: list[str] | None = _option(
        None,
        "More sets that each validation measures, as NAME=ROOT for a data set like `validation_data`, or as "
        "NAME=DATABASE,QUERIES; optionally with the largest difference of frames or distance of a correct match: "
        "NAME=DATABASE,QUERIES,frames:2 or ,metres:10; or with the layout of a data set: NAME=ROOT,layout:LAYOUT.",
    )
    validation_places: int = _option(
        100, "Number of places in the validation city, if `validation_database` is `gridtown`; at least 1."
    )
    held_out_places: int = _option(
        0, "Number of places that are not trained on but validate the loss; a multiple of `places_per_batch`."
    )
    validate_every: int = _option(
        500, "Number of steps between validations; at least 1. There is also one before the first and after the last step."
    )
    validate_every_epochs: int | None = _option(
        None, "Number of epochs between validations, in place of `validate_every`; at least 1."
    )
    best_metric: BestMetric | None = _option(
        None,
        "Metric that the best model is chosen by; by default recall@1; without `validation_data` and `validation_database`, "
        "mean_recall@1, the mean over all sets; without `validation_sets` too, held_out_loss.",
    )
    patience: int | None = _option(
        None,
        "Number of validations in a row without an improvement after which the run ends; at least 1. By default it does not.",
    )

    checkpoint_every: int = _option(500, "Number of steps between checkpoints, from which a run can resume; at least 1.")
    keep_checkpoints: int = _option(2, "Number of newest checkpoints to keep; at least 1.")
    log_every: int = _option(10, "Number of steps between lines of the log; at least 1.")
    trackers: list[str] | None = _option(
        None, "Experiment trackers that also receive the log's numbers: tensorboard, wandb, trackio."
    )
    project: str = _option("d2vpr", "Name of the project in the trackers.")
    push_to_hub: str | None = _option(None, "Hub id, such as user/model, to which the best model is uploaded at the end.")
    private: bool = _option(False, "Make the Hub repository private.")

    def __post_init__(self) -> None:
        if not self.photos or len(self.labelled) == 1:
            self.photos = "".join(self.labelled)  # one source is a plain text, also in the files of a run
        missing = [name for name in self._required if not getattr(self, name)]
        if missing:
            raise ValueError(f"Missing: {', '.join(missing)}. Set them in the YAML file or by flags (--{missing[0]} ...).")
        _check_numbers(self)
        _check_ranges(self)
        _check_gridtown(self)
        self._check_weights_and_rate()
        self._check_sources()
        self._check_validation()

    @property
    def _required(self) -> tuple[str, ...]:
        return ("out", "model") if self.unlabelled or self.panoramas else ("out", "model", "photos")

    @property
    def has_unused_parameters(self) -> bool:
        """Whether some parameters may get no gradient from the loss, which distributed training must know."""
        return False

    @property
    def has_clean_view(self) -> bool:
        """Whether batches hold the photos without augmentation too, for a teacher."""
        return False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of training photos in pixels."""
        height, width = self.image_size
        return height, width

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of which one is drawn for each batch."""
        return [self.size] if self.image_sizes is None else [parse_size(size) for size in self.image_sizes]

    @property
    def labelled(self) -> list[str]:
        """Sources of photos of known places: the values of `photos`."""
        if isinstance(self.photos, list):
            return self.photos
        return [self.photos] if self.photos else []

    @property
    def sources(self) -> list[str]:
        """All sources of photos: known places, then photos without labels, then panoramas."""
        return [*self.labelled, *(self.unlabelled or ()), *(self.panoramas or ())]

    @property
    def source_weights(self) -> list[float]:
        """Weight of each source of `sources`."""
        return parse_weights(self.weights or (), self.sources)

    @property
    def other_sets(self) -> list[ValidationSet]:
        """The sets of `validation_sets`."""
        return parse_validation_sets(self.validation_sets or ())

    @property
    def chosen_by(self) -> BestMetric | None:
        """Metric that the best model is chosen by; `None` without validation."""
        if self.best_metric is not None:
            return self.best_metric
        if self.validation_database is not None or self.validation_data is not None:
            return "recall@1"
        if self.validation_sets:
            return "mean_recall@1"
        return "held_out_loss" if self.held_out_places else None

    def _check_weights_and_rate(self) -> None:
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is a number between 0 and 1, such as 0.999, got {self.ema_decay}.")
        if self.precise_batch_norm and self.batch_norm == "frozen":
            raise ValueError(
                "precise_batch_norm measures statistics that `batch_norm: frozen` keeps. Set precise_batch_norm to 0, or "
                "another batch_norm."
            )
        if self.precise_batch_norm and self.compile:
            raise ValueError(
                "precise_batch_norm reads the inputs of BatchNorms, which a compiled network does not show. Set compile to "
                "false, or precise_batch_norm to 0."
            )
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError("milestones belong to `schedule: steps`, which needs at least one. Set both, or neither.")
        if self.milestones and (min(self.milestones) < 1 or self.milestone_factor <= 0):
            raise ValueError(
                f"milestones are epochs of at least 1 and milestone_factor is above 0, got {self.milestones} and "
                f"{self.milestone_factor}."
            )

    def _check_sources(self) -> None:
        paths = [PurePath(source) for source in self.sources]
        twice = [source for source, path in zip(self.sources, paths, strict=True) if paths.count(path) > 1]
        if twice:
            raise ValueError(
                f"{twice[0]} is given twice among photos, unlabelled and panoramas: its photos would be wrong negatives of "
                "each other. Give it once, with a larger weight."
            )
        if self.batch_sources == "all" and len(self.source_weights) > self.places_per_batch:
            raise ValueError(
                f"A batch of {self.places_per_batch} places cannot hold at least one of each of {len(self.sources)} sources. "
                "Raise places_per_batch, remove sources, or set `batch_sources: one`."
            )
        if self.batch_sources == "one" and 0 < self.held_out_places < self.places_per_batch * len(self.sources):
            raise ValueError(
                "With `batch_sources: one` each source has held-out batches of its own: set held_out_places to at least "
                f"places_per_batch times the number of sources, {self.places_per_batch * len(self.sources)}, or to 0; got "
                f"{self.held_out_places}."
            )
        _ = self.sizes  # raises an error now

    def _check_validation(self) -> None:
        if (self.validation_queries is None) != (self.validation_database in (None, "gridtown")):
            raise ValueError(
                "validation_database and validation_queries belong together; `validation_database: gridtown` has its own "
                "queries."
            )
        if self.validation_data is not None and self.validation_database is not None:
            raise ValueError("validation_data has database and queries: remove validation_database and validation_queries.")
        if self.validation_layout is not None and self.validation_data is None:
            raise ValueError("validation_layout is that of validation_data: set it, or remove validation_layout.")
        _ = self.other_sets  # raises an error now, not at the first validation
        if self.patience is not None and self.chosen_by is None:
            raise ValueError(
                "patience needs validations: set validation_data, held_out_places, validation_sets, or validation_database and "
                "its queries."
            )
        if self.best_metric is None:
            return
        has_main_set = self.validation_data is not None or self.validation_database is not None
        measured = {
            "held_out_loss": (bool(self.held_out_places), "held_out_places"),
            "mean_recall@1": (bool(self.validation_sets) or self.validation_data is not None, "validation_sets"),
        }
        is_measured, remedy = measured.get(
            self.best_metric, (has_main_set, "validation_data, or validation_database and its queries")
        )
        if not is_measured:
            raise ValueError(f"{self.best_metric} is not measured: set {remedy}.")


@dataclass
class MetricOptions:
    """Options of the MultiSimilarity loss."""

    ms_alpha: float = _option(1.0, "MultiSimilarity loss: factor in the exponents of positive pairs, above 0.")
    ms_beta: float = _option(50.0, "MultiSimilarity loss: factor in the exponents of negative pairs, above 0.")
    ms_base: float = _option(0.0, "MultiSimilarity loss: cosine similarity that is subtracted from that of each pair.")
    miner_epsilon: float = _option(
        0.1, "MultiSimilarity miner: margin of cosine similarity within which a pair is hard enough to learn from."
    )


@dataclass
class DistillOptions(MetricOptions, TrainingOptions):
    """Stage 1: a student learns its teacher's descriptors."""

    teacher: list[str] | str = _option(
        "",
        "Teacher: folder or Hub id of any model that `d2vpr index --model` takes: of this package, such as a converted "
        "CricaVPR, a vision model of transformers, such as a DINOv2, or a graph. Each term of the loss is averaged over "
        "several teachers. Required.",
    )
    teacher_descriptor: Literal["auto", "regions", "encoder"] = _option(
        "auto",
        "Descriptors to learn. regions: those of the published regions, before any projection; encoder: those that an index of "
        "the teacher holds; auto: the latter for graphs and models with a card, the former for others.",
    )
    head: Literal["none", "linear"] = _option(
        "none",
        "Map from the student's descriptors to the teacher's. none: they have the same width; linear: a linear map, trained "
        "with the student.",
    )
    head_policy: Literal["drop", "keep"] = _option(
        "drop",
        "Saved model. drop: without the head, its own descriptors; keep: the head is its projection, so that its descriptors "
        "have the teacher's width and are compared with the teacher's.",
    )
    teacher_taps: list[str] | None = _option(
        None,
        "Parts of a vision model of transformers whose tokens or maps are learned: numbers of hidden states, or names of "
        "modules, such as layer.12.expand_1x1. By default its output.",
    )
    teacher_image_size: list[int] | None = _option(
        None,
        "Height and width in pixels of the teacher's images. By default those in its preprocessing, or the student's if the "
        "teacher is a model of this package, or a DINOv2 without taps.",
    )
    teacher_components: list[str] | None = _option(
        None,
        "Number of principal components that the teacher's tokens are projected to, so that a wide teacher fits the student. "
        "With several taps it is divided evenly, or given as TAP=N for each of them. By default tokens are not projected.",
    )
    teacher_whitening: float = _option(
        0.5,
        "Whitening of the components, from 0 to 1: each is divided by its variance to the power of half this number; 1 gives "
        "all components the same variance.",
    )
    teacher_fit_images: int = _option(
        2048, "Least number of photos, over all processes, that the components are fitted to before the first step."
    )
    teacher_components_of: str | None = _option(
        None,
        "Folder of a run whose principal components the tokens are projected to, in place of new ones: a later stage then has "
        "the same targets.",
    )
    teacher_view: Literal["augmented", "clean"] = _option(
        "augmented",
        "Photos that the teacher sees. augmented: exactly the student's pixels, as published; clean: the same crops without "
        "augmentation, in the teacher's own size, which needs `augmentation: photometric`.",
    )
    teacher_groups: Literal["places", "shuffled", "off"] = _option(
        "places",
        "Photos that a teacher with a cross-image encoder sees together. places: those of neighbouring places, as published; "
        "shuffled: photos drawn from the process's whole share of the batch; off: each photo alone.",
    )
    teacher_group_places: int = _option(
        8, "Number of places in a group of the teacher, each with `images_per_place` photos; at least 1."
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "Data type of the teacher's weights. auto: bfloat16 (or float16) on a GPU, float32 elsewhere."
    )
    teacher_cache: str | None = _option(
        None,
        "Folder that stores the teacher's targets, for later epochs and other runs in which the teacher sees the same pixels.",
    )
    head_dim: int | None = _option(
        None,
        "Width of the head, at least 1. By default that of the teacher, which descriptor_weight and descriptor_cosine_weight "
        "need.",
    )
    matryoshka_dims: list[int] | None = _option(
        None,
        "Widths, such as 64 128 256 512: the first numbers of the kept head's descriptors are trained as descriptors too, by "
        "relational_weight and metric_weight, whose terms are averaged over all widths.",
    )
    descriptor_weight: str = _option(
        "1.0",
        "Weight of the descriptors' mean squared error, which is the published loss; at least 0. Each weight of a loss is a "
        "number, or piecewise linear over steps: '0:1.0 2000:0.2'.",
    )
    descriptor_cosine_weight: str = _option("0.0", "Weight of the descriptors' cosine distance; at least 0.")
    relational_weight: str = _option(
        "0.0",
        "Weight of the mean squared difference of the cosine similarities of all photos of the batch, over all processes; at "
        "least 0. It needs no equal width.",
    )
    token_mse_weight: str = _option("0.0", "Weight of the tokens' mean squared error; at least 0.")
    token_cosine_weight: str = _option("0.0", "Weight of the tokens' cosine distance; at least 0.")
    cross_image_encoder: Literal["keep", "add", "remove"] = _option(
        "remove",
        "Cross-image encoder of the student. remove: it encodes each photo alone; add: give it one with random weights; keep: "
        "the model stays as loaded. With one, a photo's descriptor depends on its batch.",
    )
    mse_reduction: Literal["mean", "sum"] = _option(
        "mean", "Reduction of the squared errors of a vector: mean, as published (gradients are near 1e-7), or sum."
    )
    metric_weight: str = _option(
        "0.0", "Weight of the MultiSimilarity loss of the student's descriptors, by the places of the batch; at least 0."
    )

    def __post_init__(self) -> None:
        for name in LOSS_WEIGHTS:  # a constant weight is a number, also in the files of a run
            setattr(self, name, WeightSchedule.parse(getattr(self, name), name).option)
        if len(self.teachers) == 1:
            self.teacher = self.teachers[0]
        super().__post_init__()
        self._check_head()
        self._check_teachers()
        if self.teacher_view == "clean" and self.augmentation == "randaugment" and self.augment_operations:
            raise ValueError(
                "`teacher_view: clean` needs an augmentation that moves nothing, because the teacher's tokens belong to "
                f"positions in the photo. Set `augmentation: photometric`, or augment_operations: 0; got {self.augmentation}."
            )
        joint = [name for name in ("metric_weight", "relational_weight") if not self.weight(name).is_zero]
        if joint and self.gradient_accumulation_steps > 1:
            raise ValueError(
                f"{' and '.join(joint)} needs the descriptors of the whole batch at once: gradient_accumulation_steps must be "
                f"1, got {self.gradient_accumulation_steps}. gradient_checkpointing saves memory too."
            )
        if self.teacher_components and self.teacher_components_of:
            raise ValueError("`teacher_components_of` takes the components of another run: remove `teacher_components`.")
        if self.teacher_image_size is not None and len(self.teacher_image_size) != 2:
            raise ValueError(f"teacher_image_size is height and width, got {self.teacher_image_size}.")
        if not 0 <= self.teacher_whitening <= 1:
            raise ValueError(f"Expected a number from 0 to 1, got teacher_whitening={self.teacher_whitening}.")

    def _check_head(self) -> None:
        if self.head_dim is not None and (self.head == "none" or self.compares_descriptors):
            raise ValueError(
                "head_dim is the width of a head that no descriptor of the teacher is compared with: set `head: linear`, and "
                "descriptor_weight and descriptor_cosine_weight to 0; or leave head_dim out."
            )
        if self.matryoshka_dims:
            is_trained = not (self.weight("relational_weight").is_zero and self.weight("metric_weight").is_zero)
            if self.head_policy != "keep" or not is_trained or min(self.matryoshka_dims) < 1:
                raise ValueError(
                    "matryoshka_dims are widths of at least 1 of a head that is kept, trained by relational_weight or "
                    f"metric_weight: set `head: linear`, `head_policy: keep` and one of these; got {self.matryoshka_dims}."
                )
        if self.head == "none":
            if self.head_policy == "keep":
                raise ValueError("`head_policy: keep` keeps a head: set `head: linear`.")
            return
        if self.head_policy == "keep" and len(self.teachers) > 1:
            raise ValueError(
                f"{len(self.teachers)} teachers have a head each, and a model has one projection. Set `head_policy: drop`, or "
                "give one teacher."
            )
        if self.head_policy == "drop" and not self.compares_descriptors:
            raise ValueError("No loss trains the head: set descriptor_weight or descriptor_cosine_weight, or `head: none`.")

    def _check_teachers(self) -> None:
        names = ("teacher_taps", "teacher_components", "teacher_components_of", "teacher_image_size")
        given = [name for name in names if getattr(self, name)]
        if len(self.teachers) > 1 and given:
            raise ValueError(f"{', '.join(given)} belong to one teacher, got {len(self.teachers)}. Leave them out.")
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"A teacher is given twice: {', '.join(self.teachers)}. Give each once.")

    def weight(self, name: str) -> WeightSchedule:
        """Return the schedule of one of `LOSS_WEIGHTS`."""
        return WeightSchedule.parse(getattr(self, name), name)

    @property
    def teachers(self) -> list[str]:
        """The teachers."""
        if isinstance(self.teacher, list):
            return self.teacher
        return [self.teacher] if self.teacher else []

    @property
    def compares_descriptors(self) -> bool:
        """Whether a loss compares the student's descriptors with the teacher's number by number."""
        return not (self.weight("descriptor_weight").is_zero and self.weight("descriptor_cosine_weight").is_zero)

    @property
    def compares_tokens(self) -> bool:
        """Whether a loss compares tokens."""
        return not (self.weight("token_mse_weight").is_zero and self.weight("token_cosine_weight").is_zero)

    @property
    def _required(self) -> tuple[str, ...]:
        return (*super()._required, "teacher")

    @property
    def taps(self) -> list[int | str]:
        """The taps of the teacher, numbers as such; empty for its output."""
        return [int(tap) if tap.lstrip("-").isdecimal() else tap for tap in self.teacher_taps or ()]

    @property
    def teacher_size(self) -> tuple[int, int] | None:
        """Height and width of the teacher's images; `None` if they are not set."""
        return None if self.teacher_image_size is None else (self.teacher_image_size[0], self.teacher_image_size[1])

    @property
    def has_clean_view(self) -> bool:
        """Whether the teacher sees photos without augmentation."""
        return self.teacher_view == "clean"

    @property
    def has_unused_parameters(self) -> bool:
        """Whether only tokens are learned, so that the aggregator has no gradient."""
        names = ("descriptor_weight", "descriptor_cosine_weight", "relational_weight", "metric_weight")
        return all(self.weight(name).is_zero for name in names)


def _option_with_default(name: str, default: Any) -> Any:
    """Make an option with another default than that of the same option of `TrainingOptions`."""
    return _option(default, TrainingOptions.__dataclass_fields__[name].metadata["help"])


@dataclass
class FinetuneOptions(MetricOptions, TrainingOptions):
    """Stage 2: a model learns similar descriptors for photos of the same place only. It also trains teachers."""

    places_per_batch: int = _option_with_default("places_per_batch", 128)
    resize: Literal["bilinear", "bicubic"] = _option_with_default("resize", "bicubic")
    augment_magnitude: int = _option_with_default("augment_magnitude", 15)
    epochs: int = _option_with_default("epochs", 120)
    optimizer: Literal["adam", "adamw"] = _option_with_default("optimizer", "adamw")
    learning_rate: float = _option_with_default("learning_rate", 2e-4)
    weight_decay: float = _option_with_default("weight_decay", 1e-3)
    schedule: Schedule = _option_with_default("schedule", "published")

    cross_image_encoder: Literal["keep", "add", "remove"] = _option(
        "keep", "Cross-image encoder. keep: the model stays as loaded; add: give it one with random weights; remove: remove it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.gradient_accumulation_steps > 1:
            raise ValueError(
                "compile and gradient_accumulation_steps > 1 cannot be combined: a compiled network that is computed twice "
                "updates BatchNorm's statistics twice. Take one of them, or gradient_checkpointing, which saves memory too."
            )


@dataclass
class PretrainOptions(TrainingOptions):
    """Stage 0, for models from scratch: a ViT learns to see Gridtown's streets by the renderer's labels."""

    augment_operations: int = _option(0, "Must be 0: RandAugment would move the photo's contents away from its labels.")
    building_size: int = _option(64, "Width of the vectors that distinguish buildings; at least 1.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sources != self.labelled[:1] or self.crop_places or self.augmentation != "randaugment":
            raise ValueError(
                "Pretraining takes one folder of photos with labels, whole and without augmentation; got the sources "
                f"{', '.join(self.sources)}, crop_places={self.crop_places}, augmentation={self.augmentation}."
            )
        if self.image_sizes is not None:
            raise ValueError(f"Labels belong to the patches of one size: remove image_sizes, got {self.image_sizes}.")
        if self.photos == "gridtown" or self.augment_operations or self.gradient_accumulation_steps > 1:
            raise ValueError(
                "Pretraining takes photos with labels from disk (`d2vpr simulate --layout gsv-cities --label-cells`), without "
                "augmentation (augment_operations: 0) and without micro-batches (gradient_accumulation_steps: 1); got "
                f"photos={self.photos}, augment_operations={self.augment_operations}, "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}."
            )

    @property
    def has_unused_parameters(self) -> bool:
        """Always true, because the modules after the ViT get no gradient."""
        return True


Options = TypeVar("Options", bound=TrainingOptions)


def parse_options(kind: type[Options], arguments: Sequence[str]) -> Options:
    """Read options from a command line: optionally a YAML file or the name of a recipe first, then flags.

    Args:
        kind: Options class of the stage.
        arguments: For example `["finetune_gsv_cities", "--photos", "gsv-cities", "--learning-rate", "1e-4"]`.

    Raises:
        ValueError: If an option is missing, unknown or out of range.
        FileNotFoundError: If the YAML file does not exist.
        SystemExit: From argparse, if a flag is unknown or its value has the wrong type.
    """
    parser = HfArgumentParser(cast(Any, kind), description=kind.__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    recipes = [] if not arguments or arguments[0].startswith("-") else [arguments[0]]
    _refuse_twice(arguments[len(recipes) :])
    recipe_flags = [flag for name in recipes for flag in _recipe_flags(kind, _find_recipe(name))]
    recipe_flags = _without_missing_validation(recipe_flags, arguments[len(recipes) :])
    flags = [_expand_home(text) for text in (*recipe_flags, *arguments[len(recipes) :])]
    (options,) = parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
    return options


def _without_missing_validation(recipe_flags: list[str], arguments: Sequence[str]) -> list[str]:
    """Return a recipe's flags without `best_metric` and `patience` if neither it nor the command line names a validation."""
    names = [flag.removeprefix("--").partition("=")[0].replace("-", "_") for flag in (*recipe_flags, *arguments)]
    if any(name in _VALIDATION_OPTIONS for name in names):
        return recipe_flags
    other_flags = [flag for flag in recipe_flags if not flag.startswith(("--best_metric=", "--patience="))]
    if len(other_flags) < len(recipe_flags):
        logger.warning("Nothing is validated: the recipe chooses no best model and never ends early. Set validation_data.")
    return other_flags


def _expand_home(text: str) -> str:
    """Replace `~` at the beginning of an option's value by the home folder; shells do so behind a blank only."""
    flag, separator, value = text.partition("=") if text.startswith("--") else ("", "", text)
    return f"{flag}{separator}{Path(value).expanduser()}" if value.startswith("~/") else text


def _refuse_twice(arguments: Sequence[str]) -> None:
    """Raise ValueError if a flag is given twice: argparse would use the last value."""
    flags = [argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    twice = [flag for flag, count in Counter(flags).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} is given twice. Give it once; a list takes all its values after one flag.")


def _find_recipe(name: str) -> Path:
    path = Path(name)
    packaged = CONFIGS / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    if packaged.is_file():
        return packaged
    recipes = ", ".join(sorted(recipe.stem for recipe in CONFIGS.glob("*.yaml")))
    raise FileNotFoundError(f"{name} is neither a YAML file nor a recipe of this package: {recipes}.")


def _recipe_flags(kind: type[TrainingOptions], recipe: Path) -> Iterator[str]:
    """Translate a YAML file into flags, so that the same rules read both."""
    names = [option.name for option in fields(kind)]
    for name, value in _read_recipe(recipe).items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{recipe}: unknown option {name}.{hint} `--help` lists all options.")
        if value == []:
            raise ValueError(f"{recipe}: {name} is empty. Remove the line, or list at least one value.")
        if isinstance(value, list):
            yield from [f"--{name}", *map(str, value)]
        elif value is not None:
            text = str(value)
            packaged = recipe.parent / text  # a recipe names the configuration in its own folder
            is_configuration = name in _MODEL_OPTIONS and text.endswith(".json") and packaged.is_file()
            yield f"--{name}={packaged if is_configuration else text}"


def _read_recipe(recipe: Path) -> dict[Any, Any]:
    try:
        values = parse_yaml(recipe.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise ValueError(f"{recipe} is not a YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{recipe} must hold options such as `learning_rate: 1e-4`, one on each line.")
    return values


_AT_LEAST = {
    1: (
        *("gridtown_places", "gridtown_visits", "places_per_batch", "epochs", "max_steps", "gradient_accumulation_steps"),
        *("validation_places", "validate_every", "patience", "checkpoint_every", "keep_checkpoints", "log_every"),
        *("teacher_group_places", "teacher_fit_images", "building_size", "head_dim", "validate_every_epochs"),
    ),
    0: (
        *("held_out_places", "num_workers", "warmup_steps", "learning_rate", "weight_decay", "seed"),
        *("crops_per_photo", "view_turn", "precise_batch_norm"),
    ),
}


def _check_numbers(options: TrainingOptions) -> None:
    for least, names in _AT_LEAST.items():
        values = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
        too_low = [f"{name}={value}" for name, value in values.items() if value < least]
        if too_low:
            raise ValueError(f"Expected at least {least}, got {', '.join(too_low)}.")
    for name in ("max_grad_norm", "ms_alpha", "ms_beta"):
        if getattr(options, name, None) is not None and getattr(options, name) <= 0:
            raise ValueError(f"Expected a number above 0, got {name}={getattr(options, name)}.")
    if options.images_per_place < 2:
        raise ValueError(
            f"A place needs at least 2 photos to be distinguished from others, got images_per_place={options.images_per_place}."
        )
    if len(options.image_size) != 2:
        raise ValueError(f"image_size is height and width, got {options.image_size}.")


_RANGES = {  # of options with a smallest and a largest value
    "crop_scale": (0.01, 1.0),
    "crop_ratio": (0.1, 10.0),
    "view_fov": (1.0, 150.0),
    "view_pitch": (-90.0, 90.0),
}


def _check_ranges(options: TrainingOptions) -> None:
    for name, (least, most) in _RANGES.items():
        values = getattr(options, name)
        if len(values) != 2 or not least <= values[0] <= values[1] <= most:
            raise ValueError(f"{name} is a smallest and a largest value from {least:g} to {most:g}, got {values}.")
    if not 0 <= options.flip <= 1:
        raise ValueError(f"flip is a probability from 0 to 1, got {options.flip}.")
    if 2 * options.view_turn >= options.view_fov[0]:
        raise ValueError(
            f"Two views of a place that turn by up to {options.view_turn:g} degrees each may have nothing in common with a "
            f"field of view of {options.view_fov[0]:g} degrees. Lower view_turn, or raise the smallest view_fov."
        )


def _check_gridtown(options: TrainingOptions) -> None:
    if "gridtown" not in options.labelled:
        return
    seeds = options.gridtown_seeds
    if len(set(seeds)) < len(seeds) or not all(seed in TRAIN_SEEDS for seed in seeds):
        raise ValueError(
            f"gridtown_seeds must be different training cities, from {min(TRAIN_SEEDS)} to {max(TRAIN_SEEDS)}, got {seeds}."
        )
    if options.gridtown_visits < options.images_per_place:
        raise ValueError(
            f"A batch takes {options.images_per_place} photos of a place, but a view of Gridtown has "
            f"{options.gridtown_visits}. Raise gridtown_visits."
        )
    try:
        Wildness(options.gridtown_wild, options.gridtown_textures)
    except ValueError as error:
        raise ValueError(
            f"gridtown_wild: {options.gridtown_wild}, gridtown_textures: {options.gridtown_textures}. {error}"
        ) from error


def to_yaml(options: TrainingOptions, **changes: Any) -> str:
    """Write options, possibly with other values of some, as a YAML file that `parse_options` reads back to equal options."""
    return yaml.safe_dump({**asdict(options), **changes}, sort_keys=False, allow_unicode=True)


_MAY_CHANGE = {  # options that a resumed run may change without becoming a different run
    *("out", "resume", "num_workers", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every", "patience"),
    *("max_steps", "epochs", "trackers", "project", "push_to_hub", "private", "teacher_cache", "validate_every_epochs"),
}


def _defaults(options: TrainingOptions) -> dict[str, Any]:
    """Return the default of each option, which counts for options that are newer than a run."""
    return {
        option.name: option.default_factory() if option.default_factory is not MISSING else option.default
        for option in fields(options)
    }


def check_resumable(stored: str, options: TrainingOptions, folder: Path) -> None:
    """Check that a run can resume with these options, without becoming a different run.

    Args:
        stored: Options that the run began with, as [`to_yaml`] wrote them.
        options: Options of the resumed run.
        folder: Folder of the run.

    Raises:
        ValueError: If options differ that must be equal; the message lists them.
    """
    before, now = {**_defaults(options), **parse_yaml(stored)}, asdict(options)
    for name in LOSS_WEIGHTS:  # defaults are texts, as the command line gives them
        if name in before:
            before[name] = WeightSchedule.parse(before[name], name).option
    names = [name for name in now if name not in _MAY_CHANGE and before.get(name) != now[name]]
    if names:
        changes = ", ".join(f"{name} ({before.get(name)} then, {now[name]} now)" for name in names)
        raise ValueError(
            f"The run in {folder} had other options: {changes}. Resume with the same options, or begin a new run from its "
            f"model: `model={folder / 'last'}` or `model={folder / 'best'}`."
        )
