"""Weights from elsewhere, as model folders of this package."""

from d2vpr_hf.convert.convert import ConversionError, convert_weights, load_converted
from d2vpr_hf.convert.sources import SOURCES, Source

__all__ = ["SOURCES", "ConversionError", "Source", "convert_weights", "load_converted"]
