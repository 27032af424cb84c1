"""Two-stage training, run with `accelerate launch`."""
