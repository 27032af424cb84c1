"""The photos that the command line names for an evaluation: folders, tables, lists, an index, and files of positives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.indexed_photos import IndexColumns
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.manifest import MANIFEST
from d2vpr_hf.readers import PlaceTable, ReadOptions
from d2vpr_hf.readers.data_sets import QuerySet
from d2vpr_hf.readers.photo_lists import read_listed_places
from d2vpr_hf.readers.positives_files import RowNames, read_positives
from d2vpr_hf.readers.registry import options_of_paths, read_places


@dataclass(frozen=True)
class NumberedPhotos:
    """Photos with the numbers by which files of positives refer to them.

    Attributes:
        photos: The table, or the index.
        rows: (L,) for each photo of a list its row in the table, -1 if it is missing; `None` without a list.
    """

    photos: PlaceTable | PlaceIndex
    rows: NDArray[np.int64] | None = None

    def names(self, side: str) -> RowNames:
        """Return the names and row numbers of the photos of a side."""
        if isinstance(self.photos, PlaceIndex):
            return RowNames(side, IndexColumns(self.photos.places).paths, self.photos.skipped)
        return RowNames(side, self.photos.paths, self.photos.skipped, self.rows)


def read_database(
    path: Path, listing: Path | None, paths: Sequence[Path], options: ReadOptions, with_positions: bool = True
) -> NumberedPhotos:
    """Read the database: open an index, or read a folder, a CSV file, or the photos of a list.

    Args:
        path: The index, folder or CSV file.
        listing: A list of the photos; `None` for all.
        paths: The paths of both sides, by which options that belong to tables are told apart.
        options: Options of the readers.
        with_positions: Whether positions of listed photos are needed.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As the readers do, or for a list of the photos of an index.
    """
    if (path / MANIFEST).exists():
        if listing is not None:
            raise ValueError(f"{path} is an index, which has an order of its own. Leave `database_list` out.")
        return NumberedPhotos(PlaceIndex.open(path))
    return _read(path, listing, paths, options, with_positions)


def read_query_sets(
    folders: Mapping[str, Path],
    listings: Sequence[Path],
    positives: Sequence[Path],
    database: NumberedPhotos,
    paths: Sequence[Path],
    options: ReadOptions,
) -> list[QuerySet]:
    """Read query sets, with their positives.

    Args:
        folders: Folder or CSV file of each set, by its name.
        listings: A list of the photos of each set, or none.
        positives: A file of the positives of each set, or none.
        database: The database.
        paths: The paths of both sides, by which options that belong to tables are told apart.
        options: Options of the readers.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As the readers do.
    """
    query_sets = []
    for number, (name, folder) in enumerate(folders.items()):
        queries = _read(folder, listings[number] if listings else None, paths, options, not positives)
        assert isinstance(queries.photos, PlaceTable)
        if not positives:
            query_sets.append(QuerySet(name, queries.photos))
            continue
        rows, remarks = read_positives(positives[number], database.names("database"), queries.names("queries"))
        table = replace(queries.photos, remarks=(*queries.photos.remarks, *remarks))
        query_sets.append(QuerySet(name, table, rows))
    return query_sets


def _read(
    path: Path, listing: Path | None, paths: Sequence[Path], options: ReadOptions, with_positions: bool
) -> NumberedPhotos:
    own_options = options_of_paths(paths, options)[list(paths).index(path)]
    if listing is None:
        return NumberedPhotos(read_places(path, own_options))
    listed = read_listed_places(path, listing, own_options, with_positions=with_positions)
    return NumberedPhotos(listed.table, listed.rows)
