"""The names of inputs and outputs in graphs of this package. This module loads no library."""

INPUT, OUTPUT = "pixel_values", "descriptors"
