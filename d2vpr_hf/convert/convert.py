"""Turn weights of another code into a complete model folder of this package."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from d2vpr_hf import modeling
from d2vpr_hf.cards import CardFacts, write_card
from d2vpr_hf.convert.layouts import Weights
from d2vpr_hf.convert.sources import CONFIGS, SOURCES, Source, Target
from d2vpr_hf.convert.weights_file import ConversionError, listing, read_weights
from d2vpr_hf.modeling import MODELS, D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_config, load_dinov2, own_fields
from d2vpr_hf.utils.atomic_files import scratch_folder

_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# weights of ours that a source may lack (transformers makes this one optional, and nothing uses it), and weights of a source
# that a model may have no place for (the student takes the residual streams, before DINOv2's last LayerNorm)
_MAY_LACK = ("embeddings.mask_token",)
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
    """What became of a source.

    Attributes:
        model: The model, in eval mode.
        source: The row of the table of sources that the weights were recognised as.
        drawn: Our names of the weights that the source does not have and that were freshly drawn.
        assumed_heads: Attention heads of a block, where a bare file does not tell and 64 channels a head were assumed.
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
        target: What a DINOv2 becomes: `"student"` or `"cricavpr"`. The rest of the model is freshly drawn. `None` for sources
            that are a whole model.
        changes: Fields of the configuration to set where a DINOv2 is the start, such as `{"recovery_size": 1024}`.
        seed: Seed of what is freshly drawn.
        overwrite: Whether files in `out` may be replaced. A model card there is left alone.

    Raises:
        FileNotFoundError: If there is no such source.
        FileExistsError: If `out` is not free.
        ValueError: If `target` or `changes` do not go with the source.
        ConversionError: If the source cannot be read as weights alone, is of no known kind, or has weights missing, left
            over or mis-shaped.
    """
    out = Path(out)
    _check_free(source, out, overwrite)
    conversion = load_converted(source, target=target, changes=changes, seed=seed)
    _write(conversion, out, source)
    return conversion


def _check_free(source: str | Path, out: Path, overwrite: bool) -> None:
    if out.is_symlink() and not out.exists():
        raise FileExistsError(f"{out} is a link that leads nowhere. Give another folder.")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file. Give a folder.")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one, or `--overwrite`.")
    if out.resolve() in (Path(source).resolve(), Path(source).resolve().parent):
        raise FileExistsError(f"{source} lies in {out} and might be overwritten. Give another folder.")


def _write(conversion: Conversion, out: Path, source: str | Path) -> None:
    """Write a model folder beside its place first, so that what fails on the way changes nothing."""
    with scratch_folder(out) as scratch:
        folder = scratch / "model"
        try:
            conversion.model.save_pretrained(folder)
        except SafetensorError as error:
            raise OSError(f"{out} could not be written ({error}); nothing was changed.") from error
        D2VPRImageProcessor().save_pretrained(folder)
        if (out / "README.md").is_file():  # a card that a person wrote stays
            shutil.copy(out / "README.md", folder)
        write_card(folder, conversion.model, _card_facts(conversion, source), origin=_origin(source))
        _move_into(folder, out)


def _move_into(folder: Path, out: Path) -> None:
    """Move files to their place, the configuration last; weights and code of another model there go."""
    out.mkdir(exist_ok=True)
    code = [path.name for path in Path(modeling.__file__).parent.glob("*.py")]
    for stale in [path for pattern in (*_STALE, *code) for path in out.glob(pattern)]:
        stale.unlink()
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)


def load_converted(
    source: str | Path,
    *,
    target: Target | str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Conversion:
    """Turn weights into a model without writing it. Arguments and errors are those of [`convert_weights`]."""
    weights, config_fields = _read(source)
    row = max(SOURCES, key=lambda row: row.count_known(weights))
    if row.count_known(weights) < len(weights) / 2:
        kinds = ", ".join(dict.fromkeys(row.name for row in SOURCES))
        raise ConversionError(
            f"{source} is of no known kind ({kinds}; a model of this package is given as its folder). Its weights are: "
            f"{listing(sorted(weights))}."
        )
    told = row.fields(row.rename(weights)) | config_fields
    chosen = _choose_target(source, row, target)
    _check_changes(source, row, told, changes or {})
    config = _make_config(chosen, told | dict(changes or {}))
    with torch.device("meta"):  # shapes alone, before anything as large as the file says is made
        dropped = _check_fit(source, weights, row, MODELS[type(config)](config).state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[type(config)](config)
    state = row.to_ours({name: weight for name, weight in weights.items() if name not in dropped})
    drawn = model.load_state_dict(state, strict=False).missing_keys
    heads_are_told = row.target is not None or "num_attention_heads" in {**config_fields, **(changes or {})}
    assumed_heads = None if heads_are_told else config.num_attention_heads
    return Conversion(model.eval(), row, [name for name in drawn if name not in _MAY_LACK], dropped, assumed_heads)


def _read(source: str | Path) -> tuple[Weights, dict[str, Any]]:
    """Read the weights of a file, or of a transformers model with the fields of its configuration."""
    path = Path(source)
    if path.is_file() or (path.suffix.lower() in _FILES and not path.is_dir()):
        return read_weights(path), {}
    if isinstance(load_config(source), VPRConfig):
        raise ValueError(f"{source} is a model of this package already. `--to published` writes it for its authors' code.")
    model = load_dinov2(source)
    return model.state_dict(), _shared_fields(model.config)


def _shared_fields(config: Any) -> dict[str, Any]:
    """Take over from a transformers Dinov2Config what ours has too; sizes may be given for both axes there."""
    values = {name: getattr(config, name) for name in _SHARED_FIELDS}
    sides = {name: value for name, value in values.items() if isinstance(value, list | tuple) and len(set(value)) == 1}
    return values | {name: value[0] for name, value in sides.items()}


def _choose_target(source: str | Path, row: Source, target: Target | str | None) -> Target:
    names = [str(name) for name in Target]
    if target is not None and target not in names:
        raise ValueError(f"Weights become one of {', '.join(names)} (`--as`), got {target!r}.")
    chosen = row.target or target
    if chosen is None:
        raise ValueError(f"{source} is {row.name}: say what it shall become, `--as {'` or `--as '.join(names)}`.")
    if target not in (None, chosen):
        raise ValueError(f"{source} is {row.name}, a whole {chosen}; it cannot become {target}. Leave `--as` out.")
    return Target(chosen)


def _check_changes(source: str | Path, row: Source, told: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Refuse to set what a whole model has already, or what the weights' shapes tell."""
    if row.target is not None and changes:
        raise ValueError(
            f"{source} is {row.name}, a whole model, and is taken as it is; {listing(list(changes))} cannot be set."
        )
    settled = [f"{name} ({told[name]})" for name in changes if name in _SHAPE_FIELDS and name in told]
    if settled:
        raise ValueError(f"The weights of {source} tell {listing(settled)}; it cannot be set.")


def _make_config(target: Target, values: dict[str, Any]) -> VPRConfig:
    config_class = CONFIGS[target]
    known = own_fields(config_class)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{config_class.__name__} has no field {listing(unknown)} to set. It has: {', '.join(known)}.")
    return config_class(**values)


def _check_fit(source: str | Path, weights: Weights, row: Source, state: Weights) -> list[str]:
    """Raise unless the weights are those that the model takes from this kind; return those it has no place for."""
    expected = row.to_theirs(state)
    dropped = [name for name in sorted({*weights} - {*expected}) if row.target is None and _is_one_of(name, row, _MAY_DROP)]
    expected |= {name: state["embeddings.cls_token"].flatten() for name in dropped}  # a norm: one number a channel
    missing = [name for name in sorted({*expected} - {*weights}) if not _is_one_of(name, row, _MAY_LACK)]
    left_over = sorted({*weights} - {*expected})
    problems = {"left over": left_over, "missing": missing} | _differences(weights, expected)
    lines = [f"  {kind} ({len(found)}): {listing(found)}" for kind, found in problems.items() if found]
    if any("register_tokens" in name for name in left_over):
        lines.append("  A DINOv2 with registers is no start for a student or CricaVPR; `load_teacher` takes it as a teacher.")
    if lines:
        raise ConversionError("\n".join([f"{source} looks like {row.name}, but its weights do not fit:", *lines]))
    return dropped


def _differences(weights: Weights, expected: Weights) -> dict[str, list[str]]:
    """List what is there but not as it should be."""
    found: dict[str, list[str]] = {"mis-shaped": [], "of another type": [], "not finite": []}
    for name in sorted({*weights} & {*expected}):
        weight, right = weights[name], expected[name]
        if weight.shape != right.shape:
            found["mis-shaped"].append(f"{name} {tuple(weight.shape)}, expected {tuple(right.shape)}")
        elif weight.is_floating_point() != right.is_floating_point():
            found["of another type"].append(name)
        elif not weight.to(right.dtype).isfinite().all():
            found["not finite"].append(name)
    return found


def _is_one_of(name: str, row: Source, ours: tuple[str, ...]) -> bool:
    """Tell whether a weight of a source, under its name there, is one of ours."""
    return any(known in ours for known in row.rename({name: torch.empty(0)}))


def _card_facts(conversion: Conversion, source: str | Path) -> CardFacts:
    """Add to what a kind's card says the Hub id that a DINOv2 came from; Meta's own are Apache-2.0."""
    facts = conversion.source.card
    if conversion.source.target is not None or Path(source).exists():
        return facts
    if not str(source).startswith("facebook/dinov2-"):
        return replace(facts, base_model=str(source))
    note = "DINOv2's weights are Apache-2.0, and so is the code in this repository."
    return replace(facts, base_model=str(source), license="apache-2.0", license_name=None, license_note=note)


def _origin(source: str | Path) -> str:
    path = Path(source).resolve()
    if not path.is_file():
        return path.name if path.is_dir() else str(source)
    with path.open("rb") as file:
        return f"{path.name} (SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()})"
