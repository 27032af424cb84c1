"""The rows of an index as an Arrow table, and as a data set that `datasets` searches by FAISS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from d2vpr_hf.index.place_rows import PlaceRows
from d2vpr_hf.places import PLACE_SCHEMA
from d2vpr_hf.stores.descriptors import MappedDescriptors
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    import datasets

COLUMN = "descriptor"


def index_to_dataset(descriptors: MappedDescriptors, places: PlaceRows, searchable: bool) -> datasets.Dataset:
    """Return places and descriptors as a data set; the rows of shards without removed rows are not copied."""
    import_extra("datasets", "datasets")
    import datasets

    table = index_table(descriptors, places)
    width = descriptors.shape[1]
    features = datasets.Features(
        {
            **datasets.Features.from_arrow_schema(PLACE_SCHEMA),
            COLUMN: datasets.List(datasets.Value(str(descriptors.dtype)), length=width),
        }
    )
    dataset = datasets.Dataset(table.cast(features.arrow_schema))
    if searchable and len(dataset):
        dataset.add_faiss_index(COLUMN)
    return dataset


def index_table(descriptors: MappedDescriptors, places: PlaceRows) -> pa.Table:
    """Return the columns of places, and `descriptor`, a list (D,) for each row; descriptors that are mapped stay so."""
    row_type = pa.list_(pa.from_numpy_dtype(descriptors.dtype), descriptors.shape[1])
    chunks = [pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), type=row_type) for part in descriptors.parts]
    return places.to_table().append_column(COLUMN, pa.chunked_array(chunks, row_type))
