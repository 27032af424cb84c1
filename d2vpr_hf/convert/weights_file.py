"""Read files of weights without executing anything in them."""

import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from d2vpr_hf.convert.layouts import Weights
from d2vpr_hf.convert.weights_outline import MoreThanWeightsError, check_outline

_LISTED = 20  # names shown of each kind in an error
# errors that torch raises on files that are truncated, changed or of another kind
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
    MemoryError,
    ArithmeticError,
    OSError,
)
_PLAIN_TYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


class ConversionError(ValueError):
    """An error about a file that does not fit. The message lists all problems."""


def read_weights(source: Path) -> Weights:
    """Read the weights in a file without executing anything in it.

    They may be at the top level or under `model_state_dict`, with or without a `module.` prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ConversionError: If the file holds anything but weights, or is damaged.
    """
    if not source.is_file():
        raise FileNotFoundError(f"There is no file {source}. Give a .pth or .safetensors file of weights.")
    content = _read_safetensors(source) if source.suffix.lower() == ".safetensors" else _read_pickle(source)
    weights = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ConversionError(f"{source} holds no weights: expected names and tensors, got {_kind(content)}.")
    odd = [str(name) for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise ConversionError(
            f"{source} holds entries that are not weights: {listing(odd)}. Expected names and tensors at the top level, or "
            "under `model_state_dict`."
        )
    odd = [name for name, value in weights.items() if not _is_plain(value)]
    if odd:
        raise ConversionError(
            f"{source} holds tensors that are not plain numbers (sparse, quantised, 8-bit floats, …): {listing(odd)}."
        )
    plain = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if len(plain) < len(weights):
        raise ConversionError(f"{source} holds some weights twice, with and without the prefix `module.`.")
    return plain


def _read_safetensors(source: Path) -> Weights:
    try:
        return safetensors.torch.load_file(source)
    except safetensors.SafetensorError as error:
        raise ConversionError(f"{source} is damaged or not a safetensors file: {error}.") from error


def _read_pickle(source: Path) -> object:
    try:
        check_outline(source, _IGNORED)
        with _nothing_but_tensors():
            return torch.load(source, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        MoreThanWeightsError,
    ) as error:  # torch advises to execute the file; its message stays in the cause
        raise ConversionError(
            f"{source} holds more than weights, or is not a checkpoint; nothing in it was executed."
        ) from error
    except _DAMAGE as error:
        raise ConversionError(f"{source} is damaged or not a checkpoint ({type(error).__name__}: {error}).") from error


class _Ignored:
    """Placeholder for numbers and arrays of numpy: the published training scripts store their recalls next to the weights.

    No array is built, because numpy's functions would reserve any amount of memory that a file claims.
    """

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_IGNORED = (
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{folder}.multiarray.{builder}" for folder in ("core", "_core") for builder in ("scalar", "_reconstruct")),
)


@contextmanager
def _nothing_but_tensors() -> Iterator[None]:
    """Let torch's unpickler build tensors only, also if the process allows more, and ignore numpy's numbers."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(_Ignored, name) for name in _IGNORED])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _is_plain(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are in memory; a view may claim more than the file holds."""
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not (tensor.is_nested or tensor.is_quantized)
    return (
        is_dense
        and tensor.dtype in _PLAIN_TYPES
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )


def _kind(content: object) -> str:
    return f"an empty {type(content).__name__}" if content in ({}, [], ()) else f"a {type(content).__name__}"


def listing(names: list[str]) -> str:
    """Join names for a message, the first 20 of them; control characters of a terminal are escaped."""
    names = [name if name.isprintable() else ascii(name) for name in names]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
