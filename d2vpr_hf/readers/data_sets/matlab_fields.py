"""Print the fields of `dbStruct` in a `.mat` file as JSON. This file is run as a script, in a process of its own.

A damaged file can end scipy's compiled reader, and the process with it, or ask for any amount of memory.
"""

import json
import sys
from typing import Any

import numpy as np
from scipy.io import loadmat

_MEMORY = 8 << 30  # bytes; Tokyo 24/7, the largest list of photos, takes 1


def main(file: str) -> None:
    """Print the fields of the structure by name; the order is that of the file. Without a structure, print null."""
    _bound_memory()
    struct = loadmat(file, variable_names=["dbStruct"]).get("dbStruct")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        print("null")
        return
    record = struct.reshape(-1)[0]
    json.dump({name: _plain(record[name]) for name in struct.dtype.names}, sys.stdout)


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
