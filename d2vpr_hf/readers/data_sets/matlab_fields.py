"""Print the fields of `dbStruct` in a `.mat` file as JSON. This file is run as a script, in a process of its own.

A damaged file can end scipy's compiled reader, and the process with it, or ask for any amount of memory.
"""

import contextlib
import json
import math
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.io import loadmat

_HEADER, _TAG = 128, 8  # bytes
_MATRIX, _PACKED = 14, 15  # types of elements
_CELL, _STRUCT = 1, 2  # classes of arrays
_OBJECT, _CHAR = 3, 4
_FUNCTION, _OPAQUE = 16, 17  # they hold an array
_MEMORY = 8 << 30  # bytes; Tokyo 24/7, the largest list of photos, takes 1


def main(file: str) -> None:
    """Print the fields of the structure by name; the order is that of the file. Without a structure, print null.

    Raises:
        ValueError: If the file states more cells than it can hold.
    """
    _bound_memory()
    check_dimensions(Path(file))
    struct = loadmat(file, variable_names=["dbStruct"]).get("dbStruct")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        print("null")
        return
    record = struct.reshape(-1)[0]
    json.dump({name: _plain(record[name]) for name in struct.dtype.names}, sys.stdout)


def check_dimensions(file: Path) -> None:
    """Check that no array of cells or structures, and no text, states more of them than its bytes can hold.

    scipy makes room for all of them first. Each has 8 bytes at least: its type and its size in 4 bytes each, as the format at
    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf has them.

    Raises:
        ValueError: If one does.
    """
    content = memoryview(file.read_bytes())
    order: Literal["little", "big"] = "big" if bytes(content[_HEADER - 2 : _HEADER]) == b"MI" else "little"
    pending = list(_elements(content[_HEADER:], order))
    while pending:
        kind, part = pending.pop()
        if kind == _PACKED:
            with contextlib.suppress(zlib.error):  # reading it raises an error
                pending += _elements(memoryview(zlib.decompressobj().decompress(part)), order)
        elif kind == _MATRIX and len(part):
            pending += _parts_of_matrix(part, order)


def _parts_of_matrix(part: memoryview, order: Literal["little", "big"]) -> list[tuple[int, memoryview]]:
    """Return the elements of an array that may be arrays, after checking the dimensions of the array."""
    elements = _elements(part, order)
    flags, dimensions = (next(elements, (0, part[:0]))[1] for _ in range(2))
    array_class = int.from_bytes(flags[:4], order) & 0xFF
    if array_class in (_FUNCTION, _OPAQUE):
        return list(elements)
    if array_class not in (_CELL, _STRUCT, _OBJECT, _CHAR):
        return []
    sides = [int.from_bytes(dimensions[start : start + 4], order, signed=True) for start in range(0, len(dimensions), 4)]
    rest = [] if array_class == _CHAR else list(elements)
    count = math.prod(sides) * _count_fields(array_class, rest, order)
    if min(sides, default=0) < 0 or count > len(part) // (1 if array_class == _CHAR else _TAG):
        raise ValueError(f"it states an array of {'x'.join(map(str, sides))} in {len(part):,} bytes")
    return rest


def _count_fields(array_class: int, rest: list[tuple[int, memoryview]], order: Literal["little", "big"]) -> int:
    """Return the number of fields of a structure, and 1 for other arrays; `rest` begins with the name of the array."""
    if array_class not in (_STRUCT, _OBJECT):
        return 1
    place = 1 if array_class == _STRUCT else 2  # an object has the name of its class first
    if len(rest) < place + 2:
        return 1
    length, names = int.from_bytes(rest[place][1][:4], order), rest[place + 1][1]  # of each name, padded; all names
    return max(1, len(names) // max(1, length))


def _elements(content: memoryview, order: Literal["little", "big"]) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of each element; one that is cut off has the bytes that there are."""
    start = 0
    while start + _TAG <= len(content):
        kind, size = (int.from_bytes(content[place : place + 4], order) for place in (start, start + 4))
        if kind >> 16:  # a small element has its size, type and content in 8 bytes
            yield kind & 0xFFFF, content[start + 4 : start + 4 + (kind >> 16)]
            start += _TAG
            continue
        yield kind, content[start + _TAG : start + _TAG + size]
        start += _TAG + size
        if kind != _PACKED:
            start += -start % _TAG  # elements begin at multiples of 8


def _plain(value: Any) -> Any:
    """Return an array as nested lists; cells lose their shape. Values that JSON does not have become `None`."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufbU":
        return value.tolist()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(cell) for cell in value.reshape(-1)]
    return None


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most), most))


if __name__ == "__main__":
    main(sys.argv[1])
