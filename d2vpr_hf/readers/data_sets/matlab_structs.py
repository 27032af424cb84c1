"""Data sets in the form of NetVLAD: a `.mat` file with a structure `dbStruct` that lists photos and their UTM metres.

Its fields are `whichSet`, `dbImageFns` or `dbImage`, `utmDb`, `qImageFns` or `qImage`, `utmQ`, `numImages`, `numQueries`,
`posDistThr`, `posDistSqThr` and `nonTrivPosDistSqThr`, in this order: https://github.com/Relja/netvlad (`datasets/`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.listed_photos import FolderNames, find_base, list_table
from d2vpr_hf.readers.data_sets.variants import variant_name
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.utils.bounded_files import check_stated_size

_SCRIPT = Path(__file__).with_name("matlab_fields.py")
_MAT_HEADER = 128  # bytes
_PACKED = 15  # type of an element that zlib packed
_BLOCK = 1 << 20  # bytes
_FIELDS = {"database": ("dbImageFns", "dbImage"), "queries": ("qImageFns", "qImage")}
_PLACES = {"database": 1, "queries": 3}  # of fields without names
_FOLDERS = ("queries_real", "queries", "query", "247query_subset_v2", "247query_v3", "images")  # of photos, next to the file


def _find_files(root: Path) -> list[Path]:
    """Return the file that is given, or the files of a folder that have a `dbStruct`."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".mat" else []
    for folder in (root, root / "datasets", root / "groundtruth"):
        if folder.is_dir() and (files := [file for file in sorted(folder.glob("*.[mM][aA][tT]")) if _has_struct(file)]):
            return files
    return []


def _has_struct(file: Path) -> bool:
    """Return whether a file has a variable `dbStruct`, without reading its values."""
    from scipy.io import whosmat

    try:
        return any(name == "dbStruct" for name, *_ in whosmat(str(file)))
    except Exception:  # scipy raises errors of many types for files of other formats
        return False


def _read(root: Path, options: ReadOptions) -> DataSet:
    files = _find_files(root)
    if len(files) > 1:
        tests = [file for file in files if file.stem.lower().endswith("_test")]
        if len(tests) != 1:
            raise ValueError(
                f"{root} has several .mat files. Give one of them in place of the folder: {', '.join(map(str, files))}."
            )
        files = tests
    return read_struct(root, files[0])


def read_struct(root: Path, file: Path) -> DataSet:
    """Read the data set of a `.mat` file.

    Args:
        root: The folder of the data set, or the file itself.
        file: The file.

    Raises:
        FileNotFoundError: If the photos are not in the folder.
        ValueError: If the file has no `dbStruct` of this form.
    """
    struct = _load_struct(file)
    names = {side: _names(file, struct, side) for side in _FIELDS}
    metres = {
        side: _metres(file, struct, name, len(names[side])) for side, name in (("database", "utmDb"), ("queries", "utmQ"))
    }
    folder = root if root.is_dir() else file.parent
    bases = list(
        dict.fromkeys([folder, file.parent, folder.parent, *(path for path in sorted(folder.iterdir()) if path.is_dir())])
    )
    tables = {}
    for side in _FIELDS:
        names[side] = _with_suffixes(bases, names[side])
        places = metres[side]
        near = [base / inner for base in bases for inner in ("", *_FOLDERS)] if side == "queries" else bases
        base = find_base(near, names[side]) or folder

        def make_place(number: int, path: str, places: NDArray[np.float64] = places) -> Place:
            return Place(path, utm_east=float(places[number, 0]), utm_north=float(places[number, 1]))

        tables[side] = list_table(base, names[side], str(file), make_place, "csv").table
    threshold = _threshold(struct)
    counts = {"queries": len(names["queries"])}
    variant = variant_name(file.with_suffix(""), len(names["database"]), counts)
    part = DataSetPart("", tables["database"], (QuerySet("queries", tables["queries"]),))
    return DataSet("netvlad-mat", variant, (part,), positive_dist_threshold=threshold)


def _load_struct(file: Path) -> dict[str, Any]:
    """Return the fields of `dbStruct`, by name if it has names, and by place."""
    _check_sizes(file)
    command = [sys.executable, "-P", str(_SCRIPT), str(file)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2][:300] or f"its reader ended with {done.returncode}"
        raise ValueError(f"{file} is not a .mat file that can be read: {reason}. Download it again.")
    fields: dict[str, Any] | None = json.loads(done.stdout)
    if fields is None:
        raise ValueError(f"{file} has no structure dbStruct. Expected one as in the data sets of NetVLAD.")
    return fields | {str(place): value for place, value in enumerate(fields.values())}


def _check_sizes(file: Path) -> None:
    """Check that no part of a `.mat` file is larger than its packed form can give, before it is unpacked and read.

    Such a file has a header of 128 bytes and elements: type and size in 4 bytes each, then the content, which zlib packed in
    elements of the type 15 (https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf).

    Raises:
        ValueError: If one is.
    """
    stored = file.stat().st_size
    with file.open("rb") as content:
        order: Literal["little", "big"] = "big" if content.read(_MAT_HEADER)[-2:] == b"MI" else "little"
        while len(tag := content.read(8)) == 8:
            kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
            start = content.tell()
            if kind == _PACKED:
                try:
                    _check_packed(content, min(size, stored - start))
                except ValueError as error:
                    raise ValueError(f"{file} is damaged: {error}.") from error
            content.seek(start + size)


def _check_packed(content: BinaryIO, packed: int) -> None:
    """Raise ValueError if an element that zlib packed is larger than plain contents are. It is unpacked without keeping it."""
    unpacker = zlib.decompressobj()
    unpacked, rest = 0, packed
    try:
        while rest > 0 and (block := content.read(min(rest, _BLOCK))):
            rest -= len(block)
            while block:
                unpacked += len(unpacker.decompress(block, _BLOCK))
                block = unpacker.unconsumed_tail
                check_stated_size(unpacked, packed)  # before a bomb takes its time
    except zlib.error:
        return  # reading it raises an error


def _names(file: Path, struct: dict[str, Any], side: str) -> list[str]:
    """Return the paths of photos, from a cell array of texts."""
    cells = next((struct[name] for name in _FIELDS[side] if name in struct), struct.get(str(_PLACES[side])))
    names = [_text(cell) for cell in cells] if isinstance(cells, list) else []
    if not names or any(not name for name in names):
        raise ValueError(f"{file}: dbStruct has no list of photos {' or '.join(_FIELDS[side])}.")
    return names


def _text(cell: Any) -> str:
    """Return the text of a cell; empty if it is something else."""
    while isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    return cell.strip() if isinstance(cell, str) else ""


def _metres(file: Path, struct: dict[str, Any], name: str, count: int) -> NDArray[np.float64]:
    """Return easting and northing (N, 2) of a field (2, N)."""
    values = struct.get(name, struct.get("2" if name == "utmDb" else "4"))
    metres = _numbers(values)
    if metres.dtype.kind not in "iuf" or metres.shape not in ((2, count), (count, 2)) or not np.isfinite(metres).all():
        raise ValueError(
            f"{file}: dbStruct.{name} has the shape {metres.shape}. Expected metres (2, {count}), one column a photo."
        )
    metres = metres.T if metres.shape == (2, count) else metres
    return np.asarray(metres, np.float64)


def _numbers(values: Any) -> NDArray[Any]:
    """Return nested lists as an array; it is empty unless they are numbers in rows of one length."""
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        array = np.empty(0)
    return array if array.dtype.kind in "iuf" else np.empty(0)


def _threshold(struct: dict[str, Any]) -> float | None:
    value = _numbers(struct.get("posDistThr"))
    is_number = value.size == 1 and value.dtype.kind in "iuf" and 0 < float(value.reshape(-1)[0]) < np.inf
    return float(value.reshape(-1)[0]) if is_number else None


def _with_suffixes(bases: Sequence[Path], names: list[str]) -> list[str]:
    """Return names with the suffix of the files: Tokyo 24/7 is distributed as PNG, and its lists have .jpg."""
    if find_base(bases, names) is not None or not names[0].lower().endswith(".jpg"):
        return names
    as_png = [f"{name[:-4]}.png" for name in names]
    return as_png if any(FolderNames(base).find(as_png[0]) is not None for base in bases) else names


NETVLAD = Layout(
    "netvlad-mat",
    "Structure dbStruct of NetVLAD",
    "a folder with a .mat file of NetVLAD and the photos that it lists, or the file",
    lambda root: bool(_find_files(root)),
    _read,
)
