"""Pictures that the renderer puts on surfaces: textures, facades, letters, people, vehicles, trees."""
