"""The room of the two training stages, which are still to be written."""
