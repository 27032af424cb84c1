"""The model that comes with the package."""
