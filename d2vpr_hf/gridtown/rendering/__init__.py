"""From a scene to a photo: projection, walls, ground, sky, billboards, and what a camera adds."""
