"""Small files of others take no gigabytes, and damage is a ValueError that names the file."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest

from d2vpr_hf.pretrained.stated_facts import stated_facts
from d2vpr_hf.readers.data_sets.array_files import read_names, read_positives
from d2vpr_hf.readers.data_sets.matlab_structs import _load_struct
from d2vpr_hf.readers.descriptor_files import _read_hdf5
from d2vpr_hf.readers.positives_files import _read_npz
from d2vpr_hf.utils.bounded_files import check_entry, check_stated_size, parse_json, parse_yaml

DEEP = "[" * 100_000
LAUGHS = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
MERGES = LAUGHS.replace(": &", ": &").replace("[x, x]", "{x: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n") + "}"


def test_plain_texts_are_read():
    assert parse_json('{"a": [1, 2]}') == {"a": [1, 2]}
    assert parse_yaml("a: [1, 2]\nb: 'x & y * z'") == {"a": [1, 2], "b": "x & y * z"}


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, "{", ""])
def test_a_text_that_is_not_json_is_a_value_error(text):
    """Deep nesting raised RecursionError, which most readers let through."""
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize("text", [LAUGHS, MERGES, DEEP, "a: [", "- *unknown"])
def test_a_yaml_text_with_aliases_or_damage_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text)
    if "*" in text:
        with pytest.raises(ValueError, match="aliases"):
            parse_yaml(text)
    stated_facts(f"---\n{text}\n---\nA card.")  # a card of this kind states nothing


def npy(shape, descr, content=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize("descr", ["<U0", "|S0", "<U1", "<i8"])
def test_an_array_that_states_more_than_its_file_is_refused(tmp_path, descr):
    """Empty texts take no bytes in the file, and any number of them could be stated."""
    path = tmp_path / "names.npy"
    path.write_bytes(npy((1 << 40,), descr))
    with pytest.raises(ValueError, match=str(path)):
        read_names(path)


def test_a_list_that_is_named_many_times_is_refused(tmp_path):
    """The pickle of a megabyte would give a hundred gigabytes of positives."""
    rows, array = list(range(20_000)), np.empty(20_000, object)
    for number in range(len(array)):
        array[number] = rows
    path = tmp_path / "positives.npy"
    np.save(path, array, allow_pickle=True)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match=f"{path}.*names one list many times"):
        read_positives(path)


def test_an_array_that_is_named_many_times_is_refused(tmp_path):
    rows, array = np.arange(20_000, dtype=np.int8), np.empty(20_000, object)
    for number in range(len(array)):
        array[number] = rows
    path = tmp_path / "positives.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(ValueError, match=f"{path}.*names one array many times"):
        read_positives(path)


def test_an_opcode_that_reserves_memory_is_refused(tmp_path):
    path = tmp_path / "positives.npy"
    path.write_bytes(npy((1,), "|O", b"\x80\x05\x96" + struct.pack("<Q", 8 << 30) + b"."))
    with pytest.raises(ValueError, match="states 8,589,934,592 bytes of content, and 1 are stored"):
        read_positives(path)


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "positives.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("positives.npy", npy((80 << 20,), "|i1", bytes(80 << 20)))
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="states 83,886,"):
        _read_npz(path)


def test_a_matlab_bomb_is_refused(tmp_path):
    """scipy would unpack all of it."""
    path, packed = tmp_path / "set.mat", zlib.compress(bytes(80 << 20), 9)
    tag = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + tag + packed)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match=f"{path} is damaged: it states"):
        _load_struct(path)


def test_an_array_without_numbers_in_hdf5_is_refused(tmp_path):
    """A file of two kilobytes would give two gigabytes of zeros."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "descriptors.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("descriptors", (1_000_000, 512), np.float32, chunks=(1000, 512))
    with pytest.raises(ValueError, match="are stored"):
        _read_hdf5(path, None)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_packing_are_refused(method):
    entry = zipfile.ZipInfo("a.npy")
    entry.compress_type = method
    with pytest.raises(ValueError, match="packed by a method"):
        check_entry(entry)


def test_sizes_of_plain_contents_are_allowed():
    check_stated_size(60 << 20, 10)
    check_stated_size(10 << 30, 1 << 30)
    with pytest.raises(ValueError, match="are stored"):
        check_stated_size(10 << 30, 1 << 20)
    assert json.loads("1") == parse_json("1")
