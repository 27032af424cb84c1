"""The renderer: a scene becomes a photo by projection, walls, ground, sky, billboards, weather and camera."""
