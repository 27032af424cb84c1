"""The photos of an index as a database to evaluate: millions of places and descriptors, of which none is copied whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.place_rows import PlaceRows
from d2vpr_hf.places import Place
from d2vpr_hf.places.place_columns import Codes, ColumnTexts, PlaceColumns
from d2vpr_hf.readers import Remark


@dataclass(frozen=True)
class IndexedPhotos:
    """The photos of an index, in the form of a [`PlaceTable`].

    Attributes:
        index: The index.
    """

    index: PlaceIndex

    @property
    def folder(self) -> Path:
        """The folder of the photos; they need not exist."""
        return self.index.settings.photo_folder

    @property
    def places(self) -> PlaceRows:
        """The place of each row."""
        return self.index.places

    @property
    def skipped(self) -> dict[str, str]:
        """Photos that the index lacks because they could not be read, with the reason."""
        return self.index.skipped

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """No remarks."""
        return ()

    def photo(self, place: Place) -> Path:
        """Return the file of a place."""
        return self.folder / place.path


class IndexColumns(PlaceColumns):
    """The fields of the places of an index, from its tables."""

    def __init__(self, places: PlaceRows) -> None:
        super().__init__(places)
        self._rows = places

    @functools.cached_property
    def paths(self) -> Sequence[str]:
        """Paths of the photos, which are made when they are used."""
        return ColumnTexts(self._rows.arrow_column("path"))

    @property
    def conditions(self) -> None:
        """Conditions are not needed of a database."""
        return None

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field of numbers (N,); NaN for values that are not known."""
        return np.asarray(self._rows.arrow_column(name).to_numpy(), np.float64)

    def codes(self, name: str) -> Codes:
        """Return the number of each place's text in a field, and the different texts; an empty text counts as none."""
        column = self._rows.arrow_column(name).combine_chunks().dictionary_encode()
        texts = column.dictionary.to_pylist()
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if "" in texts:
            codes[codes == texts.index("")] = -1
        return codes, texts
