"""The common form of photos of every source: a Hugging Face data set with a column for each field of a place.

Columns: `image` (decoded when it is read), those of [`Place`], and `place_id` (int64, null if only positions are known).
`datasets` is imported inside the functions: it takes a second, and a folder of photos can be indexed without it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from d2vpr_hf.places.place import PLACE_SCHEMA, Place
from d2vpr_hf.readers.photo_collection import name_in_folder
from d2vpr_hf.readers.photos import PhotoSource, is_url
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.remarks import Remark, RemarkCounter
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    PlaceDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset  # in the common form


def place_features() -> datasets.Features:
    """Return the columns of the common form and their types."""
    import datasets

    places = datasets.Features.from_arrow_schema(PLACE_SCHEMA)
    return datasets.Features({"image": datasets.Image(), **places, "place_id": datasets.Value("int64")})


def place_columns(places: Sequence[Place], place_ids: Sequence[int | None] | None = None) -> dict[str, list[Any]]:
    """Return the columns of the common form without the images."""
    columns: dict[str, list[Any]] = {name: [getattr(place, name) for place in places] for name in PLACE_SCHEMA.names}
    return columns | {"place_id": list(place_ids) if place_ids is not None else [None] * len(places)}


def to_dataset(table: PlaceTable) -> datasets.Dataset:
    """Turn a table of photos into the common form. Nothing is decoded or copied: an image is read when its row is used."""
    import_extra("datasets", "datasets")
    import datasets

    photos = [str(table.photo(place).absolute()) for place in table.places]
    place_ids = table.place_ids.tolist() if table.place_ids is not None else None
    return datasets.Dataset.from_dict({"image": photos} | place_columns(table.places, place_ids), place_features())


@dataclass(frozen=True)
class DatasetPhotos:
    """The photos of a data set in the common form; a [`d2vpr_hf.readers.PhotoCollection`].

    Attributes:
        dataset: The data set.
        folder: The folder that paths of photo files are relative to; `None` for the folder that contains all of them.
        remark_counter: The remarks of [`load_places`], which for a stream grow while it is read.
    """

    dataset: PlaceDataset
    folder: Path | None = None
    remark_counter: RemarkCounter = field(default_factory=RemarkCounter, compare=False, repr=False)

    @property
    def count(self) -> int | None:
        """The number of photos; `None` for a stream."""
        return getattr(self.dataset, "num_rows", None)

    @functools.cached_property
    def base_folder(self) -> Path:
        """The folder that paths are relative to."""
        return _common_folder(self.dataset) if self.folder is None else self.folder

    @property
    def skipped(self) -> dict[str, str]:
        """No photo of a data set is skipped before it is read."""
        return {}

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """Lines about values that were corrected or assumed; for a stream, in the rows that were read so far."""
        return self.remark_counter.summary()

    @property
    def paths(self) -> None:
        """The paths of a data set are known only when its photos are read."""

    def items(self) -> Iterator[tuple[Place, PhotoSource]]:
        """Yield each photo's place and the source of its pixels."""
        for place, photo in iter_photos(self.dataset):
            if Path(place.path).is_absolute():
                yield replace(place, path=name_in_folder(self.base_folder, Path(place.path))), photo
            else:
                yield place, photo

    def rebase(self, folder: Path) -> DatasetPhotos:
        """Return the photos with paths relative to another folder."""
        return DatasetPhotos(self.dataset, folder, self.remark_counter)


def iter_photos(dataset: PlaceDataset) -> Iterator[tuple[Place, PhotoSource]]:
    """Yield each photo's place and the source of its pixels, not decoded; a streamed data set is read row by row.

    The path of a photo in a file outside the data set is the absolute path of the file.

    Raises:
        ValueError: If the data set is not in the common form.
    """
    import datasets

    missing = [name for name in place_features() if name not in (dataset.column_names or ())]
    if missing:
        raise ValueError(f"The data set lacks {', '.join(missing)}. `load_places` brings it to the common form.")
    for row in dataset.cast_column("image", datasets.Image(decode=False)):
        yield _photo(row)


def _common_folder(dataset: PlaceDataset) -> Path:
    """Return the folder that contains all photos of a data set, without reading the photos.

    The path is empty if there is no such folder, as for photos in a Hub data set, or if the paths are known only when the
    photos are read, as for a stream.
    """
    import datasets

    parents: set[PurePosixPath] = set()
    if isinstance(dataset, datasets.Dataset):
        for batch in dataset.select_columns(["image", "path"]).with_format("arrow").iter(1000):
            parents.update(_parents(batch))
    if not parents or not all(parent.is_absolute() for parent in parents):
        return Path()
    return Path(os.path.commonpath(parents))


def _parents(batch: pa.Table) -> Iterator[PurePosixPath]:
    """Yield the folder of each photo: that of its file, or of its path if its pixels are in the data set."""
    contents, files = batch["image"].combine_chunks().flatten()
    for content, file, name in zip(contents, files.to_pylist(), batch["path"].to_pylist(), strict=True):
        is_file = not content.is_valid and file is not None and not is_url(file)
        yield PurePosixPath(Path(file).absolute().as_posix() if is_file else name).parent


def _photo(row: dict[str, Any]) -> tuple[Place, PhotoSource]:
    image = row["image"] or {"path": None, "bytes": None}
    values = {name: row[name] for name in PLACE_SCHEMA.names}
    if image["bytes"] is not None or image["path"] is None:
        return Place(**values), image["bytes"] or b""
    if is_url(image["path"]):
        return Place(**values), image["path"]
    photo = Path(image["path"]).absolute()
    return Place(**values | {"path": photo.as_posix()}), photo
