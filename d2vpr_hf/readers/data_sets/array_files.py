"""Read `.npy` files of names and of ground truth, without executing anything in them.

Ground truth is an array of objects, which numpy stores as a pickle. A pickle may call any function. Here it is read by the
opcodes of a pickle alone: the few names that an array needs are replaced by records of their arguments, and any other name is
an error. The format is https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import sys
import tokenize
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

_NUMERIC = re.compile(r"[iu][1248]|b1|f[248]")
_ERRORS = (
    *(tokenize.TokenError, SyntaxError),  # numpy reads a header as Python
    *(pickle.UnpicklingError, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
    *(OverflowError, MemoryError, UnicodeError, RecursionError, AssertionError, NotImplementedError),
)


def read_names(path: Path | IO[bytes]) -> list[str]:
    """Read a `.npy` file of texts (N,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has something else.
    """
    values = read_array(path)
    names = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} has no list of names. Expected a one-dimensional array of texts, the paths of photos.")
    return names


def read_numbers(path: Path | IO[bytes]) -> NDArray[np.int64]:
    """Read a `.npy` file of whole numbers (N,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has something else.
    """
    values = read_array(path)
    try:
        return whole_numbers(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Expected a one-dimensional array of whole numbers.") from error


def read_positives(path: Path | IO[bytes]) -> list[tuple[int, NDArray[np.int64]]]:
    """Read the ground truth of a `.npy` file: for each line the number of the query and the rows of its positives.

    Args:
        path: A file of Q lists of database rows; of an array (Q, P) of rows; or of an array (Q, 2) of objects, the number of a
            query and its list, as VPR-Bench stores it. An open file is read from its position on.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, has anything but numbers, or would execute code.
    """
    values = read_array(path)
    if not isinstance(values, np.ndarray | list) or (isinstance(values, np.ndarray) and values.ndim == 0):
        raise ValueError(f"{path} has no list of positives for each query.")
    try:
        if len(values) and all(_is_numbered(each) for each in values):
            return [(int(query), whole_numbers(rows)) for query, rows in values]
        return [(query, whole_numbers(rows)) for query, rows in enumerate(values)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Expected a list of database rows for each query.") from error


def read_array(path: Path | IO[bytes]) -> Any:
    """Read a `.npy` file: an array of numbers or texts as an array, an array of objects as nested lists.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, larger than the file, or would execute code.
    """
    if isinstance(path, Path):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        with path.open("rb") as file:
            return _read_file(file, str(path))
    return _read_file(path, str(getattr(path, "name", "the array")))


def _read_file(file: IO[bytes], path: str) -> Any:
    try:
        version = npy_format.read_magic(file)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except _ERRORS as error:
        raise ValueError(f"{path} is not a complete .npy file: {error}") from error
    content = file.read()
    if dtype.hasobject:
        return _read_objects(path, content, shape)
    if dtype.names is not None or dtype.kind not in "iufbUS":
        raise ValueError(f"{path} has an array of {dtype}. Expected numbers or texts.")
    size = math.prod(shape)
    if min(shape, default=0) < 0 or (size and not dtype.itemsize):  # numpy would make any number of empty texts
        raise ValueError(f"{path} is damaged: its header states an array {shape} of values of {dtype.itemsize} bytes.")
    if size * dtype.itemsize != len(content):
        raise ValueError(
            f"{path} is damaged: its header states {size:,} values of {dtype.itemsize} bytes, and there are {len(content):,} "
            "bytes. Download it again."
        )
    array = np.frombuffer(content, dtype, size) if size else np.zeros(0, dtype)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return np.char.decode(array, "utf-8") if dtype.kind == "S" else array


def whole_numbers(values: Any) -> NDArray[np.int64]:
    """Return a number or a flat sequence of whole numbers as an array (P,).

    Raises:
        ValueError: If the values are something else.
    """
    if isinstance(values, list | tuple):
        if not all(isinstance(each, int | np.integer | float | np.floating) for each in values):
            raise ValueError(f"there is something else than whole numbers: {str(values)[:60]}")
        values = np.array(values, np.float64 if any(isinstance(each, float) for each in values) else np.int64)
    array = np.atleast_1d(np.asarray(values)) if isinstance(values, int | float | np.ndarray | np.number) else None
    if array is None or array.ndim != 1 or array.dtype.kind not in "iuf" or not (array == np.floor(array)).all():
        raise ValueError(f"there is something else than whole numbers: {str(values)[:60]}")
    return array.astype(np.int64)


def _is_numbered(value: Any) -> bool:
    """Return whether a value is the number of a query and the list of its positives."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], list | np.ndarray)


def _read_objects(path: str, content: bytes, shape: tuple[int, ...]) -> Any:
    try:
        array = _Unpickler(io.BytesIO(content)).load()
        if not isinstance(array, _Array) or array.shape != shape:
            raise ValueError("the array is not that of the header")
        return array.to_plain(len(content))
    except _ERRORS as error:
        raise ValueError(
            f"{path} is not a plain array of lists of numbers or texts: {error}. Files that call functions are not read. "
            "Download it again, or save the positives as CSV or JSON."
        ) from error


class _Dtype:
    """The arguments of a type of numbers."""

    def __init__(self, *arguments: Any) -> None:
        self.name, self.order = str(arguments[0]), "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    @property
    def is_object(self) -> bool:
        return self.name in ("O", "O4", "O8", "object")

    def read(self, content: Any) -> NDArray[Any]:
        """Return the values of bytes (N,)."""
        size = re.fullmatch(r"[SU](\d+)", self.name)
        if not _NUMERIC.fullmatch(self.name) and size is None:
            raise ValueError(f"arrays of {self.name[:20]} are not read")
        if not isinstance(content, bytes):
            raise ValueError("an array has no bytes")
        return np.frombuffer(content, np.dtype(("<" if self.order in "|=" else self.order) + self.name))


class _Array:
    """The arguments of an array."""

    def __init__(self, *arguments: Any) -> None:
        self.shape: tuple[int, ...] = ()
        self.is_fortran, self.content = False, None
        self.dtype = _Dtype("i8")

    def __setstate__(self, state: Any) -> None:
        _, shape, self.dtype, self.is_fortran, self.content = state
        if not isinstance(self.dtype, _Dtype) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array has a wrong shape or type")
        self.shape = tuple(shape)

    def to_plain(self, max_values: int = sys.maxsize) -> Any:
        """Return nested lists of plain values for objects, and an array for numbers and texts.

        Raises:
            ValueError: If an array of objects names its lists so often that they have more than `max_values` values.
        """
        if not self.dtype.is_object:
            return self.dtype.read(self.content).reshape(self.shape, order="F" if self.is_fortran else "C")
        if not isinstance(self.content, list) or len(self.content) != math.prod(self.shape) or not 1 <= len(self.shape) <= 2:
            raise ValueError("an array has another number of values than its shape")
        if sum(len(value) for value in self.content if isinstance(value, list | tuple)) > max_values:
            raise ValueError("it names one list many times, which takes more memory than the file")
        values = [_plain(value) for value in self.content]
        if sum(value.size for value in values if isinstance(value, np.ndarray)) > max_values:
            raise ValueError("it names one array many times, which takes more memory than the file")
        if len(self.shape) == 1:
            return values
        return [values[start : start + self.shape[1]] for start in range(0, len(values), max(1, self.shape[1]))]


def _plain(value: Any) -> Any:
    """Return a value of an array of objects without records of arguments."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, _Array):
        return value.to_plain()
    if isinstance(value, list | tuple):
        return [each if type(each) is int else _plain_scalar(each) for each in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (int, float, str):
        return value
    raise ValueError(f"there is a value of the type {type(value).__name__}")


def _record_array(*arguments: Any) -> _Array:
    return _Array()


def _record_scalar(dtype: _Dtype, content: Any) -> Any:
    return dtype.read(content)[0]


def _record_buffer(content: Any, dtype: _Dtype, shape: Any, order: Any, *arguments: Any) -> NDArray[Any]:
    """Return an array of numbers from the bytes of a pickle of protocol 5."""
    return dtype.read(bytes(content)).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes of a pickle of protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"the encoding {encoding[:20]} is not read")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _record_array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _record_buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _record_scalar for core in ("core", "_core")},
}


def _load_bytearray(unpickler: Any) -> None:
    """Read the bytes of an array of protocol 5. The inherited opcode reserves the stated memory before it reads."""
    (size,) = struct.unpack("<Q", unpickler.read(8))
    content = unpickler.read(min(size, sys.maxsize))  # of a file in memory: no more than there is
    if len(content) != size:
        raise pickle.UnpicklingError(f"it states {size:,} bytes of content, and {len(content):,} are stored")
    unpickler.append(bytearray(content))


class _Unpickler(pickle._Unpickler):  # the one in Python keeps its memo in a dictionary: a large number in a file costs nothing
    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it refers to {module[:40]}.{name[:40]}, which an array of numbers does not need")
        return _NAMES[module, name]
