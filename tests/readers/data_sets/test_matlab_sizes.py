"""`.mat` files whose arrays state more cells than their bytes can hold are refused before scipy makes room for them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy.io")
from scipy.io import savemat

from d2vpr_hf.readers.data_sets.matlab_fields import check_dimensions
from d2vpr_hf.readers.data_sets.matlab_structs import read_struct


def element(kind, content, order="<"):
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(array_class, sides, rest=b"", name=b"", order="<"):
    flags = element(6, struct.pack(f"{order}II", array_class, 0), order)
    dimensions = element(5, struct.pack(f"{order}{len(sides)}i", *sides), order)
    return element(14, flags + dimensions + element(1, name, order) + rest, order)


def write(path: Path, content, order="<", packed=False):
    mark = b"IM" if order == "<" else b"MI"
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + mark
    if packed:
        unpadded = zlib.compress(content)
        content = struct.pack(f"{order}II", 15, len(unpadded)) + unpadded
    path.write_bytes(header + content)
    return path


def fields(names, order="<"):
    """Return the length of the names of fields, in a small element, and the names."""
    small = struct.pack(f"{order}I", 4 << 16 | 5) if order == "<" else struct.pack(">HH", 4, 5)
    return small + struct.pack(f"{order}i", 8) + element(1, b"".join(name.ljust(8, b"\0") for name in names), order)


HUGE = [(30_000, 30_000), (1 << 30, 1), (2**31 - 1, 2**31 - 1, 2**31 - 1), (-1, -5)]


@pytest.mark.parametrize("sides", HUGE)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_cells_structures_and_texts_of_huge_dimensions_are_refused(tmp_path, sides, order, packed):
    cell = array(1, sides, name=b"dbStruct", order=order)
    text = array(4, sides, element(16, b"", order), b"dbStruct", order)
    structure = array(2, sides, fields([b"a"], order), b"dbStruct", order)
    inner = array(2, (1, 1), fields([b"dbImage"], order) + array(1, sides, order=order), b"dbStruct", order)
    function = array(16, (1, 1), array(1, sides, order=order), b"dbStruct", order)
    opaque = element(14, element(6, struct.pack(f"{order}II", 17, 0), order) + element(1, b"dbStruct", order) + cell, order)
    for content in (cell, text, structure, inner, function, opaque):
        file = write(tmp_path / "data.mat", content, order, packed)
        with pytest.raises(ValueError, match="states an array of " + "x".join(map(str, sides))):
            check_dimensions(file)


def test_the_error_names_the_file(tmp_path):
    file = write(tmp_path / "data.mat", array(1, (30_000, 30_000), name=b"dbStruct"))
    with pytest.raises(ValueError, match=r"data\.mat is not a \.mat file .*states an array of 30000x30000"):
        read_struct(tmp_path, file)


def test_many_fields_of_many_structures_are_refused(tmp_path):
    """1,000 structures of 1,000 fields have a million places, and neither number is too large alone."""
    names = [f"f{number}".encode() for number in range(1000)]
    file = write(tmp_path / "data.mat", array(2, (1000, 1), fields(names) + bytes(16000), b"dbStruct"))
    with pytest.raises(ValueError, match="states an array of 1000x1"):
        check_dimensions(file)


@pytest.mark.parametrize("compressed", [False, True])
def test_plain_files_are_not_refused(tmp_path, compressed):
    """Cells, structures and texts of any size, empty ones among them, as scipy writes them."""
    cells = np.array([[f"photo {number}.jpg"] for number in range(50)], object)
    records = np.array([(1, "a"), (2, "bc")], [("p", "O"), ("q", "O")])
    values = {
        "cells": cells,
        "empty": np.empty((0, 0), object),
        "none": np.empty((3, 0)),
        "text": "",
        "records": records,
        "numbers": np.zeros((2, 50)),
        "nested": np.array([[cells], [records]], object),
    }
    savemat(tmp_path / "data.mat", {"dbStruct": values, "other": "x"}, do_compression=compressed)
    check_dimensions(tmp_path / "data.mat")
