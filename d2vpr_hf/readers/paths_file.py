"""The list of photos that may lie beside a huge folder, so that nobody has to walk it."""

import posixpath
from pathlib import Path

_ENDING = "_images_paths.txt"


def paths_file(folder: Path) -> Path:
    """Name the list that may lie beside a folder: `<folder>_images_paths.txt`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.parent / f"{named.name}{_ENDING}"


def read_paths_file(listing: Path, folder: Path) -> list[Path]:
    """Read a list of photos: one path relative to the folder a line, as VPR-methods-evaluation has it; empty lines are none.

    Files are not looked for one by one; whoever opens them names those that are missing.

    Raises:
        ValueError: If a path leads out of the folder, or is listed twice.
        FileNotFoundError: If none of the files is there.
    """
    paths = _paths(listing)
    photos = [folder / path for path in paths]
    if not any(photo.exists() for photo in photos):
        example = f", not {photos[0]} either" if photos else ""
        raise FileNotFoundError(
            f"None of the {len(photos)} photos that {listing} lists is there{example}. Expected one path a line, relative to "
            f"{folder}. Without that file the folder is searched."
        )
    return photos


def _paths(listing: Path) -> list[str]:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{listing} is no text in UTF-8 ({error}). List one path a line.") from error
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            path = posixpath.normpath(line.strip())
            _check_inside(listing, number, path)
            if numbers.setdefault(path, number) != number:
                raise ValueError(f"{listing}, line {number}: {path} is listed in line {numbers[path]} already.")
    return list(numbers)


def _check_inside(listing: Path, number: int, path: str) -> None:
    if path.startswith(("/", "../")):
        raise ValueError(f"{listing}, line {number}: expected a path inside the folder and relative to it, got {path}.")
