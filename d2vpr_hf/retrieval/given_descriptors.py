"""Index and search descriptors that another program made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d2vpr_hf.index import SHARD_SIZE, IndexSettings, PlaceIndex, check_out, check_store
from d2vpr_hf.index.place_rows import PhotoFile
from d2vpr_hf.places.filters import Mask
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.readers.descriptor_files import DescriptorFile, check_values, read_descriptors, read_placed_descriptors
from d2vpr_hf.retrieval.search_photos import SearchResult

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Progress
    from d2vpr_hf.stores import Compression, StoreWord

DEFAULT_NAME = "own"


@dataclass(frozen=True)
class DescriptorReport:
    """Changes of an index by descriptors.

    Attributes:
        added: Number of new rows.
        replaced: Number of rows with a new descriptor or place.
        kept: Number of other rows, which stay.
        skipped: Photos without a descriptor, with the reason.
    """

    added: int
    replaced: int
    kept: int
    skipped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"added": self.added, "replaced": self.replaced, "kept": self.kept, "left_out": self.skipped}


def name_fingerprint(name: str, descriptor_dim: int) -> str:
    """Return the fingerprint of descriptors that a user gives under a name; it differs from those of all models."""
    return hashlib.sha256(f"descriptors given by the user: {name}, {descriptor_dim} numbers".encode()).hexdigest()


def index_descriptors(
    descriptors: str | Path,
    places: str | Path | PlaceTable,
    out: str | Path,
    *,
    name: str | None = None,
    tensor: str | None = None,
    normalize: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    dtype: str | None = None,
    compression: Compression | None = None,
    store: StoreWord | None = None,
    uri: str | None = None,
    progress: Progress | None = None,
) -> tuple[PlaceIndex, DescriptorReport]:
    """Build an index of descriptors that another program made, or add them to such an index.

    Rows of an existing index with the same paths are replaced, and all others stay: `d2vpr remove` removes rows.

    Args:
        descriptors: A file that [`read_descriptors`] reads.
        places: The places of its rows: a CSV file with a line for each row, or for HDF5 files with photos' names a table or
            folder with these photos. The photos themselves are not needed.
        out: The index folder.
        name: Name of the model that made the descriptors, such as `"megaloc-322"`. An index takes further rows under the same
            name only. `None` for that of the index, and `"own"` for a new one.
        tensor: Name of the tensor in the file; `None` for the only one.
        normalize: Whether to divide each descriptor by its length. Without it, other lengths than 1 are an error.
        strict: Whether a place without a descriptor is an error.
        overwrite: Whether to replace an index at `out`.
        dtype: Number type of a new index: `"float16"`, the default, or `"float32"`.
        compression: As for [`d2vpr_hf.retrieval.index_photos.index_photos`], as `store` and `uri`.
        store: Library that searches.
        uri: Address of a service.
        progress: Called with the number of rows just stored.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `out` exists and is not an index.
        BlockingIOError: If another process is changing the index.
        ValueError: If descriptors and places do not match, values are wrong (see [`check_values`]), or the index holds other
            descriptors.
    """
    folder = check_out(Path(out))
    check_store(store, uri, compression)
    table, rows = read_placed_descriptors(descriptors, places, tensor=tensor, normalize=normalize, strict=strict)
    width = rows.shape[1]
    if len({place.path for place in table.places}) < len(table.places):
        raise ValueError("A photo is listed twice in the table of places. Name each photo once.")
    index = None if overwrite else PlaceIndex.resume(folder, replacement=False)
    if index is not None:
        _check_index(index, name, width, dtype)
    else:
        settings = _settings(name or DEFAULT_NAME, width, dtype, table.folder.resolve())
        index = PlaceIndex.create(folder, settings, overwrite=overwrite)
    with index:
        indexed = set(index.places.column("path"))
        count = sum(place.path in indexed for place in table.places)
        step = index.settings.shard_size
        for start in range(0, len(rows), step):
            places_of_part = table.places[start : start + step]
            index.upsert(
                np.asarray(rows[start : start + step]),
                places_of_part,
                [PhotoFile()] * len(places_of_part),
                removed=[place.path for place in places_of_part if place.path in indexed],
                complete=start + step >= len(rows),
            )
            if progress is not None:
                progress(len(places_of_part))
        index.build_store(compression, store=store, uri=uri)
    return index, DescriptorReport(len(rows) - count, count, len(indexed) - count, dict(table.skipped))


def search_descriptors(
    index: PlaceIndex,
    descriptors: str | Path | DescriptorFile,
    *,
    top_k: int = 5,
    tensor: str | None = None,
    normalize: bool = False,
    allowed: Mask | None = None,
) -> list[SearchResult]:
    """Search an index with descriptors that another program made.

    They must be of the model that made the rows of the index; only their width can be checked.

    Args:
        index: The index.
        descriptors: A file that [`read_descriptors`] reads, or one that it has opened.
        top_k: Number of matches for each descriptor.
        tensor: Name of the tensor in a file that is not open yet; `None` for the only one.
        normalize: Whether to divide each descriptor by its length. Without it, other lengths than 1 are an error.
        allowed: (N,) mask of the rows to search; `None` for all rows.

    Returns:
        One result for each row of the file, named by the photo's path in the file, or else as `FILE[ROW]`.

    Raises:
        ValueError: If the width is not that of the index, or values are wrong.
    """
    file = descriptors if isinstance(descriptors, DescriptorFile) else read_descriptors(descriptors, tensor)
    width = file.descriptors.shape[1]
    if width != index.settings.descriptor_dim:
        raise ValueError(
            f"{file.path} has descriptors of {width} numbers, the index {index.folder} of {index.settings.descriptor_dim}. "
            "Give descriptors of the model that made the index."
        )
    values = check_values(file, file.descriptors, normalize, is_projected=index.settings.projection_dim is not None)
    results = []
    for start in range(0, len(values), SHARD_SIZE):
        block = np.asarray(values[start : start + SHARD_SIZE], np.float32)
        for row, matches in enumerate(index.search(block, top_k, allowed=allowed), start):
            results.append(SearchResult(Path(file.label(row)), matches))
    return results


def _settings(name: str, descriptor_dim: int, dtype: str | None, photo_folder: Path) -> IndexSettings:
    """Return the settings of a new index."""
    return IndexSettings(
        model_name=None,
        fingerprint=name_fingerprint(name, descriptor_dim),
        descriptor_dim=descriptor_dim,
        dtype=dtype or "float16",
        photo_folder=photo_folder,
        shard_size=SHARD_SIZE,
        descriptor_name=name,
    )


def _check_index(index: PlaceIndex, name: str | None, width: int, dtype: str | None) -> None:
    """Raise ValueError unless an index takes descriptors of this name and width."""
    index.check_takes_photos()
    settings = index.settings
    if settings.descriptor_name is None:
        raise ValueError(
            f"The rows of {index.folder} were encoded by the model {settings.model_name or 'in memory'}, and descriptors of a "
            "file cannot be added to them. Give another `out`, or `overwrite=True` to replace the index."
        )
    if name not in (None, settings.descriptor_name):
        raise ValueError(
            f"The index {index.folder} holds the descriptors {settings.descriptor_name!r}, not {name!r}. Give another `out`, "
            "or `overwrite=True` to replace the index."
        )
    if width != settings.descriptor_dim:
        raise ValueError(
            f"The index {index.folder} holds descriptors of {settings.descriptor_dim} numbers, the file of {width}. Give those "
            "of the same model, or `overwrite=True` to replace the index."
        )
    if dtype not in (None, settings.dtype):
        raise ValueError(f"The index holds {settings.dtype}, not {dtype}. Leave `dtype` out, or give `overwrite=True`.")
