"""A public data set as its reader returns it: databases, query sets, and the positives that the data set itself states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.remarks import Remark


@dataclass(frozen=True)
class QuerySet:
    """Queries that are evaluated together.

    Attributes:
        name: Name of the set, usually that of its folder: `"queries"`, `"queries_night"`.
        table: The queries.
        positives: For each query of `table.places` the rows (P,) of its positives in the part's `database.places`; `None` if
            positions and the rule of the evaluation decide.
    """

    name: str
    table: PlaceTable
    positives: tuple[NDArray[np.int64], ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.positives is not None and len(self.positives) != len(self.table.places):
            raise ValueError(
                f"Expected positives for each of the {len(self.table.places)} queries of {self.name}, got "
                f"{len(self.positives)}."
            )


@dataclass(frozen=True)
class DataSetPart:
    """A database and the queries that are searched in it.

    Attributes:
        name: Name of the part, such as a city; empty for the only part.
        database: The database photos.
        query_sets: The query sets, with different names.
    """

    name: str
    database: PlaceTable
    query_sets: tuple[QuerySet, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set to evaluate.

    Attributes:
        layout: Name of the layout in the registry.
        variant: Name of the data set's variant with its counts, such as `"MSLS val, 740 queries"`.
        parts: The parts. Query sets of equal name in several parts are one query set, each searched in its own database.
        positive_dist_threshold: The published threshold in metres, which applies unless another one is chosen; `None` for the
            usual 25 m.
        frame_tolerance: Largest difference of frame numbers, instead of metres; `None` to compare positions.
        remarks: Lines about photos that the reader skipped, and values that it corrected or assumed.
    """

    layout: str
    variant: str
    parts: tuple[DataSetPart, ...]
    positive_dist_threshold: float | None = None
    frame_tolerance: int | None = None
    remarks: tuple[Remark, ...] = field(default=(), compare=False)

    @property
    def query_set_names(self) -> tuple[str, ...]:
        """The names of the query sets of all parts, in their order."""
        return tuple(dict.fromkeys(queries.name for part in self.parts for queries in part.query_sets))

    @property
    def num_database(self) -> int:
        """The number of database photos in all parts."""
        return sum(len(part.database.places) for part in self.parts)

    def num_queries(self, name: str) -> int:
        """Return the number of queries of a query set in all parts."""
        return sum(len(queries.table.places) for part in self.parts for queries in part.query_sets if queries.name == name)

    def choose_queries(self, names: Sequence[str]) -> DataSet:
        """Return the data set with some of its query sets, in the order of `names`.

        Raises:
            ValueError: If there is no query set of a name.
        """
        missing = [name for name in names if name not in self.query_set_names]
        if missing:
            raise ValueError(f"There is no query set {', '.join(missing)}. There are {', '.join(self.query_set_names)}.")
        parts = []
        for part in self.parts:
            sets = {queries.name: queries for queries in part.query_sets}
            parts.append(replace(part, query_sets=tuple(sets[name] for name in dict.fromkeys(names) if name in sets)))
        return replace(self, parts=tuple(parts))

    def __str__(self) -> str:
        return f"{self.variant} (layout {self.layout})"


def select_rows(positives: Iterable[NDArray[np.int64]], rows: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], ...]:
    """Return positives as rows of a database from which photos were removed; removed photos are no longer positives.

    Args:
        positives: The rows (P,) of each query's positives in the whole database.
        rows: (N,) the rows that the database keeps, in their new order.
        count: The number of photos of the whole database.
    """
    new_rows = np.full(count, -1, np.int64)
    new_rows[rows] = np.arange(len(rows))
    renumbered = (new_rows[each] for each in positives)
    return tuple(each[each >= 0] for each in renumbered)
