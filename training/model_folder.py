"""A trained model as a Hub folder: weights, image processor, card, and the report of its validation."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from d2vpr_hf.evaluation.report import without_folders
from d2vpr_hf.hub.model_cards import CardFacts, stated_base_model, write_card
from d2vpr_hf.hub.snapshots import find_dataset
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import fingerprint
from d2vpr_hf.training.options import DistillOptions, PretrainOptions, TrainingOptions, to_yaml
from d2vpr_hf.training.validation import Measurement
from d2vpr_hf.utils.atomic_files import WRITING_ERRORS, make_empty, replace_folder
from d2vpr_hf.utils.hub_ids import public_name

REPORT = "validation.json"
_PATH_OPTIONS = (  # options whose values may be paths, or lists of paths
    *("out", "model", "photos", "unlabelled", "panoramas", "validation_data"),
    *("validation_database", "validation_queries"),
    *("vit", "teacher", "teacher_cache", "teacher_components_of", "weights", "validation_sets", "gridtown_textures"),
)
_LICENSE_NOTE = (
    "Not chosen yet. Choose one that is compatible with the licences of the initial model, of the teacher and of the photos."
)


def write_model_folder(
    folder: Path,
    model: VPRPreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    processor: D2VPRImageProcessor,
    options: TrainingOptions,
    step: int,
    measurement: Measurement | None,
) -> None:
    """Write a model of a run as a Hub folder. An older model in the folder is replaced once all files are written.

    Args:
        folder: Folder to write.
        model: Model, whose configuration is written.
        weights: Complete state dict, which is written in place of the model's own.
        processor: Image processor of the model.
        options: Options of the run, which the card lists.
        step: Step of the run that the weights are from.
        measurement: Measurement of these weights, which the card and `validation.json` hold; `None` if they were not measured.

    Raises:
        OSError: If the folder cannot be written, for example on a full disk.
    """
    scratch = folder.with_name(f".{folder.name}.writing")
    evaluation = None if measurement is None or measurement.evaluation is None else without_folders(measurement.evaluation)
    try:
        make_empty(scratch)
        if model.config.compatible_with:
            model.config.own_fingerprint = fingerprint(model, processor, weights)
        model.save_pretrained(scratch, state_dict=dict(weights))
        processor.save_pretrained(scratch)
        if evaluation is not None:
            evaluation.save(scratch / REPORT)
        origin = _origin(options, step, measurement)
        if model.config.compatible_with and isinstance(options, DistillOptions):
            origin += f"; its queries can search maps of {public_name(options.teachers[0])}"
        write_card(scratch, model, _facts(options), origin=origin, measured=evaluation, recipe=_recipe(options))
        replace_folder(scratch, folder)
    except WRITING_ERRORS as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise OSError(
            f"The model {folder} could not be written: {error}. Free some disk space, then continue with `resume=True`."
        ) from error


def _recipe(options: TrainingOptions) -> str:
    """Return the options as YAML, without paths on this machine."""
    values = {name: getattr(options, name, None) for name in _PATH_OPTIONS}
    named = {name: _public_value(value) for name, value in values.items() if value}
    return to_yaml(options, **named)


def _public_value(value: str | list[str]) -> str | list[str]:
    """Return an option's value without paths: of names, of NAME=PATH,PATH, or of PATH=NUMBER."""
    if isinstance(value, list):
        return [str(_public_value(text)) for text in value]
    return re.sub(r"[^=,]+", lambda part: public_name(part[0]), value)


def _facts(options: TrainingOptions) -> CardFacts:
    datasets = {find_dataset(photos).get("dataset") for photos in options.sources}
    return CardFacts(
        summary=f"{_training_text(options)[0].upper()}{_training_text(options)[1:]} on {_photos_text(options)}.",
        license=None,
        license_note=_LICENSE_NOTE,
        training_data=_photos_text(options),
        base_model=stated_base_model(options.vit or options.model),
        datasets=tuple(sorted(dataset for dataset in datasets if dataset is not None)),
    )


def _training_text(options: TrainingOptions) -> str:
    """Return the kind of training, for the card."""
    if isinstance(options, DistillOptions):
        return f"distilled from {' and '.join(map(public_name, options.teachers))}"
    if isinstance(options, PretrainOptions):
        return "its ViT trained with a renderer's labels"
    return "trained with MultiSimilarity loss"


def _photos_text(options: TrainingOptions) -> str:
    """Return the photos that a model was trained on, for the card."""
    labelled = [_labelled_text(photos, options) for photos in options.labelled]
    unlabelled = [f"{public_name(folder)} (photos without labels)" for folder in options.unlabelled or ()]
    panoramas = [f"{public_name(folder)} (views into panoramas)" for folder in options.panoramas or ()]
    return ", ".join([*labelled, *unlabelled, *panoramas])


def _labelled_text(photos: str, options: TrainingOptions) -> str:
    if photos != "gridtown":
        return public_name(photos)
    seeds = ", ".join(map(str, options.gridtown_seeds))
    look = f"; {options.gridtown_wild:.0%} of the places with a random look" if options.gridtown_wild else ""
    textures = f", textures of {public_name(options.gridtown_textures)}" if options.gridtown_textures else ""
    return f"Gridtown (simulated photos; cities {seeds}, {options.gridtown_places} places each{look}{textures})"


def _origin(options: TrainingOptions, step: int, measurement: Measurement | None) -> str:
    """Return the initial model, the training, the step, the held-out loss and R@1 of other sets, for the card."""
    measured = {} if measurement is None else measurement.numbers
    shown = {name: value for name, value in measured.items() if name == "held_out_loss" or name.endswith("/recall@1")}
    numbers = "".join(f", {name.replace('held_out_loss', 'held-out-loss')} {value:.4g}" for name, value in shown.items())
    vit = "" if options.vit is None else f" with the ViT of {public_name(options.vit)}"
    return f"{public_name(options.model)}{vit}, {_training_text(options)}, step {step}{numbers}"
