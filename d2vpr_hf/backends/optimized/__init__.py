"""A model made faster for inference by torch, with the same results up to rounding."""
