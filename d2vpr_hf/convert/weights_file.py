"""Read and write files of weights, executing nothing in them."""

import pickle
import struct
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy._core import multiarray
from torch import Tensor

from d2vpr_hf.convert.layouts import Weights

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
        raise ConversionError(f"{source} holds entries that are no weights: {listing(odd)}.")
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
        with _numbers_allowed():
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's words advise to execute it; they stay in the cause
        raise ConversionError(f"{source} holds more than weights, or is no checkpoint; nothing in it was executed.") from error
    except _DAMAGE as error:
        raise ConversionError(f"{source} is damaged or no checkpoint ({type(error).__name__}: {error}).") from error


def _numbers_allowed() -> AbstractContextManager[None]:
    """Allow numpy's numbers and arrays, which the published training scripts keep beside the weights: their recalls.

    torch's unpickler refuses them otherwise. They are data: what builds them can do nothing else.
    """
    names = [f"numpy.{folder}.multiarray" for folder in ("core", "_core")]  # before numpy 2 and since
    builders = [(part, f"{name}.{part.__name__}") for part in (multiarray.scalar, multiarray._reconstruct) for name in names]
    types = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name != "ObjectDType"]
    return torch.serialization.safe_globals([*builders, np.ndarray, np.dtype, *types])


def listing(names: list[str]) -> str:
    """Join names for a message, cut short where there are many."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


__all__ = ["ConversionError", "listing", "read_weights"]
