"""Turn weights of another code into a complete model folder of this package."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from d2vpr_hf import modeling
from d2vpr_hf.convert.layouts import Weights
from d2vpr_hf.convert.sources import CONFIGS, SOURCES, Source, Target
from d2vpr_hf.convert.weights_file import ConversionError, listing, read_weights
from d2vpr_hf.hub.model_cards import CardFacts, write_card
from d2vpr_hf.modeling import MODELS, D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_config, load_dinov2, own_fields
from d2vpr_hf.utils.atomic_files import copy_file, file_checksum, scratch_folder, set_usual_modes

_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# Our names of weights that a source may lack: transformers makes the mask token optional, and nothing uses it.
_MAY_LACK = ("embeddings.mask_token",)
# Our names of weights that a model may have no place for: the student takes the residual streams before the last LayerNorm.
_MAY_DROP = ("norm.weight", "norm.bias")
# fields of transformers' Dinov2Config that mean the same here
_SHARED_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "hidden_act", "use_swiglu_ffn", "qkv_bias"),
    *("layer_norm_eps", "layerscale_value", "initializer_range", "image_size", "patch_size", "num_channels"),
)
_SHAPE_FIELDS = (
    *("hidden_size", "num_hidden_layers", "image_size", "patch_size", "num_channels"),
    *("use_swiglu_ffn", "mlp_ratio"),
)
_STALE = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")  # weights, whole or in shards


@dataclass(frozen=True)
class Conversion:
    """A converted model, and facts about its weights.

    Attributes:
        model: The model, in eval mode.
        source: The row of the table of sources that the weights were recognised as.
        drawn: Our names of the weights that the source does not have and that were freshly drawn.
        assumed_heads: Attention heads of a block if the file does not state them and 64 channels a head were assumed; else
            `None`.
        dropped: The source's names of the weights that the model has no place for.
    """

    model: VPRPreTrainedModel
    source: Source
    drawn: list[str]
    dropped: list[str]
    assumed_heads: int | None


def convert_weights(
    source: str | Path,
    out: str | Path,
    *,
    target: Target | str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Conversion:
    """Convert weights to a complete model folder: weights, configuration, processor, code, model card.

    Args:
        source: A `.pth` or `.safetensors` file, whose kind is recognised by the names of its weights, or a folder or Hub id of
            a transformers `Dinov2Model`.
        out: The folder; missing or empty unless `overwrite` is set.
        target: The model that a DINOv2 becomes: `"student"` or `"cricavpr"`. Its other weights are freshly drawn. `None` for
            sources that are a complete model.
        changes: Fields of the configuration to set if the source is a DINOv2, such as `{"recovery_size": 1024}`.
        seed: Seed of the freshly drawn weights.
        overwrite: Whether files in `out` may be replaced. A model card that a person edited is not replaced.

    Raises:
        FileNotFoundError: If there is no such source.
        FileExistsError: If `out` is not free.
        ValueError: If `target` or `changes` do not fit the source.
        ConversionError: If the source cannot be read as weights alone, is of no known kind, or has weights missing, left
            over or mis-shaped.
    """
    out = Path(out)
    check_output(source, out, overwrite)
    conversion = load_converted(source, target=target, changes=changes, seed=seed)
    _write(conversion, out, source)
    return conversion


def check_output(source: str | Path, out: Path, overwrite: bool) -> None:
    """Raise FileExistsError unless a model folder may be written at `out`; see [`convert_weights`]."""
    if out.is_symlink() and not out.exists():
        raise FileExistsError(f"{out} is a link to a missing folder. Give another folder.")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file. Give a folder.")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one, or set `overwrite=True`.")
    if out.resolve() in (Path(source).resolve(), Path(source).resolve().parent):
        raise FileExistsError(f"{source} is in {out} and might be overwritten. Give another folder.")


def _write(conversion: Conversion, out: Path, source: str | Path) -> None:
    """Write a model folder to a scratch folder first, so that a failure changes nothing."""
    with scratch_folder(out) as scratch:
        folder = scratch / "model"
        try:
            conversion.model.save_pretrained(folder)
        except SafetensorError as error:
            raise OSError(f"{out} could not be written ({error}); nothing was changed.") from error
        D2VPRImageProcessor().save_pretrained(folder)
        if (out / "README.md").is_file():  # a card that a person wrote stays
            copy_file(out / "README.md", folder / "README.md")
        write_card(folder, conversion.model, _card_facts(conversion, source), origin=_origin(source))
        set_usual_modes(folder.iterdir())
        move_into(folder, out)


def move_into(folder: Path, out: Path) -> None:
    """Move files to their place, the configuration last; weights and code of another model there are removed."""
    out.mkdir(exist_ok=True)
    code = [path.name for path in Path(modeling.__file__).parent.glob("*.py")]
    for stale in [path for pattern in (*_STALE, *code) for path in out.glob(pattern)]:
        stale.unlink()
    for path in sorted(folder.rglob("*"), key=lambda path: path == folder / "config.json"):
        place = out / path.relative_to(folder)
        place.mkdir(exist_ok=True) if path.is_dir() else path.replace(place)


def load_converted(
    source: str | Path,
    *,
    target: Target | str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Conversion:
    """Turn weights into a model without writing it. Arguments and errors are those of [`convert_weights`]."""
    weights, config_fields = _read(source)
    names_of_rows = {row: row.our_names(weights) for row in SOURCES}
    row = max(SOURCES, key=lambda row: len(names_of_rows[row]))
    our_names = names_of_rows[row]
    if len(our_names) < len(weights) / 2:
        kinds = ", ".join(dict.fromkeys(row.name for row in SOURCES))
        raise ConversionError(
            f"{source} is not of a supported kind ({kinds}; give a model of this package as its folder). Its weights are: "
            f"{listing(sorted(weights))}."
        )
    pieces = {ours: weights[theirs] for theirs, ours in our_names.items()}
    fields = row.fields(pieces) | config_fields
    chosen = _choose_target(source, row, target)
    _check_changes(source, row, fields, changes or {})
    config = _make_config(chosen, fields | dict(changes or {}))
    with torch.device("meta"):  # checks the shapes before memory is reserved for a model of the size that the file claims
        dropped = _check_fit(source, weights, row, MODELS[type(config)](config).state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[type(config)](config)
    for name in dropped:
        del pieces[our_names[name]]
    drawn = model.load_state_dict(row.layout.put_together(pieces), strict=False).missing_keys
    heads_are_given = row.target is not None or "num_attention_heads" in {**config_fields, **(changes or {})}
    assumed_heads = None if heads_are_given else config.num_attention_heads
    return Conversion(model.eval(), row, [name for name in drawn if name not in _MAY_LACK], dropped, assumed_heads)


def _read(source: str | Path) -> tuple[Weights, dict[str, Any]]:
    """Read the weights of a file, or of a transformers model with the fields of its configuration."""
    path = Path(source)
    if path.is_file() or (path.suffix.lower() in _FILES and not path.is_dir()):
        return read_weights(path), {}
    if isinstance(load_config(source), VPRConfig):
        raise ValueError(
            f"{source} is a model of this package already. `convert_to_published` (`d2vpr convert --to published`) writes it "
            "for its authors' code."
        )
    model = load_dinov2(source)
    return model.state_dict(), _shared_fields(model.config)


def _shared_fields(config: Any) -> dict[str, Any]:
    """Return the fields that a transformers Dinov2Config shares with ours; it may give sizes for both axes."""
    values = {name: getattr(config, name) for name in _SHARED_FIELDS}
    sides = {name: value for name, value in values.items() if isinstance(value, list | tuple) and len(set(value)) == 1}
    return values | {name: value[0] for name, value in sides.items()}


def _choose_target(source: str | Path, row: Source, target: Target | str | None) -> Target:
    names = [str(name) for name in Target]
    if target is not None and target not in names:
        raise ValueError(f"`target` must be one of {', '.join(names)}, got {target!r}.")
    chosen = row.target or target
    if chosen is None:
        choices = " or ".join(f'`target="{name}"`' for name in names)
        raise ValueError(f"{source} is {row.name}: choose the model that it becomes, {choices}.")
    if target not in (None, chosen):
        raise ValueError(f"{source} is {row.name}, a whole {chosen}; it cannot become {target}. Omit `target`.")
    return Target(chosen)


def _check_changes(source: str | Path, row: Source, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raise if a change concerns a complete model, or a field that follows from the weights' shapes."""
    if row.target is not None and changes:
        raise ValueError(f"{source} is {row.name}, a complete model; {listing(list(changes))} cannot be set.")
    settled = [f"{name} ({fields[name]})" for name in changes if name in _SHAPE_FIELDS and name in fields]
    if settled:
        raise ValueError(f"The weights of {source} determine {listing(settled)}, which cannot be set.")


def _make_config(target: Target, values: dict[str, Any]) -> VPRConfig:
    config_class = CONFIGS[target]
    fields = own_fields(config_class)
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{config_class.__name__} has no field {listing(unknown)} to set. It has: {', '.join(fields)}.")
    return config_class(**values)


def _check_fit(source: str | Path, weights: Weights, row: Source, state: Weights) -> list[str]:
    """Raise unless the weights are those that the model takes from this kind; return names that it has no place for."""
    expected = row.to_theirs(state)
    may_drop = {*row.their_names(_MAY_DROP).values()} if row.target is None else set()
    dropped = sorted(({*weights} - {*expected}) & may_drop)
    expected |= {name: state["embeddings.cls_token"].flatten() for name in dropped}  # a norm: one number a channel
    missing = sorted({*expected} - {*weights} - {*row.their_names(_MAY_LACK).values()})
    left_over = sorted({*weights} - {*expected})
    problems = {"left over": left_over, "missing": missing} | _differences(weights, expected)
    lines = [f"  {kind} ({len(names)}): {listing(names)}" for kind, names in problems.items() if names]
    if any("register_tokens" in name for name in left_over):
        lines.append("  A DINOv2 with registers cannot become a student or a CricaVPR; `load_teacher` takes it as a teacher.")
    if lines:
        raise ConversionError("\n".join([f"{source} looks like {row.name}, but its weights do not fit:", *lines]))
    return dropped


def _differences(weights: Weights, expected: Weights) -> dict[str, list[str]]:
    """List the weights that have another shape or type than expected, or values that are not finite."""
    problems: dict[str, list[str]] = {"mis-shaped": [], "of another type": [], "not finite": []}
    for name in sorted({*weights} & {*expected}):
        weight, model_weight = weights[name], expected[name]
        if weight.shape != model_weight.shape:
            problems["mis-shaped"].append(f"{name} {tuple(weight.shape)}, expected {tuple(model_weight.shape)}")
        elif weight.is_floating_point() != model_weight.is_floating_point():
            problems["of another type"].append(name)
        elif not weight.to(model_weight.dtype).isfinite().all():
            problems["not finite"].append(name)
    return problems


def _card_facts(conversion: Conversion, source: str | Path) -> CardFacts:
    """Return the facts of a kind's card, with the Hub id of a DINOv2; Meta's DINOv2 models are Apache-2.0."""
    facts = conversion.source.card
    if conversion.source.target is not None or Path(source).exists():
        return facts
    if not str(source).startswith("facebook/dinov2-"):
        return replace(facts, base_model=str(source))
    note = "DINOv2's weights are Apache-2.0, and so is the code in this repository."
    return replace(facts, base_model=str(source), license="apache-2.0", license_note=note)


def _origin(source: str | Path) -> str:
    path = Path(source).resolve()
    if not path.is_file():
        return path.name if path.is_dir() else str(source)
    return f"{path.name} (SHA-256 {file_checksum(path)})"
