"""The formats that `d2vpr export` writes: one file for each, and a table of them."""
