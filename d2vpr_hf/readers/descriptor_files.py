"""Files of descriptors that other programs made: `.npy`, `.safetensors` and HDF5, with the places that their rows belong to."""

from __future__ import annotations

import math
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.registry import read_places
from d2vpr_hf.readers.remarks import Remark, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.utils.bounded_files import check_stated_size, parse_json
from d2vpr_hf.utils.optional_imports import import_extra
from d2vpr_hf.utils.unit_length import are_wrong

SUFFIXES = (".npy", ".safetensors", ".h5", ".hdf5")
HLOC_NAME = "global_descriptor"  # of a photo's descriptor in the files of Hierarchical-Localization (hloc)

_BLOCK_BYTES = 64 << 20  # of rows that are checked at once
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # as safetensors and as numpy name them
_MAX_HEADER = 100 << 20  # the bound of safetensors


@dataclass(frozen=True)
class DescriptorFile:
    """Descriptors of a file.

    Attributes:
        path: The file.
        descriptors: (N, D) floating-point numbers, mapped where the format allows it.
        names: N paths of photos that the file has itself; `None` if its rows have no names.
    """

    path: Path
    descriptors: NDArray[Any]
    names: tuple[str, ...] | None = None

    def label(self, row: int) -> str:
        """Return the name of a row, or the file's name with the number of the row, from 0."""
        return f"{self.path.name}[{row}]" if self.names is None else self.names[row]


def read_descriptors(path: str | Path, tensor: str | None = None) -> DescriptorFile:
    """Open a file of descriptors.

    Args:
        path: A `.npy` file of an array (N, D), a `.safetensors` file, or an HDF5 file (`.h5`, `.hdf5`): with a data set (N, D),
            or with a group for each photo's path that has a data set `global_descriptor` (D,), as hloc writes it.
        tensor: Name of the tensor or data set; `None` for the only one.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If an HDF5 file is given and h5py is not installed.
        ValueError: If the file is damaged or of another format, has no such tensor, or no floating-point numbers (N, D).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give one of {', '.join(SUFFIXES)} with descriptors.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} is not a file of descriptors. Expected one of {', '.join(SUFFIXES)}.")
    if suffix == ".npy":
        file = DescriptorFile(path, _read_npy(path, tensor))
    elif suffix == ".safetensors":
        file = DescriptorFile(path, _read_safetensors(path, tensor))
    else:
        file = _read_hdf5(path, tensor)
    _check_form(path, file.descriptors)
    return file


def read_placed_descriptors(
    descriptors: str | Path,
    places: str | Path | PlaceTable,
    *,
    tensor: str | None = None,
    normalize: bool = False,
    strict: bool = False,
    has_order: bool = False,
) -> tuple[PlaceTable, NDArray[Any]]:
    """Read descriptors and their places, and log what was skipped.

    Args:
        descriptors: A file that [`read_descriptors`] reads.
        places: A CSV file with a line for each row, or for files with photos' names a table or folder with these photos. The
            photos themselves are not needed.
        tensor: Name of the tensor in the file; `None` for the only one.
        normalize: Whether to divide each descriptor by its length. Without it, other lengths than 1 are an error.
        strict: Whether a place without a descriptor is an error.
        has_order: As for [`place_descriptors`].

    Returns:
        The table of N places, and their descriptors (N, D).

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If descriptors and places do not match, or values are wrong; see [`check_values`].
    """
    file = read_descriptors(descriptors, tensor)
    table = places if isinstance(places, PlaceTable) else read_places(places)
    table, rows, remarks = place_descriptors(file, table, has_order=has_order)
    report_remarks([*table.remarks, *remarks])
    report_skipped(table.skipped, table.count, strict)
    return table, check_values(file, rows, normalize)


def place_descriptors(
    file: DescriptorFile, table: PlaceTable, *, has_order: bool = False
) -> tuple[PlaceTable, NDArray[Any], tuple[Remark, ...]]:
    """Match descriptors with places: by the paths in the file, or else the first row with the first line of the table.

    Args:
        file: The descriptors.
        table: The places; of a CSV file if the descriptors have no names.
        has_order: Whether the order of the places is that of a data set or a list, even without a CSV file.

    Returns:
        The table of the places that have a descriptor, their descriptors (N, D), and remarks on unused ones.

    Raises:
        ValueError: If the numbers of rows and places differ, the order of the places is not that of a file, or no name fits.
    """
    if file.names is not None:
        return _place_by_name(file, table)
    if not has_order and table.source not in ("csv", "gsv-cities"):
        raise ValueError(
            f"The rows of {file.path} have no names, so that they are matched by order, and {table.folder} has no table that "
            "gives one. Give a CSV file with a line for each row."
        )
    if len(table.places) != len(file.descriptors):
        raise ValueError(
            f"{file.path} has {len(file.descriptors)} descriptors and the table in {table.folder} has {len(table.places)} "
            "places. The first row belongs to the first line, and so on: give one line for each row."
        )
    return table, file.descriptors, ()


def check_values(
    file: DescriptorFile, descriptors: NDArray[Any], normalize: bool, *, is_projected: bool = False
) -> NDArray[Any]:
    """Return descriptors of unit length: unchanged if they have it, divided by their lengths with `normalize`.

    Projected descriptors, `is_projected`, may be shorter.

    Raises:
        ValueError: If a number is not finite, a descriptor is zero, or lengths differ from 1 without `normalize`.
    """
    out = np.empty(descriptors.shape, np.float32) if normalize else None
    shortest, longest = math.inf, 0.0
    count = 0
    for start in range(0, len(descriptors), block := _rows_in_block(descriptors)):
        rows = np.asarray(descriptors[start : start + block], np.float32)
        lengths = np.linalg.norm(rows, axis=1)
        if not np.isfinite(lengths).all():
            row = start + int(np.flatnonzero(~np.isfinite(lengths))[0])
            raise ValueError(f"{file.path}: descriptor {row} (from 0) has NaN or infinite numbers. Compute it again.")
        if not lengths.all():
            row = start + int(np.flatnonzero(lengths == 0)[0])
            raise ValueError(f"{file.path}: descriptor {row} (from 0) is zero, and has no direction. Compute it again.")
        shortest, longest = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
        count += int(are_wrong(lengths, is_projected=is_projected).sum())
        if out is not None:
            out[start : start + block] = rows / lengths[:, None]
    if out is not None:
        return out
    if count:
        raise ValueError(
            f"{file.path}: {count} of {len(descriptors)} descriptors are not of unit length; lengths are from {shortest:.4g} "
            f"to {longest:.4g}. Similarities are products of descriptors, so that lengths matter: `normalize=True` divides "
            "each by its length."
        )
    return descriptors


def _rows_in_block(descriptors: NDArray[Any]) -> int:
    return max(1, _BLOCK_BYTES // (4 * descriptors.shape[1]))


def _check_form(path: Path, descriptors: NDArray[Any]) -> None:
    if descriptors.ndim != 2 or not descriptors.shape[1] or descriptors.dtype.kind != "f":
        raise ValueError(
            f"{path} has an array {descriptors.shape} of {descriptors.dtype}. Expected descriptors (N, D) in floating-point "
            "numbers."
        )
    if not len(descriptors):
        raise ValueError(f"{path} has no descriptors.")


def _read_npy(path: Path, tensor: str | None) -> NDArray[Any]:
    if tensor is not None:
        raise ValueError(f"{path} has one array without a name. Leave `tensor` out.")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, TypeError, OverflowError, MemoryError, EOFError, OSError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}. Arrays of objects are not read.") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays, not a .npy file. Save one array by `numpy.save`.")
    return array


def _read_safetensors(path: Path, tensor: str | None) -> NDArray[Any]:
    """Map a tensor of a safetensors file: length of the header in 8 bytes, header in JSON, numbers."""
    try:
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if header_size > min(_MAX_HEADER, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            header = parse_json(file.read(header_size))
        names = [name for name in header if name != "__metadata__"]
        chosen = _choose(path, names, tensor)
        values = header[chosen]
        start, stop = values["data_offsets"]
        shape, dtype = tuple(values["shape"]), values["dtype"]
        if dtype not in _DTYPES:
            raise ValueError(f"its tensor {chosen} has numbers of the type {dtype}, expected {', '.join(_DTYPES)}")
        if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
            raise ValueError("it is cut off, or its header is wrong")
        size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if stop - start != size or 8 + header_size + stop > path.stat().st_size:
            raise ValueError("it is cut off, or its header is wrong")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, _ChoiceError):
            raise
        raise ValueError(f"{path} is not a safetensors file with descriptors: {error}.") from error
    if not size:
        raise ValueError(f"{path} has no descriptors.")
    return np.memmap(path, _DTYPES[dtype], "r", 8 + header_size + start, shape)


def _read_hdf5(path: Path, tensor: str | None) -> DescriptorFile:
    h5py = import_extra("h5py", "hdf5")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file: {error}") from error
    with file:
        datasets: list[tuple[str, Any]] = []
        try:
            file.visititems(lambda name, item: datasets.append((name, item)) if isinstance(item, h5py.Dataset) else None)
            return _read_datasets(path, datasets, tensor)
        except (OSError, RuntimeError, KeyError, MemoryError) as error:  # h5py has no class of its own
            raise ValueError(f"{path} is damaged, or larger than the memory: {error}") from error


def _read_datasets(path: Path, datasets: list[tuple[str, Any]], tensor: str | None) -> DescriptorFile:
    """Read the data sets with descriptors, by name."""
    for name, item in datasets:
        if item.external or item.is_virtual:
            raise ValueError(
                f"{path}: the numbers of {name} are in other files, which are not opened. Copy them into one file."
            )
        try:
            check_stated_size(int(item.nbytes), int(item.id.get_storage_size()))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {name}: {error}.") from error
    ending = f"/{tensor or HLOC_NAME}"
    by_photo = {name.removesuffix(ending): item for name, item in datasets if name.endswith(ending) and item.ndim == 1}
    if by_photo:
        return _read_by_photo(path, by_photo)
    matrices = {name: item for name, item in datasets if item.ndim == 2}
    return DescriptorFile(path, np.asarray(matrices[_choose(path, list(matrices), tensor)]))


def _read_by_photo(path: Path, by_photo: dict[str, Any]) -> DescriptorFile:
    """Read one data set (D,) for each photo."""
    first = next(iter(by_photo.values()))
    descriptors = np.empty((len(by_photo), *first.shape), first.dtype)
    for row, (name, item) in enumerate(by_photo.items()):
        if item.shape != first.shape:
            raise ValueError(f"{path}: the descriptor of {name} has the shape {item.shape}, the first one {first.shape}.")
        item.read_direct(descriptors, dest_sel=np.s_[row])
    return DescriptorFile(path, descriptors, tuple(by_photo))


class _ChoiceError(ValueError):
    """A file has no tensor of a name, or several of them."""


def _choose(path: Path, names: Sequence[str], tensor: str | None) -> str:
    """Return the name of the tensor to read."""
    if tensor is not None and tensor not in names:
        raise _ChoiceError(f"{path} has no tensor {tensor!r}. It has: {', '.join(names) or 'none'}.")
    if tensor is None and len(names) != 1:
        advice = "Choose one with `tensor=...`" if names else "Give another file"
        raise _ChoiceError(f"{path} has {len(names)} tensors (N, D): {', '.join(names) or 'none'}. {advice}.")
    return tensor or names[0]


def _place_by_name(file: DescriptorFile, table: PlaceTable) -> tuple[PlaceTable, NDArray[Any], tuple[Remark, ...]]:
    """Match descriptors with the places of the same paths, in the order of the places."""
    assert file.names is not None
    prefix = _folder_in_names(file.names, table)
    row_of = {name.removeprefix(prefix): row for row, name in enumerate(file.names) if name.startswith(prefix)}
    places = [place for place in table.places if place.path in row_of]
    if not places:
        raise ValueError(
            f"None of the {len(file.names)} names in {file.path}, such as {file.names[0]}, is the path of a photo in "
            f"{table.folder}, such as {table.places[0].path}. Give a table whose paths are these names."
        )
    missing = {place.path: f"no descriptor in {file.path.name}" for place in table.places if place.path not in row_of}
    paths = {place.path for place in places}
    unused = [name for name in file.names if not name.startswith(prefix) or name.removeprefix(prefix) not in paths]
    remarks = (Remark("skipped", "descriptors of photos without a place", len(unused), unused[0]),) if unused else ()
    if prefix:
        text = f"names of descriptors that begin with the folder {prefix}, read as paths in it"
        remarks = (*remarks, Remark("assumed", text, len(places), prefix + places[0].path))
    rows = np.array([row_of[place.path] for place in places], np.int64)
    placed = replace(table, places=places, skipped=dict(table.skipped) | missing, place_ids=None, group_ids=None)
    return placed, file.descriptors[rows], remarks


def _folder_in_names(names: Sequence[str], table: PlaceTable) -> str:
    """Return the end of the table's folder with which names begin, such as `queries/`; empty if they are relative to it.

    Files of hloc may have the photos of several folders, with names that are relative to a common one.
    """
    paths = set(table.paths)
    parts = table.base_folder.parts
    prefixes = ["", *("/".join(parts[-depth:]) + "/" for depth in range(1, len(parts)))]
    fitting = (
        prefix for prefix in prefixes if any(name.startswith(prefix) and name.removeprefix(prefix) in paths for name in names)
    )
    return next(fitting, "")
