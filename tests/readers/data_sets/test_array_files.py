"""Object arrays are read by their opcodes; nothing in a file is executed."""

import os
import pickle
import struct

import numpy as np
import pytest
from numpy.lib import format as npy_format

from d2vpr_hf.readers.data_sets.array_files import read_names, read_numbers, read_positives
from tests.readers.data_sets.trees import object_array, save_objects


def as_lists(path):
    return [(query, rows.tolist()) for query, rows in read_positives(path)]


@pytest.mark.parametrize(
    "values",
    [
        [[0, 1], [2], []],
        [np.array([0, 1]), np.array([2], ">i4"), np.array([])],
        [(0, 1), [np.int64(2)], np.array([], np.uint8)],
    ],
)
def test_lists_of_every_kind_are_read(tmp_path, values):
    save_objects(tmp_path / "gt.npy", values)
    assert as_lists(tmp_path / "gt.npy") == [(0, [0, 1]), (1, [2]), (2, [])]


def test_plain_arrays_and_numbered_pairs_are_read(tmp_path):
    np.save(tmp_path / "gt.npy", np.arange(4).reshape(2, 2))
    assert as_lists(tmp_path / "gt.npy") == [(0, [0, 1]), (1, [2, 3])]
    save_objects(tmp_path / "new.npy", [[1, [5, 6]], [0, np.array([7])]], columns=2)
    assert as_lists(tmp_path / "new.npy") == [(1, [5, 6]), (0, [7])]
    np.save(tmp_path / "names.npy", np.array(["a.jpg", "b/c.jpg"]))
    assert read_names(tmp_path / "names.npy") == ["a.jpg", "b/c.jpg"]
    np.save(tmp_path / "numbers.npy", np.array([3, 1], np.int32))
    assert read_numbers(tmp_path / "numbers.npy").tolist() == [3, 1]


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_all_versions_of_numpy_are_read(tmp_path, core, protocol):
    content = pickle.dumps(object_array([[1, 2], np.array([3])]), protocol=protocol)
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        if protocol >= 4:  # lengths precede texts
            content = content.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(core)]) + core.encode())
        else:
            content = content.replace(b"c" + name + b"\n", b"c" + core.encode() + b"\n")
    if protocol >= 4:  # frames state their length
        start = content.index(b"\x95")
        size = len(content) - start - 9
        content = content[:start] + b"\x95" + struct.pack("<Q", size) + content[start + 9 :]
    write_header(tmp_path / "gt.npy", "|O", (2,), content)
    assert as_lists(tmp_path / "gt.npy") == [(0, [1, 2]), (1, [3])]


def write_header(path, dtype, shape, content=b""):
    with path.open("wb") as file:
        npy_format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        file.write(content)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["array", "element", "type"])
@pytest.mark.parametrize("function", ["mkdir", "eval", "getattr"])
def test_a_hostile_file_executes_nothing(tmp_path, where, function):
    """numpy.load with allow_pickle=True would create the folder."""
    target = tmp_path / "created"
    call = {
        "mkdir": Call(os.mkdir, str(target)),
        "eval": Call(eval, f"__import__('os').mkdir({str(target)!r})"),
        "getattr": Call(getattr, os, "mkdir"),
    }[function]
    value = {"array": call, "element": object_array([[0], call]), "type": object_array([[call]])}[where]
    if function != "getattr":  # modules cannot be pickled, and the file is as hostile without one
        write_header(tmp_path / "gt.npy", "|O", (2,), pickle.dumps(value))
    else:
        write_header(tmp_path / "gt.npy", "|O", (2,), b"cbuiltins\ngetattr\n(cos\npath\nX\x04\x00\x00\x00joinNtR.")
    with pytest.raises(ValueError, match=r"gt\.npy is not a plain array of lists.*refers to"):
        read_positives(tmp_path / "gt.npy")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete .npy file"),
        (b"PK\x03\x04zip", "not a complete .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff", "not a complete .npy file"),
        (b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16, "not a complete .npy file"),
    ],
)
def test_files_that_are_cut_off_are_an_error(tmp_path, content, message):
    (tmp_path / "gt.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_positives(tmp_path / "gt.npy")


def test_headers_that_promise_more_than_the_file_are_an_error(tmp_path):
    """A shape of a petabyte must not be allocated."""
    for dtype in ("<i8", "<U1000000"):
        write_header(tmp_path / "gt.npy", dtype, (2**40, 2**10), bytes(64))
        with pytest.raises(ValueError, match="is damaged: its header states"):
            read_positives(tmp_path / "gt.npy")
    write_header(tmp_path / "gt.npy", "|O", (10**12,), pickle.dumps(object_array([[1]])))
    with pytest.raises(ValueError, match="the array is not that of the header"):
        read_positives(tmp_path / "gt.npy")
    write_header(tmp_path / "gt.npy", "|O", (1,), pickle.dumps(object_array([[1]]))[:-20])
    with pytest.raises(ValueError, match="is not a plain array"):
        read_positives(tmp_path / "gt.npy")
    write_header(tmp_path / "gt.npy", "|O", (1,), b"\x80\x04N\x72" + struct.pack("<I", 2**31) + b".")  # a memo of gigabytes
    with pytest.raises(ValueError, match="is not a plain array"):
        read_positives(tmp_path / "gt.npy")
    write_header(tmp_path / "gt.npy", [("a", "<i4")], (1,), bytes(4))
    with pytest.raises(ValueError, match="Expected numbers or texts"):
        read_positives(tmp_path / "gt.npy")


def test_values_that_are_no_rows_are_an_error(tmp_path):
    for values in ([["a"]], [[1.5]], [[[1]]], [{"a": 1}]):
        save_objects(tmp_path / "gt.npy", values)
        with pytest.raises(ValueError, match=r"gt\.npy"):
            read_positives(tmp_path / "gt.npy")
