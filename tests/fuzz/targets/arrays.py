"""Files of descriptors and of arrays."""

import io
from pathlib import Path
from typing import Any

from tests.fuzz.targets.registry import Prepared, check, file_target, target


def _descriptors() -> Any:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _read_descriptors(path: Path) -> None:
    import numpy as np

    from d2vpr_hf.readers.descriptor_files import read_descriptors

    file = read_descriptors(path)
    check(np.asarray(file.descriptors[:2]).ndim == 2, "descriptors without rows")


@target
def npy_descriptors(folder: Path) -> Prepared:
    import numpy as np

    files = []
    for values in (_descriptors(), np.asfortranarray(_descriptors().astype(np.float16))):
        file = io.BytesIO()
        np.save(file, values)
        files.append(file.getvalue())
    return file_target(folder / "rows.npy", files, _read_descriptors)


@target
def safetensors_descriptors(folder: Path) -> Prepared:
    from safetensors.numpy import save

    return file_target(folder / "rows.safetensors", [save({"rows": _descriptors()}, {"a": "b"})], _read_descriptors)


@target
def hdf5_descriptors(folder: Path) -> Prepared:
    import h5py

    with h5py.File(folder / "one.h5", "w") as file:
        file["rows"] = _descriptors()
    with h5py.File(folder / "many.h5", "w") as file:
        for name, row in zip(("a.jpg", "b/c.jpg"), _descriptors(), strict=False):
            file.create_group(name)["global_descriptor"] = row
    seeds = [(folder / name).read_bytes() for name in ("one.h5", "many.h5")]
    return file_target(folder / "rows.h5", seeds, _read_descriptors)


@target
def array_pickles(folder: Path) -> Prepared:
    import numpy as np

    from d2vpr_hf.readers.data_sets.array_files import read_names, read_positives

    arrays = (
        np.array([np.array([1, 2]), np.array([3])], object),
        np.array(["a.jpg", "b.jpg"], object),
        np.arange(6).reshape(2, 3),
    )
    files = []
    for values in (*arrays, np.array(["a.jpg", "ä.jpg"]), np.array([b"a.jpg"])):
        file = io.BytesIO()
        np.save(file, values, allow_pickle=True)
        files.append(file.getvalue())

    def read(path: Path) -> None:
        try:
            read_names(path)
        except ValueError:
            read_positives(path)

    return file_target(folder / "array.npy", files, read)
