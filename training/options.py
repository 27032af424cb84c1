"""What can be set in a training run: one dataclass for each stage, filled from a YAML file and flags that override it."""

import difflib
from argparse import ArgumentDefaultsHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml
from transformers import HfArgumentParser

from d2vpr_hf.gridtown import TRAIN_SEEDS
from d2vpr_hf.training.batch_norm import BatchNormPolicy

BatchKind = Literal["published", "city-wise", "mixed"]

CONFIGS = Path(__file__).parent / "configs"
Schedule = Literal["constant", "published", "cosine"]
BestMetric = Literal["recall@1", "recall@5", "recall@10", "held_out_loss"]
_MODEL_OPTIONS = ("model", "teacher")


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingOptions:
    """What both stages have in common. The defaults are the published recipe's where it has one."""

    out: str = _option("", "Folder of the run; made if missing. Required.")
    resume: bool = _option(False, "Go on from the newest checkpoint in `out`, if there is one.")
    seed: int = _option(0, "What weights, order, choice of photos, augmentation and dropout are drawn from.")

    model: str = _option(
        "", "Model to train: folder or Hub id; or a configuration (.json) that a fresh one is made of. Required."
    )
    frozen: list[str] | None = _option(
        None, "Parameters that are not trained, by patterns of their names, such as 'encoder.layers.[0-7].*'."
    )
    batch_norm: BatchNormPolicy = _option(
        "published",
        "published: each process normalises by its own batch, and running statistics move in frozen blocks too; frozen: "
        "running statistics are used and stay; synchronised: as published, over the batch of all processes.",
    )

    photos: str = _option(
        "",
        "What to train on: a folder as GSV-Cities has it, a table with place ids (`d2vpr places`), or `gridtown`, rendered on "
        "the fly. Required.",
    )
    cities: list[str] | None = _option(None, "Of a GSV-Cities folder, the cities to take; all if left out.")
    gridtown_seeds: list[int] = _option([1, 2, 3, 4], "Cities of Gridtown, by their seeds.")
    gridtown_places: int = _option(200, "Places of each city of Gridtown.")
    gridtown_visits: int = _option(16, "Photos of each view of a place of Gridtown.")
    gridtown_tier: Literal["easy", "standard", "all"] = _option("all", "How photos of a place of Gridtown differ.")
    places_per_batch: int = _option(8, "P: places in a batch, over all processes and accumulation steps.")
    images_per_place: int = _option(4, "K: photos of each. Places with fewer are dropped.")
    batches: BatchKind = _option(
        "published",
        "published: city after city, places shuffled within each; city-wise: every batch from one city (or group of "
        "`d2vpr places`), in random order; mixed: all places shuffled.",
    )
    redraw_order: bool = _option(True, "Whether every epoch has its own order of places.")
    image_size: list[int] = _option([224, 224], "Height and width in pixels, multiples of the patch size.")
    resize: Literal["bilinear", "bicubic"] = _option("bilinear", "How photos are resized for training.")
    augment_operations: int = _option(3, "RandAugment: operations for each photo; 0 switches it off.")
    augment_magnitude: int = _option(9, "RandAugment: how strong they are, from 0 to 30.")
    num_workers: int = _option(2, "Processes that load photos, for each training process.")

    epochs: int = _option(20, "How often each place is seen; fewer with `max_steps`.")
    max_steps: int | None = _option(None, "Stop after so many steps.")
    optimizer: Literal["adam", "adamw"] = _option("adam", "adam, or adamw with `weight_decay`.")
    learning_rate: float = _option(2.5e-5, "Largest learning rate; of the published schedule, see there.")
    learning_rate_factors: list[str] | None = _option(
        None,
        "Parameters that are trained faster or slower than the rest, as PATTERN=FACTOR, 'aggregator.sampler.*=0.1' say; the "
        "first pattern that fits a name counts.",
    )
    weight_decay: float = _option(0.0, "Of adamw.")
    schedule: Schedule = _option(
        "constant",
        "constant; published: learning_rate * step / (3900 * steps per epoch), the second stage's; cosine: linear warm-up over "
        "`warmup_steps`, then down to 0 at the last step.",
    )
    warmup_steps: int = _option(0, "Of the cosine schedule.")
    max_grad_norm: float | None = _option(None, "Gradients are scaled down to this norm where theirs is larger.")

    mixed_precision: Literal["no", "bf16", "fp16"] = _option("no", "What the network computes in; weights stay float32.")
    gradient_accumulation_steps: int = _option(
        1, "Parts that each process's share of a batch goes through the network in, to save memory. The batch stays the same."
    )
    gradient_checkpointing: bool = _option(False, "Keep no activations inside the blocks; compute them again.")
    compile: bool = _option(False, "Compile the network (torch.compile).")

    validation_database: str | None = _option(None, "Photos with positions that are searched to validate; or `gridtown`.")
    validation_queries: str | None = _option(None, "Photos with positions that are looked for; none for `gridtown`.")
    validation_places: int = _option(100, "Places of Gridtown's validation city, if `validation_database` is `gridtown`.")
    held_out_places: int = _option(0, "Places of the training set that are only used to watch the loss.")
    validate_every: int = _option(500, "Steps between validations. There is one before the first step and after the last too.")
    best_metric: BestMetric | None = _option(
        None, "What the best model is chosen by; recall@1 if left out, or the held-out loss where there is nothing to search."
    )
    patience: int | None = _option(None, "Stop after so many validations in a row without a better one.")

    checkpoint_every: int = _option(500, "Steps between checkpoints to resume from.")
    keep_checkpoints: int = _option(2, "How many of them stay.")
    log_every: int = _option(10, "Steps between lines of progress.")
    trackers: list[str] | None = _option(None, "Where numbers are sent as well: tensorboard, wandb, trackio.")
    project: str = _option("d2vpr", "Name of the project there.")
    push_to_hub: str | None = _option(None, "Hub id that the best model is uploaded to at the end, such as user/model.")
    private: bool = _option(False, "Whether that repository is private.")

    def __post_init__(self) -> None:
        missing = [name for name in self._required if not getattr(self, name)]
        if missing:
            raise ValueError(f"Missing: {', '.join(missing)}. Say them in the YAML file or by flags (--{missing[0]} ...).")
        _check_numbers(self)
        _check_gridtown(self)
        self._check_validation()

    @property
    def _required(self) -> tuple[str, ...]:
        return ("out", "model", "photos")

    @property
    def leaves_parts_idle(self) -> bool:
        """Whether the loss may leave parameters without a gradient, which several processes must know."""
        return False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image_size
        return height, width

    @property
    def chosen_by(self) -> BestMetric | None:
        """What the best model is chosen by; `None` without validation."""
        if self.validation_database is not None:
            return self.best_metric or "recall@1"
        return "held_out_loss" if self.held_out_places else None

    def _check_validation(self) -> None:
        if (self.validation_queries is None) != (self.validation_database in (None, "gridtown")):
            raise ValueError(
                "validation_database and validation_queries belong together; `validation_database: gridtown` brings its own."
            )
        if self.patience is not None and self.chosen_by is None:
            raise ValueError("patience waits for validations; set held_out_places, or validation_database and its queries.")
        if self.best_metric is None:
            return
        given = self.held_out_places if self.best_metric == "held_out_loss" else self.validation_database
        if not given:
            raise ValueError(f"Nothing gives {self.best_metric}: set held_out_places, or validation_database and its queries.")


@dataclass
class DistillOptions(TrainingOptions):
    """Stage 1: a student learns its teacher's descriptors."""

    teacher: str = _option(
        "", "Folder or Hub id of the teacher: a model of this package, such as a converted CricaVPR, or any DINOv2. Required."
    )
    teacher_groups: Literal["places", "shuffled", "off"] = _option(
        "places",
        "What a teacher's cross-image encoder sees together: places: neighbouring places, as published; shuffled: photos drawn "
        "from the process's whole share; off: every photo alone.",
    )
    teacher_group_places: int = _option(8, "How many places' photos (times K) a group of the teacher has.")
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "Type of the teacher's weights; auto: bfloat16 where a GPU has it, else float32."
    )
    teacher_cache: str | None = _option(
        None, "Folder that keeps the teacher's targets for other runs with the same photos, sizes, augmentation and seed."
    )
    descriptor_weight: float = _option(1.0, "Weight of the mean squared error of descriptors, the published loss.")
    token_mse_weight: float = _option(0.0, "Weight of the mean squared error of tokens.")
    token_cosine_weight: float = _option(0.0, "Weight of the tokens' cosine distance.")
    mse_reduction: Literal["mean", "sum"] = _option(
        "mean", "Squared errors of a vector are averaged (published: gradients near 1e-7), or added up."
    )

    @property
    def _required(self) -> tuple[str, ...]:
        return (*super()._required, "teacher")

    @property
    def leaves_parts_idle(self) -> bool:
        """Whether only tokens are learned: the aggregator then has no gradient."""
        return not self.descriptor_weight


@dataclass
class FinetuneOptions(TrainingOptions):
    """Stage 2: descriptors of one place come together, of different places apart. It also trains teachers."""

    places_per_batch: int = _option(128, "P: places in a batch, over all processes and accumulation steps.")
    resize: Literal["bilinear", "bicubic"] = _option("bicubic", "How photos are resized for training.")
    augment_magnitude: int = _option(15, "RandAugment: how strong its operations are, from 0 to 30.")
    epochs: int = _option(120, "How often each place is seen; fewer with `max_steps`.")
    optimizer: Literal["adam", "adamw"] = _option("adamw", "adam, or adamw with `weight_decay`.")
    learning_rate: float = _option(2e-4, "Largest learning rate; of the published schedule, see there.")
    weight_decay: float = _option(1e-3, "Of adamw.")
    schedule: Schedule = _option("published", TrainingOptions.__dataclass_fields__["schedule"].metadata["help"])

    cross_image_encoder: Literal["keep", "add", "remove"] = _option(
        "keep", "keep: as the model has it; add: a fresh one, if it has none; remove: none."
    )
    ms_alpha: float = _option(1.0, "MultiSimilarity loss: weight of positive pairs' exponents.")
    ms_beta: float = _option(50.0, "MultiSimilarity loss: weight of negative pairs' exponents.")
    ms_base: float = _option(0.0, "MultiSimilarity loss: similarity that both are counted from.")
    miner_epsilon: float = _option(0.1, "MultiSimilarity miner: margin within which a pair is hard enough.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.gradient_accumulation_steps > 1:
            raise ValueError(
                "A compiled network cannot be computed twice without moving BatchNorm's statistics twice: take compile or "
                "gradient_accumulation_steps, not both. gradient_checkpointing saves memory too."
            )


@dataclass
class PretrainOptions(TrainingOptions):
    """Stage 0, for models from scratch: a ViT learns to see Gridtown's streets by the renderer's labels."""

    augment_operations: int = _option(0, "Must be 0: RandAugment moves what labels say.")
    building_size: int = _option(64, "Width of the vectors that buildings are told apart by.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.photos == "gridtown" or self.augment_operations or self.gradient_accumulation_steps > 1:
            raise ValueError(
                "Pretraining takes photos with labels from disk (`d2vpr simulate --layout gsv-cities --label-cells`), as they "
                "are (augment_operations: 0), a batch at a time (gradient_accumulation_steps: 1); got "
                f"{self.photos}, {self.augment_operations}, {self.gradient_accumulation_steps}."
            )

    @property
    def leaves_parts_idle(self) -> bool:
        """Yes: what comes after the ViT."""
        return True


Options = TypeVar("Options", bound=TrainingOptions)


def parse_options(kind: type[Options], arguments: Sequence[str]) -> Options:
    """Read options from a command line: first, optionally, a YAML file or the name of a recipe, then flags.

    Args:
        kind: Which stage's.
        arguments: As `["finetune_gsv_cities", "--photos", "gsv-cities", "--learning-rate", "1e-4"]`.

    Raises:
        ValueError: If something is missing, unknown or impossible.
        FileNotFoundError: If there is no such YAML file.
        SystemExit: From argparse, if a flag is unknown or its value is of another kind.
    """
    parser = HfArgumentParser(cast(Any, kind), description=kind.__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    named = [] if not arguments or arguments[0].startswith("-") else [arguments[0]]
    recipe = [flag for name in named for flag in _recipe_flags(kind, _find_recipe(name))]
    (options,) = parser.parse_args_into_dataclasses([*recipe, *arguments[len(named) :]], look_for_args_file=False)
    return options


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
    """Turn a YAML file into the flags that say the same, so that both are read by the same rules."""
    try:
        values = yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{recipe} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{recipe} must hold options, as `learning_rate: 1e-4`, one a line.")
    _refuse_unknown(recipe, values, [known.name for known in fields(kind)])
    for name, value in values.items():
        if value is not None:
            yield from _flags(name, value) if isinstance(value, list) else [f"--{name}={_beside(recipe, name, str(value))}"]


def _flags(name: str, items: list[Any]) -> list[str]:
    if not items:
        raise ValueError(f"{name} is empty. Leave it out, or name something.")
    return [f"--{name}", *map(str, items)]


def _refuse_unknown(recipe: Path, values: dict[str, Any], known: list[str]) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{recipe}: there is no option {name}.{hint} `--help` lists them.")


def _beside(recipe: Path, name: str, value: str) -> str:
    """Find a configuration that a recipe names where the recipe lies, unless it lies in the current folder."""
    beside = recipe.parent / value
    return str(beside) if name in _MODEL_OPTIONS and value.endswith(".json") and beside.is_file() else value


_AT_LEAST = {
    1: (
        *("gridtown_places", "gridtown_visits", "places_per_batch", "epochs", "max_steps", "gradient_accumulation_steps"),
        *("validation_places", "validate_every", "patience", "checkpoint_every", "keep_checkpoints", "log_every"),
        *("teacher_group_places", "building_size"),
    ),
    0: ("held_out_places", "num_workers", "warmup_steps", "learning_rate", "weight_decay", "seed"),
}


def _check_numbers(options: TrainingOptions) -> None:
    for least, names in _AT_LEAST.items():
        given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
        low = [f"{name}={value}" for name, value in given.items() if value < least]
        if low:
            raise ValueError(f"Expected at least {least}, got {', '.join(low)}.")
    for name in ("max_grad_norm", "ms_alpha", "ms_beta"):
        if getattr(options, name, None) is not None and getattr(options, name) <= 0:
            raise ValueError(f"Expected a number above 0, got {name}={getattr(options, name)}.")
    if options.images_per_place < 2:
        raise ValueError(f"A place needs at least 2 photos to be told from others, got {options.images_per_place=}.")
    if len(options.image_size) != 2:
        raise ValueError(f"image_size is height and width, got {options.image_size}.")


def _check_gridtown(options: TrainingOptions) -> None:
    if options.photos != "gridtown":
        return
    seeds, low, high = options.gridtown_seeds, min(TRAIN_SEEDS), max(TRAIN_SEEDS)
    if len(set(seeds)) < len(seeds) or not all(seed in TRAIN_SEEDS for seed in seeds):
        raise ValueError(f"gridtown_seeds must be different cities to train on, from {low} to {high}, got {seeds}.")
    if options.gridtown_visits < options.images_per_place:
        raise ValueError(
            f"A batch takes {options.images_per_place} photos of a place, but a view of Gridtown has "
            f"{options.gridtown_visits}. Raise gridtown_visits."
        )


def to_yaml(options: TrainingOptions) -> str:
    """Write options as a YAML file that gives them again."""
    return yaml.safe_dump(asdict(options), sort_keys=False, allow_unicode=True)


_MAY_CHANGE = {  # between a run's parts, without making another run of it
    *("out", "resume", "num_workers", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every", "patience"),
    *("max_steps", "epochs", "trackers", "project", "push_to_hub", "private", "teacher_cache"),
}


def check_resumable(stored: str, options: TrainingOptions, folder: Path) -> None:
    """Refuse to go on with a run under options that would make another of it.

    Args:
        stored: Options that the run began with, as [`to_yaml`] wrote them.
        options: Those to go on with.
        folder: Of the run.

    Raises:
        ValueError: If they differ where they must not; the message says where.
    """
    before, now = yaml.safe_load(stored), asdict(options)
    names = [name for name in now if name not in _MAY_CHANGE and before.get(name) != now[name]]
    if names:
        changes = ", ".join(f"{name} ({before.get(name)} then, {now[name]} now)" for name in names)
        raise ValueError(
            f"The run in {folder} had other options: {changes}. Resume with the same, or begin a new run from its model: "
            f"--model {folder / 'last'} or {folder / 'best'}."
        )
