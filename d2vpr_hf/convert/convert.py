"""Read weights of another code, recognise them, and write a complete model folder."""

import hashlib
import pickle
import struct
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from d2vpr_hf.cards import write_card
from d2vpr_hf.convert.names import rename
from d2vpr_hf.convert.sources import SOURCES, Source, Weights
from d2vpr_hf.modeling import D2VPRImageProcessor, D2VPRModel

_LISTED = 20  # names shown of each kind in an error
# what torch raises on files that are cut, changed or of another kind
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)


class ConversionError(ValueError):
    """A file that is not what it should be. The message lists everything that is off."""


def convert_weights(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Source:
    """Convert a weights file to a complete model folder: weights, configuration, processor, code, model card.

    Args:
        source: A `.pth` or `.safetensors` file; its kind is recognised by the names of its weights.
        out: The folder; missing or empty unless `overwrite` is set.
        overwrite: Whether files in `out` may be replaced. A model card there is left alone.

    Returns:
        The row of the table of sources that the file was recognised as.

    Raises:
        FileNotFoundError: If there is no such file.
        FileExistsError: If `out` is not free.
        ConversionError: If the file cannot be read as weights alone, is of no known kind, or has weights missing, left
            over or mis-shaped.
    """
    source, out = Path(source), Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one, or `--overwrite`.")
    if source.resolve().parent == out.resolve():
        raise FileExistsError(f"{source} lies in {out} and might be overwritten. Give another folder.")
    model, row = load_converted(source)
    model.save_pretrained(out)
    D2VPRImageProcessor().save_pretrained(out)
    write_card(out, model, row.card, origin=f"{source.name} (SHA-256 {_sha256(source)})")
    return row


def load_converted(source: Path) -> tuple[D2VPRModel, Source]:
    """Read a weights file as a model, and tell what it was recognised as. Raises as [`convert_weights`] does."""
    weights = read_weights(source)
    row = max(SOURCES, key=lambda row: row.count_known(weights))
    if row.count_known(weights) < len(weights) / 2:
        kinds = ", ".join(row.name for row in SOURCES)
        raise ConversionError(f"{source} is of no known kind ({kinds}). Its weights are: {_listing(sorted(weights))}.")
    model = D2VPRModel(row.config())
    model.load_state_dict(_translate(source, weights, row, model))
    return model.eval(), row


def read_weights(source: Path) -> Weights:
    """Read the weights in a file, executing nothing in it.

    They may be the top level or lie under `model_state_dict`, with or without a `module.` prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ConversionError: If the file holds anything but weights, or is damaged.
    """
    if not source.is_file():
        raise FileNotFoundError(f"There is no file {source}. Give a .pth or .safetensors file of weights.")
    content = _read_safetensors(source) if source.suffix.lower() == ".safetensors" else _read_pickle(source)
    weights = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ConversionError(f"{source} holds no weights: expected names and tensors, got {type(content).__name__}.")
    odd = [str(name) for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise ConversionError(f"{source} holds entries that are no weights: {_listing(odd)}.")
    plain = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if len(plain) < len(weights):
        raise ConversionError(f"{source} holds some weights twice, with and without the prefix `module.`.")
    return plain


def _read_safetensors(source: Path) -> Weights:
    try:
        return safetensors.torch.load_file(source)
    except safetensors.SafetensorError as error:
        raise ConversionError(f"{source} is damaged or no safetensors file: {error}.") from error


def _read_pickle(source: Path) -> object:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's words advise to execute it; they stay in the cause
        raise ConversionError(f"{source} holds more than weights, or is no checkpoint; nothing in it was executed.") from error
    except _DAMAGE as error:
        raise ConversionError(f"{source} is damaged or no checkpoint ({type(error).__name__}: {error}).") from error


def _translate(source: Path, weights: Weights, row: Source, model: D2VPRModel) -> Weights:
    """Bring weights to our names and shapes, all of them and nothing else."""
    weights = row.reshape(weights)
    names = rename(weights, row.names)
    translated = {ours: weights[theirs] for theirs, ours in names.items()}
    expected = model.state_dict()
    theirs = rename({*expected, *translated}, tuple((right, left) for left, right in row.names))
    pairs = [(theirs[name], translated[name], expected[name]) for name in sorted({*expected} & {*translated})]
    problems = {
        "left over": sorted({*weights} - {*names} | {theirs[name] for name in {*translated} - {*expected}}),
        "missing": sorted(theirs[name] for name in {*expected} - {*translated}),
        "mis-shaped": [
            f"{name} {tuple(found.shape)}, expected {tuple(right.shape)}"
            for name, found, right in pairs
            if found.shape != right.shape
        ],
        "of another type": [name for name, found, right in pairs if found.is_floating_point() != right.is_floating_point()],
        "not finite": [name for name, found, _ in pairs if not found.isfinite().all()],
    }
    lines = [f"  {kind} ({len(found)}): {_listing(found)}" for kind, found in problems.items() if found]
    if lines:
        raise ConversionError("\n".join([f"{source} looks like {row.name}, but its weights do not fit:", *lines]))
    return translated


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["ConversionError", "convert_weights", "load_converted", "read_weights"]
