"""The descriptors of an index as a file for other programs: HDF5, as hloc stores global descriptors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from d2vpr_hf.encoders import Progress
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.readers.descriptor_files import HLOC_NAME
from d2vpr_hf.retrieval.image_names import ImageNames
from d2vpr_hf.utils.atomic_files import check_new_file, store_file
from d2vpr_hf.utils.optional_imports import import_extra
from d2vpr_hf.utils.unit_length import are_wrong

logger = logging.getLogger(__name__)

DescriptorFormat = Literal["h5"]
FORMATS: tuple[DescriptorFormat, ...] = get_args(DescriptorFormat)

_ROWS_AT_ONCE = 4096
_VERSIONS = ("v108", "v110")  # of HDF5: small groups take little space, and libraries since 2016 can read the file


def export_descriptors(
    index: PlaceIndex,
    out: str | Path,
    *,
    format: DescriptorFormat = "h5",
    image_root: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the descriptors of an index as hloc stores global descriptors.

    The HDF5 file has a group for each photo, named by its path, with the data set `global_descriptor` (D,) in the number type
    of the index. `hloc.pairs_from_retrieval` and [`read_descriptors`] read it.

    Args:
        index: The index.
        out: The file.
        format: `"h5"`.
        image_root: Folder of all images, which names are relative to: `image_dir` of hloc. `None` for that of the index's
            photos.
        overwrite: Whether to replace an existing file.
        progress: Called with the number of descriptors just written.

    Returns:
        The number of descriptors.

    Raises:
        FileExistsError: If the file exists, unless `overwrite` is set.
        ImportError: If h5py is not installed.
        ValueError: If the index is empty or a photo is not in `image_root`.
    """
    if format not in FORMATS:
        raise ValueError(f"Expected `format` as one of {', '.join(FORMATS)}, got {format!r}.")
    check_new_file(Path(out), overwrite)
    h5py = import_extra("h5py", "hdf5")
    if not len(index):
        raise ValueError(f"The index {index.folder} has no photos.")
    names = ImageNames(index, image_root=image_root).of_index()
    descriptors = index.descriptors
    wrong_lengths = 0

    def write(scratch: Path) -> None:
        nonlocal wrong_lengths
        with h5py.File(scratch, "w", libver=_VERSIONS) as file:
            for start in range(0, len(names), _ROWS_AT_ONCE):
                block = descriptors[start : start + _ROWS_AT_ONCE]
                wrong_lengths += int(are_wrong(np.linalg.norm(block.astype(np.float32), axis=1)).sum())
                for name, row in zip(names[start : start + len(block)], block, strict=True):
                    file.create_group(name).create_dataset(HLOC_NAME, data=row)
                if progress is not None:
                    progress(len(block))

    store_file(Path(out), write)
    if wrong_lengths:
        logger.warning(
            "%d of %d descriptors are not of unit length. hloc compares descriptors by their products, this package by their "
            "distances, so that the order of matches may differ.",
            wrong_lengths,
            len(names),
        )
    return len(names)
