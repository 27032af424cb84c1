"""A trained model as a Hub folder: weights, image processor, card, and the report of its validation."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.training.checkpoints import make_empty, replace_folder
from d2vpr_hf.training.options import DistillOptions, TrainingOptions, to_yaml

from d2vpr_hf.cards import CardFacts, write_card
from d2vpr_hf.evaluation import Evaluation

REPORT = "validation.json"
_PLACES = ("out", "model", "teacher", "photos", "validation_database", "validation_queries")  # options that may be paths
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
    evaluation: Evaluation | None,
) -> None:
    """Write a model of a run; what was in the folder is replaced when all is written.

    Args:
        folder: Where to.
        model: The model; its configuration is written, and `weights` in place of its own.
        weights: The whole state dict.
        processor: Of the model.
        options: Of the run; they go into the card.
        step: When the weights were like this.
        evaluation: Of these weights, if there is one; it goes into the card and beside it.
    """
    scratch = folder.with_name(f".{folder.name}.writing")
    make_empty(scratch)
    try:
        model.save_pretrained(scratch, state_dict=dict(weights))
        processor.save_pretrained(scratch)
        if evaluation is not None:
            evaluation.save(scratch / REPORT)
        write_card(scratch, model, _facts(options), origin=_origin(options, step), measured=evaluation, recipe=_recipe(options))
        replace_folder(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _recipe(options: TrainingOptions) -> str:
    """Write the options down without saying where on this machine anything lies."""
    places = {name: _public(getattr(options, name)) for name in _PLACES if getattr(options, name, None)}
    return to_yaml(replace(options, **places))


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
        return f"distilled from {_public(options.teacher)}"
    return "trained with MultiSimilarity loss"


def _photos(options: TrainingOptions) -> str:
    if options.photos != "gridtown":
        return _public(options.photos)
    seeds = ", ".join(map(str, options.gridtown_seeds))
    return f"Gridtown (simulated photos; cities {seeds}, {options.gridtown_places} places each)"


def _origin(options: TrainingOptions, step: int) -> str:
    return f"{_public(options.model)}, {_doing(options)}, step {step}"


def _public(name: str | None) -> str:
    """Name a model or a folder without saying where on this machine it lies."""
    path = Path(str(name))
    return path.name if path.exists() or path.is_absolute() else str(name)


__all__ = ["REPORT", "write_model_folder"]
