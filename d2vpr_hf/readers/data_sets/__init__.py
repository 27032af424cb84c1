"""Public data sets in the forms in which the field's scripts store them."""

from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.registry import LAYOUTS, read_data_set

__all__ = ["LAYOUTS", "DataSet", "DataSetPart", "Layout", "QuerySet", "read_data_set"]
