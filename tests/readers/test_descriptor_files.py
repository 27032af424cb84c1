"""Files of descriptors of other programs are read without executing anything, and matched with their places."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable, descriptor_files
from d2vpr_hf.readers.descriptor_files import place_descriptors, read_descriptors, read_placed_descriptors

PATHS = ["a.jpg", "b/c.jpg", "d.jpg"]


def unit_rows(count: int = 3, width: int = 5, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_table(folder: Path, paths: Sequence[str] = PATHS, name: str = "places.csv") -> Path:
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "latitude", "longitude"], *([path, 45 + row / 1000, 7] for row, path in enumerate(paths))]
        )
    return folder / name


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_npy_and_safetensors_are_mapped(tmp_path: Path, dtype: str) -> None:
    rows = unit_rows().astype(dtype)
    np.save(tmp_path / "d.npy", rows)
    safetensors.numpy.save_file({"first": np.zeros((2, 3), np.float32), "rows": rows}, tmp_path / "d.safetensors")
    for name, tensor in (("d.npy", None), ("d.safetensors", "rows")):
        file = read_descriptors(tmp_path / name, tensor)
        assert isinstance(file.descriptors, np.memmap)
        assert file.descriptors.dtype == dtype
        np.testing.assert_array_equal(file.descriptors, rows)
        table, placed = read_placed_descriptors(file.path, write_table(tmp_path), tensor=tensor)
        assert [place.path for place in table.places] == PATHS
        np.testing.assert_array_equal(placed, rows)


def test_a_tensor_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    safetensors.numpy.save_file({"a": unit_rows(), "b": unit_rows()}, path)
    with pytest.raises(ValueError, match=r"has 2 tensors \(N, D\): a, b\. Choose one with `tensor=...`"):
        read_descriptors(path)
    with pytest.raises(ValueError, match="has no tensor 'c'"):
        read_descriptors(path, "c")


def test_a_pickle_in_an_npy_file_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    np.save(tmp_path / "d.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Arrays of objects are not read"):
        read_descriptors(tmp_path / "d.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("offsets", [[0, 10**9], [-60, 0], [0, 59]])
def test_a_safetensors_header_must_be_true(tmp_path: Path, offsets: list[int]) -> None:
    header = json.dumps({"d": {"dtype": "F32", "shape": [3, 5], "data_offsets": offsets}}).encode()
    (tmp_path / "d.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 60)
    with pytest.raises(ValueError, match="cut off, or its header is wrong"):
        read_descriptors(tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.float32), r"an array \(4,\) of float32. Expected descriptors \(N, D\)"),
        (np.zeros((2, 3), np.uint8), r"an array \(2, 3\) of uint8"),
        (np.zeros((0, 3), np.float32), "has no descriptors"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(ValueError, match=message):
        read_descriptors(tmp_path / "d.npy")


@pytest.mark.parametrize(
    "values",
    [
        b"[" * 100_000,
        {"shape": [3.0, 5.0], "data_offsets": [0, 60]},
        {"shape": [-3, -5], "data_offsets": [0, 60]},
        {"shape": [0, 10**30], "data_offsets": [0, 0]},
        {"shape": [3, 5], "data_offsets": [0.0, 60.0]},
    ],
)
def test_a_safetensors_header_of_wrong_values_is_refused(tmp_path: Path, values: bytes | dict[str, object]) -> None:
    header = values if isinstance(values, bytes) else json.dumps({"d": {"dtype": "F32"} | values}).encode()
    (tmp_path / "d.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 60)
    with pytest.raises(ValueError, match=r"d\.safetensors (is not a safetensors file|has no descriptors)"):
        read_descriptors(tmp_path / "d.safetensors")


def test_an_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "d.npy").open("wb") as file:
        np.savez(file, d=unit_rows())
    with pytest.raises(ValueError, match="archive of arrays"):
        read_descriptors(tmp_path / "d.npy")


@pytest.mark.parametrize("shape", ["(True, 5)", f"({10**30}, 5)"])
def test_an_npy_header_of_wrong_values_is_refused(tmp_path: Path, shape: str) -> None:
    np.save(tmp_path / "d.npy", unit_rows())
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 60)
    with pytest.raises(ValueError, match=r"not a \.npy file"):
        read_descriptors(tmp_path / "d.npy")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        read_descriptors(tmp_path / "d.npy")
    for name in ("d.pkl", "d.npy", "d.safetensors"):
        (tmp_path / name).write_bytes(b"text")
        with pytest.raises(ValueError, match="is not a"):
            read_descriptors(tmp_path / name)


def test_counts_must_agree(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", unit_rows(4))
    with pytest.raises(ValueError, match=r"has 4 descriptors and the table in .* 3 places"):
        read_placed_descriptors(tmp_path / "d.npy", write_table(tmp_path))


def test_rows_without_names_need_a_table(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    np.save(tmp_path / "d.npy", unit_rows(1))
    with pytest.raises(ValueError, match="Give a CSV file with a line for each row"):
        read_placed_descriptors(tmp_path / "d.npy", folder)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, value: float) -> None:
    monkeypatch.setattr(descriptor_files, "_BLOCK_BYTES", block_bytes)
    rows = unit_rows()
    rows[1, 2] = value
    np.save(tmp_path / "d.npy", rows)
    for normalize in (False, True):
        with pytest.raises(ValueError, match=r"descriptor 1 \(from 0\) has NaN or infinite numbers"):
            read_placed_descriptors(tmp_path / "d.npy", write_table(tmp_path), normalize=normalize)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_lengths_are_said_and_changed_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(descriptor_files, "_BLOCK_BYTES", block_bytes)
    np.save(tmp_path / "d.npy", unit_rows() * np.array([[1], [2], [0.5]], np.float32))
    table = write_table(tmp_path)
    with pytest.raises(
        ValueError, match=r"2 of 3 descriptors are not of unit length; lengths are from 0.5 to 2.*normalize=True"
    ):
        read_placed_descriptors(tmp_path / "d.npy", table)
    np.testing.assert_allclose(read_placed_descriptors(tmp_path / "d.npy", table, normalize=True)[1], unit_rows(), atol=1e-6)
    np.save(tmp_path / "d.npy", unit_rows() * np.array([[1], [0], [1]], np.float32))
    with pytest.raises(ValueError, match=r"descriptor 1 \(from 0\) is zero"):
        read_placed_descriptors(tmp_path / "d.npy", table, normalize=True)


def test_half_precision_is_of_unit_length(tmp_path: Path) -> None:
    rows = unit_rows(3, 8448).astype(np.float16)
    np.save(tmp_path / "d.npy", rows)
    assert np.array_equal(read_placed_descriptors(tmp_path / "d.npy", write_table(tmp_path))[1], rows)


def test_hloc_files_are_matched_by_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    h5py = pytest.importorskip("h5py")
    rows = unit_rows(4).astype(np.float16)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name, row in zip(["d.jpg", "b/c.jpg", "other.jpg", "a.jpg"], rows, strict=True):
            group = file.create_group(name)
            group["global_descriptor"] = row
            group["image_size"] = np.array([640, 480])
    table = write_table(tmp_path, [*PATHS, "e.jpg"])
    placed_table, placed = read_placed_descriptors(tmp_path / "d.h5", table)
    assert [place.path for place in placed_table.places] == PATHS
    np.testing.assert_array_equal(placed, rows[[3, 1, 0]])
    assert placed_table.skipped == {"e.jpg": "no descriptor in d.h5"}
    assert "Skipped: 1 descriptors of photos without a place, such as other.jpg." in caplog.text
    with pytest.raises(ValueError, match="1 of 4 photos were skipped"):
        read_placed_descriptors(tmp_path / "d.h5", table, strict=True)
    with pytest.raises(
        ValueError, match=r"None of the 4 names in .*, such as a.jpg, is the path of a photo in .*, such as x.jpg"
    ):
        read_placed_descriptors(tmp_path / "d.h5", write_table(tmp_path, ["x.jpg"]))


def test_one_hloc_file_may_have_the_photos_of_several_folders(tmp_path: Path) -> None:
    """Photos of equal names on the other side are not taken: names are relative to the folder of both sides."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for number, name in enumerate(["mapping/a.jpg", "query/a.jpg", "query/night/b.jpg"]):
            file.create_group(name).create_dataset("global_descriptor", data=np.eye(4, dtype=np.float32)[number])
    table = PlaceTable(tmp_path / "images" / "query", [Place("a.jpg"), Place("night/b.jpg")], "none")
    placed, rows, remarks = place_descriptors(read_descriptors(tmp_path / "d.h5"), table)
    assert placed.paths == ["a.jpg", "night/b.jpg"] and rows.argmax(axis=1).tolist() == [1, 2]
    assert [(remark.count, remark.example) for remark in remarks] == [(1, "mapping/a.jpg"), (2, "query/a.jpg")]


def test_a_matrix_in_an_hdf5_file_is_matched_by_order(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["features/rows"] = unit_rows()
    np.testing.assert_array_equal(read_placed_descriptors(tmp_path / "d.hdf5", write_table(tmp_path))[1], unit_rows())
    (tmp_path / "damaged.h5").write_bytes(b"text")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        read_descriptors(tmp_path / "damaged.h5")


def test_numbers_of_an_hdf5_file_that_are_in_other_files_are_not_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    unit_rows().tofile(tmp_path / "secret")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("d", (3, 5), "f4", external=[(str(tmp_path / "secret"), 0, 60)])
    with pytest.raises(ValueError, match="in other files"):
        read_descriptors(tmp_path / "d.h5")


def test_a_damaged_or_huge_hdf5_file_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("d", (10**9, 10**6), "f4", chunks=(1, 10**6))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("d", data=unit_rows())
    content = (tmp_path / "d.h5").read_bytes()
    (tmp_path / "d.h5").write_bytes(content.replace(b"TREE", b"FREE"))
    for name in ("huge.h5", "d.h5"):
        with pytest.raises(ValueError, match="is damaged"):
            read_descriptors(tmp_path / name)


def test_without_h5py_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "d.h5").write_bytes(b"")
    with pytest.raises(ImportError, match=r"d2vpr-hf\[hdf5\]"):
        read_descriptors(tmp_path / "d.h5")
