"""Load models of this package and teachers; look up the photos that a projection was fitted to."""
