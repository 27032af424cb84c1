"""The HTTP service of an index: `d2vpr serve INDEX`."""
