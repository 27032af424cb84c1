"""Photos' names in programs for structure from motion: paths relative to one folder of all images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.readers.photo_collection import name_in_folder


class ImageNames:
    """The names of an index's photos and of other photos, relative to a folder, with forward slashes.

    Args:
        index: An index.
        queries: Other photos that need names.
        image_root: The folder; `None` for the folder of the index's photos, or, where other photos are needed too, the deepest
            folder that contains all of them.

    Attributes:
        root: The folder; `None` if the index has no folder of photos, such as one from the Hub: its names are then those of its
            rows, and it must be told the folder of other photos.

    Raises:
        ValueError: If a photo is not in the folder, or the folder of queries is not known.
    """

    def __init__(self, index: PlaceIndex, queries: Sequence[Path] = (), image_root: str | Path | None = None) -> None:
        self._index = index
        self._paths: list[str] = index.places.column("path")
        self._absolute = {path for path in self._paths if Path(path).is_absolute()}  # photos that were added from elsewhere
        photo_folder = index.settings.photo_folder
        self._has_folder = photo_folder != Path()
        if not self._has_folder and queries and image_root is None:
            raise ValueError(
                f"The index {index.folder} does not record a folder of photos, to which names of queries can be relative. Give "
                "`image_root=...`, the folder that contains its photos and the queries."
            )
        given = None if image_root is None else Path(image_root).resolve()
        self.root = given if given is not None or not self._has_folder else self._common_folder(photo_folder, queries)
        for query in queries:
            self.of_photo(query)  # an error before photos are encoded

    def _common_folder(self, photo_folder: Path, queries: Sequence[Path]) -> Path:
        folders = {str(Path(path).parent) for path in self._absolute}
        folders |= {str(query.parent.resolve()) for query in queries}
        if len(self._absolute) < len(self._paths):
            folders.add(str(photo_folder))
        return Path(os.path.commonpath(folders)) if folders else photo_folder

    def of_index(self) -> list[str]:
        """Return the name of each row of the index."""
        if self.root is None or not self._has_folder:
            return self._paths
        photo_folder = self._index.settings.photo_folder
        if self.root.is_relative_to(photo_folder) and self.root != photo_folder:
            return [self.of_photo(photo_folder / path) for path in self._paths]
        prefix = "" if photo_folder == self.root else f"{self.of_photo(photo_folder)}/"
        return [self.of_photo(Path(path)) if path in self._absolute else f"{prefix}{path}" for path in self._paths]

    def of_photo(self, photo: Path) -> str:
        """Return the name of a photo.

        Raises:
            ValueError: If it is not in the folder.
        """
        assert self.root is not None
        name = name_in_folder(self.root, photo)
        if Path(name).is_absolute():
            raise ValueError(f"{photo} is not in {self.root}. Give `image_root=...`, a folder that contains all photos.")
        return name
