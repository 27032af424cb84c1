"""The pictures that the renderer puts on surfaces: facades, shop signs, sprites of trees, people and vehicles, ground."""
