"""Turn weights of another code into a complete model folder of this package."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2vpr_hf.cards import CardFacts, write_card
from d2vpr_hf.convert.layouts import Weights
from d2vpr_hf.convert.sources import CONFIGS, SOURCES, Source, Target
from d2vpr_hf.convert.weights_file import ConversionError, listing, read_weights
from d2vpr_hf.loading import load_config, load_dinov2
from d2vpr_hf.modeling import MODELS, D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel

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
_DINOV2_IDS = {384: "facebook/dinov2-small", 768: "facebook/dinov2-base", 1024: "facebook/dinov2-large"}
_DINOV2_IDS[1536] = "facebook/dinov2-giant"


@dataclass(frozen=True)
class Conversion:
    """What became of a source.

    Attributes:
        model: The model, in eval mode.
        source: The row of the table of sources that the weights were recognised as.
        drawn: Our names of the weights that the source does not have and that were freshly drawn.
        dropped: The source's names of the weights that the model has no place for.
    """

    model: VPRPreTrainedModel
    source: Source
    drawn: list[str]
    dropped: list[str]


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
        changes: Fields of the configuration to set, such as `{"recovery_size": 1024}`.
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
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one, or `--overwrite`.")
    if out.resolve() in (Path(source).resolve(), Path(source).resolve().parent):
        raise FileExistsError(f"{source} lies in {out} and might be overwritten. Give another folder.")
    conversion = load_converted(source, target=target, changes=changes, seed=seed)
    conversion.model.save_pretrained(out)
    D2VPRImageProcessor().save_pretrained(out)
    write_card(out, conversion.model, _card_facts(conversion), origin=_origin(source))
    return conversion


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
        raise ConversionError(f"{source} is of no known kind ({kinds}). Its weights are: {listing(sorted(weights))}.")
    values = row.fields(row.rename(weights)) | config_fields | dict(changes or {})
    config = _make_config(_choose_target(source, row, target), values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[type(config)](config)
    dropped = _check_fit(source, weights, row, model.state_dict())
    state = row.to_ours({name: weight for name, weight in weights.items() if name not in dropped})
    drawn = model.load_state_dict(state, strict=False).missing_keys
    return Conversion(model.eval(), row, [name for name in drawn if name not in _MAY_LACK], dropped)


def _read(source: str | Path) -> tuple[Weights, dict[str, Any]]:
    """Read the weights of a file, or of a transformers model with the fields of its configuration."""
    path = Path(source)
    if path.is_file() or path.suffix.lower() in _FILES:
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


def _make_config(target: Target, values: dict[str, Any]) -> VPRConfig:
    config_class = CONFIGS[target]
    unknown = sorted(set(values) - {field.name for field in fields(config_class)})
    if unknown:
        raise ValueError(f"{config_class.__name__} has no field {', '.join(unknown)}.")
    return config_class(**values)


def _check_fit(source: str | Path, weights: Weights, row: Source, state: Weights) -> list[str]:
    """Raise unless the weights are those that the model takes from this kind; return those it has no place for."""
    expected = row.to_theirs(state)
    left_over = sorted({*weights} - {*expected})
    dropped = [name for name in left_over if row.target is None and _is_one_of(name, row, _MAY_DROP)]
    shared = sorted({*weights} & {*expected})
    problems = {
        "left over": [name for name in left_over if name not in dropped],
        "missing": [name for name in sorted({*expected} - {*weights}) if not _is_one_of(name, row, _MAY_LACK)],
        "mis-shaped": [
            _shapes(name, weights[name], expected[name]) for name in shared if weights[name].shape != expected[name].shape
        ],
        "of another type": [name for name in shared if weights[name].is_floating_point() != expected[name].is_floating_point()],
        "not finite": [name for name in shared if not weights[name].isfinite().all()],
    }
    lines = [f"  {kind} ({len(found)}): {listing(found)}" for kind, found in problems.items() if found]
    if lines:
        raise ConversionError("\n".join([f"{source} looks like {row.name}, but its weights do not fit:", *lines]))
    return dropped


def _is_one_of(name: str, row: Source, ours: tuple[str, ...]) -> bool:
    """Tell whether a weight of a source, under its name there, is one of ours."""
    return any(known in ours for known in row.rename({name: torch.empty(0)}))


def _shapes(name: str, found: Tensor, expected: Tensor) -> str:
    return f"{name} {tuple(found.shape)}, expected {tuple(expected.shape)}"


def _card_facts(conversion: Conversion) -> CardFacts:
    facts = conversion.source.card
    if conversion.source.target is not None:
        return facts
    return replace(facts, base_model=_DINOV2_IDS.get(conversion.model.config.hidden_size))


def _origin(source: str | Path) -> str:
    path = Path(source)
    if not path.is_file():
        return path.name if path.is_dir() else str(source)
    with path.open("rb") as file:
        return f"{path.name} (SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()})"


__all__ = ["Conversion", "convert_weights", "load_converted"]
