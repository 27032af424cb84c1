"""A small pickle takes no gigabytes: torch may call `bytearray(n)`, and reserves a storage of the size that a file states."""

import pickle
import struct
import zipfile

import pytest
import torch

from d2vpr_hf.convert.weights_file import ConversionError, read_weights

HUGE = 8 << 30


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


CALLS = {
    "bytearray": Call(bytearray, HUGE),
    "tensor": Call(torch.LongTensor, HUGE // 8),
    "storage": Call(torch.UntypedStorage, HUGE),
    "inside weights": {"a": torch.zeros(3), "b": Call(bytearray, HUGE)},
    "an array of bytes": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b".",
    "a text": b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b".",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b".",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b".",
    "nothing": b"",
    "depth": b"\x80\x02" + b"(" * 100_000 + b".",
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("form", ["plain", "zip", "legacy"])
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path, name, form):
    content, path = CALLS[name], tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif form == "plain":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ConversionError, match=str(path)):
        read_weights(path)


def test_a_text_that_is_copied_thousands_of_times_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    text = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"  # the text in the memo, and its encoding, as a call
    path.write_bytes(b"\x80\x02" + text + b"q\x00](" + encode * 5000 + b"e.")
    with pytest.raises(ConversionError, match="copies more bytes"):
        read_weights(path)


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Write the entries of an archive again, with changes of their contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, change(name, content))


def test_a_storage_that_is_longer_than_its_entry_is_refused(tmp_path):
    """torch takes the length from the pickle, and would read memory of the process behind the entry."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    rewrite(path, lambda name, content: content[:40] if "/data/" in name else content)
    with pytest.raises(ConversionError, match="has 40 bytes, not 4,000"):
        read_weights(path)


def test_a_legacy_storage_that_is_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(300)}, path, _use_new_zipfile_serialization=False)
    stated = b"M\x2c\x01"  # 300
    assert path.read_bytes().count(stated) >= 1
    path.write_bytes(path.read_bytes().replace(stated, b"J" + struct.pack("<i", 1 << 30)))
    with pytest.raises(ConversionError, match="its storages have"):
        read_weights(path)


def test_a_compressed_archive_is_refused(tmp_path):
    """A megabyte of zeros would take a gigabyte."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    rewrite(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ConversionError, match="compressed or overlap"):
        read_weights(path)


@pytest.mark.parametrize("new", [True, False])
def test_weights_are_read(tmp_path, new):
    path = tmp_path / "weights.pth"
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64), "c": torch.zeros(0)}
    weights["d"] = torch.nn.Parameter(weights["a"][:, :2])
    torch.save({"model_state_dict": weights, "epoch": 3, "recalls": [91.7]}, path, _use_new_zipfile_serialization=new)
    content = read_weights(path)
    assert all(torch.equal(content[name], weights[name]) for name in weights)
