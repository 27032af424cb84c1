"""A trained model as a Hub folder: weights, image processor, card, and the report of its validation."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf.cards import CardFacts, write_card
from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.training.options import DistillOptions, PretrainOptions, TrainingOptions, to_yaml
from d2vpr_hf.training.validation import Measured
from d2vpr_hf.utils.atomic_files import WRITING_ERRORS, make_empty, replace_folder

REPORT = "validation.json"
_PLACES = (  # options that may be paths
    *("out", "model", "photos", "validation_database", "validation_queries"),
    *("teacher", "teacher_cache"),
)
_LICENSE_NOTE = (
    "Not chosen yet. Choose one that those of the model that training started from, of the teacher and of the photos allow."
)


def write_model_folder(
    folder: Path,
    model: VPRPreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    processor: D2VPRImageProcessor,
    options: TrainingOptions,
    step: int,
    measured: Measured | None,
) -> None:
    """Write a model of a run; what was in the folder is replaced when all is written.

    Args:
        folder: Where to.
        model: The model; its configuration is written, and `weights` in place of its own.
        weights: The whole state dict.
        processor: Of the model.
        options: Of the run; they go into the card.
        step: When the weights were like this.
        measured: Of these weights, if they were; it goes into the card, and the evaluation beside it.

    Raises:
        OSError: If it cannot be written, as on a full disk.
    """
    scratch = folder.with_name(f".{folder.name}.writing")
    evaluation = None if measured is None or measured.evaluation is None else _without_folders(measured.evaluation)
    try:
        make_empty(scratch)
        model.save_pretrained(scratch, state_dict=dict(weights))
        processor.save_pretrained(scratch)
        if evaluation is not None:
            evaluation.save(scratch / REPORT)
        origin = _origin(options, step, measured)
        write_card(scratch, model, _facts(options), origin=origin, measured=evaluation, recipe=_recipe(options))
        replace_folder(scratch, folder)
    except WRITING_ERRORS as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise OSError(f"The model {folder} could not be written: {error}. Make room, then go on with --resume.") from error


def _without_folders(evaluation: Evaluation) -> Evaluation:
    """Name an evaluation's folders without saying where on this machine they lie."""
    database, query_set = ({**side, "path": public_name(side["path"])} for side in (evaluation.database, evaluation.query_set))
    return replace(evaluation, model=replace(evaluation.model, model_name="this model"), database=database, query_set=query_set)


def _recipe(options: TrainingOptions) -> str:
    """Write the options down without saying where on this machine anything lies."""
    named: dict[str, Any] = {name: public_name(getattr(options, name)) for name in _PLACES if getattr(options, name, None)}
    return to_yaml(replace(options, **named))


def _facts(options: TrainingOptions) -> CardFacts:
    return CardFacts(
        summary=f"{_doing(options)[0].upper()}{_doing(options)[1:]} on {_photos(options)}.",
        license=None,
        license_note=_LICENSE_NOTE,
        training_data=_photos(options),
        base_model=None,
    )


def _doing(options: TrainingOptions) -> str:
    if isinstance(options, DistillOptions):
        return f"distilled from {public_name(options.teacher)}"
    if isinstance(options, PretrainOptions):
        return "its ViT trained with a renderer's labels"
    return "trained with MultiSimilarity loss"


def _photos(options: TrainingOptions) -> str:
    if options.photos != "gridtown":
        return public_name(options.photos)
    seeds = ", ".join(map(str, options.gridtown_seeds))
    return f"Gridtown (simulated photos; cities {seeds}, {options.gridtown_places} places each)"


def _origin(options: TrainingOptions, step: int, measured: Measured | None) -> str:
    losses = {} if measured is None else {name: value for name, value in measured.numbers.items() if "loss" in name}
    numbers = "".join(f", {name.replace('_', '-')} {value:.4g}" for name, value in losses.items())
    return f"{public_name(options.model)}, {_doing(options)}, step {step}{numbers}"


def public_name(name: str) -> str:
    """Name a model or a folder without saying where on this machine it lies."""
    path = Path(name)
    return path.name if path.exists() or path.is_absolute() else name
