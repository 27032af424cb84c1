"""Convert weights of other codes to model folders of this package, and back."""

from d2vpr_hf.convert.convert import Conversion, convert_weights, load_converted
from d2vpr_hf.convert.mobilenet_v2 import convert_mobilenet_v2
from d2vpr_hf.convert.published import convert_to_published
from d2vpr_hf.convert.sources import SOURCES, Source, Target
from d2vpr_hf.convert.weights_file import ConversionError

__all__ = [
    "SOURCES",
    "Conversion",
    "ConversionError",
    "Source",
    "Target",
    "convert_mobilenet_v2",
    "convert_to_published",
    "convert_weights",
    "load_converted",
]
