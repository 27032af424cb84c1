"""List the photos of a folder, and name the files that are skipped."""

import heapq
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from d2vpr_hf.readers.image_signatures import NUM_BYTES, READ, image_format
from d2vpr_hf.readers.program_files import program_folder, program_name
from d2vpr_hf.readers.remarks import Remark, RemarkCounter
from d2vpr_hf.utils.regular_files import open_regular_file

_FORMATS = (
    "jpg jpeg jpe jfif mpo png apng webp bmp gif tif tiff jp2 j2k jpf jpx heic heics heif hif hifs avif avifs ppm pgm pnm"
)
PHOTO_SUFFIXES = frozenset(f".{name}" for name in _FORMATS.split())

LINKED_PHOTOS = "links to photos that are read under another name"
LINKED_FOLDERS = "links to folders that are read already"

_LIST_ENDING = "_images_paths.txt"

# Files of these names are not opened to look for an image in them: a file system in a network takes milliseconds for each.
_OTHER_FORMATS = """
    txt md rst json jsonl geojson csv tsv xml xmp yaml yml toml ini cfg conf log html htm css js py ipynb sh bat pdf doc docx
    xls xlsx ods odt ppt pptx srt vtt mp4 mov m4v avi mkv mts m2ts mpg mpeg 3gp webm lrv insv mp3 wav aac m4a flac ogg zip gz
    tgz tar bz2 xz 7z rar zst npy npz mat pt pth ckpt safetensors onnx parquet arrow feather h5 hdf5 db sqlite sqlite3 pkl
    pickle bag mcap pcd ply las laz obj stl gpx kml kmz fit aae lock exe dll so dylib svg
"""
_OTHER_SUFFIXES = frozenset(f".{name}" for name in _OTHER_FORMATS.split())
_UNSIGNED_SUFFIXES = frozenset(
    (".tga", ".icb", ".vda", ".vst")
)  # TGA begins with its size, and nothing tells it from other bytes

_Identity = tuple[int, int] | str  # equal for all names of a file or folder


@dataclass(frozen=True)
class PhotoListing:
    """The photos of a folder.

    Attributes:
        photos: Their paths, in their order; of several names of one file, one.
        skipped: Images that are not read, by their path relative to the folder, with the reason.
        remarks: Numbers of the photos that belong to programs, such as thumbnails, and of links to photos of the list.
        tables: The CSV files in the folder and its subfolders, relative to the folder.
    """

    photos: list[Path]
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
    tables: tuple[str, ...] = ()


def list_photos(folder: Path, listed: Collection[str] = ()) -> PhotoListing:
    """List the photo files in a folder and its subfolders, linked folders included, in the order of their paths.

    A file `<folder>_images_paths.txt` next to the folder, see [`read_paths_file`], replaces the search; the photos are then in
    the order of its lines. Links to missing files are listed too, and opening them reports the error.

    - Thumbnails, deleted photos and old versions that programs keep ([`program_file`]) are skipped and counted. Other hidden
      files and folders are read, and so is the given folder, whatever its name.
    - Files that are images by their first bytes, and whose names do not end in one of `PHOTO_SUFFIXES`, are named.
    - A file with several names, by symbolic or hard links, is listed once: under a name without a symbolic link if there is
      one, and then under the first name in the order of paths. Names that differ only by case or by the normalisation of
      Unicode are two photos, if the file system keeps two files.

    Args:
        folder: The folder.
        listed: Paths relative to the folder, with forward slashes, that a table lists: they are photos whatever their names.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no photo.
        NotADirectoryError: If it is a file.
        PermissionError: If a folder in it cannot be read.
        ValueError: If the list of paths is malformed.
    """
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}. Give a folder of photos, or a CSV file that lists them.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder. Give a folder of photos, or a CSV file that lists them.")
    listing = paths_file(folder)
    if listing.is_file():
        return PhotoListing(read_paths_file(listing, folder))
    search = _Search(folder, frozenset(listed))
    search.run()
    photos, remarks = search.unique_photos(), search.remarks.summary()
    if not photos:
        skipped = [f"{path} ({reason})" for path, reason in list(search.skipped.items())[:1]] + [str(each) for each in remarks]
        raise FileNotFoundError(
            f"No photo in {folder}: expected files that end in {', '.join(sorted(PHOTO_SUFFIXES))}."
            + (f" Skipped images: {' '.join(skipped)}" if skipped else "")
        )
    return PhotoListing(photos, search.skipped, remarks, tuple(sorted(search.tables)))


def natural_key(path: PurePath) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in names by their value: `frame2` before `frame10`."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [(0, int(part), "") if number % 2 else (1, 0, part) for number, part in enumerate(parts)]


def paths_file(folder: Path) -> Path:
    """Return the path of the list of photos that may be next to a folder: `<folder>_images_paths.txt`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.parent / f"{named.name}{_LIST_ENDING}"


def read_paths_file(listing: Path, folder: Path) -> list[Path]:
    """Read a list of photos, in the form of VPR-methods-evaluation: one path a line, relative to the folder.

    Empty lines are ignored. The files are not checked one by one; opening a missing file reports it.

    Raises:
        ValueError: If the list is not in UTF-8, or a path leads out of the folder or is listed twice.
        FileNotFoundError: If none of the files exists.
    """
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{listing} is not a text in UTF-8 ({error}). List one path a line.") from error
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            path = posixpath.normpath(line.strip())
            if path.startswith(("/", "../")):
                raise ValueError(f"{listing}, line {number}: expected a path inside the folder and relative to it, got {path}.")
            if numbers.setdefault(path, number) != number:
                raise ValueError(f"{listing}, line {number}: {path} is listed in line {numbers[path]} already.")
    photos = [folder / path for path in numbers]
    if not any(photo.exists() for photo in photos):
        example = f", such as {photos[0]}" if photos else ""
        raise FileNotFoundError(
            f"None of the {len(photos)} photos that {listing} lists exists{example}. Expected one path a line, relative to "
            f"{folder}. Without that file the folder is searched."
        )
    return photos


class _Search:
    """A search of a folder: real folders first, then linked ones in the order of their paths, so that all machines agree."""

    def __init__(self, folder: Path, listed: frozenset[str]) -> None:
        self.folder, self.listed = folder, listed
        self.remarks = RemarkCounter()
        self.skipped: dict[str, str] = {}
        self.tables: list[str] = []
        self._files: dict[_Identity, list[tuple[bool, Path]]] = defaultdict(list)  # whether by a link, and the path
        self._entered: set[_Identity] = set()
        self._linked: list[Path] = []  # a heap of links to folders

    def run(self) -> None:
        """Search the folder, and then all folders that links lead to."""
        self._walk(self.folder, by_link=False)
        while self._linked:
            link = heapq.heappop(self._linked)
            if file_identity(link) in self._entered:
                self.remarks.add("skipped", LINKED_FOLDERS, self._name(link))
            else:
                self._walk(link, by_link=True)

    def unique_photos(self) -> list[Path]:
        """Return one path of each photo, and count the others."""
        photos: list[Path] = []
        for names in self._files.values():
            names.sort()
            chosen = [path for _, path in names if self._is_listed(path)] or [names[0][1]]
            photos += chosen
            for _, path in names:
                if path not in chosen:
                    self.remarks.add("skipped", LINKED_PHOTOS, self._name(path))
        return sorted(photos)

    def _walk(self, root: Path, by_link: bool) -> None:
        folders = [root]
        while folders:
            parent = folders.pop()
            identity = file_identity(parent)
            if identity in self._entered:  # a mount may show a folder twice, without a link
                self.remarks.add("skipped", LINKED_FOLDERS, self._name(parent))
                continue
            self._entered.add(identity)
            inner = []
            entries = _sorted_entries(parent)
            siblings = {entry.name for entry in entries}
            for entry in entries:
                path = parent / entry.name
                if not _is_folder(entry):
                    self._add_file(path, entry, by_link or entry.is_symlink())
                elif text := program_folder(path.relative_to(self.folder).parts, siblings):
                    self._add_program_folder(path, text)
                elif entry.is_symlink():
                    heapq.heappush(self._linked, path)
                else:
                    inner.append(path)
            folders += reversed(inner)

    def _add_file(self, path: Path, entry: "os.DirEntry[str]", by_link: bool) -> None:
        text = program_name(entry.name)
        suffix = path.suffix.lower()
        if suffix in PHOTO_SUFFIXES or self._is_listed(path):
            if text is None or self._is_listed(path):
                self._files[file_identity(path)].append((by_link, path))
            else:
                self.remarks.add("skipped", text, self._name(path))
        elif suffix == ".csv":
            self.tables.append(self._name(path))
        elif suffix not in _OTHER_SUFFIXES and (reason := _unread_image(path, suffix)):
            if text is None:
                self.skipped[self._name(path)] = reason
            else:
                self.remarks.add("skipped", text, self._name(path))

    def _add_program_folder(self, folder: Path, text: str) -> None:
        """Count the photos in a program's folder, which may be unreadable; links are not followed."""
        for parent, folders, files in os.walk(folder):
            folders.sort()
            for path in (Path(parent, name) for name in sorted(files)):
                if self._is_listed(path):
                    self._files[file_identity(path)].append((False, path))
                elif path.suffix.lower() in PHOTO_SUFFIXES:
                    self.remarks.add("skipped", text, self._name(path))

    def _is_listed(self, path: Path) -> bool:
        return bool(self.listed) and self._name(path) in self.listed

    def _name(self, path: Path) -> str:
        """Return a path relative to the folder, in characters that can be printed."""
        return path.relative_to(self.folder).as_posix().encode(errors="backslashreplace").decode()


def file_identity(path: Path) -> _Identity:
    """Return device and inode of the file that a path leads to; its path for a broken link, or without inodes."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _sorted_entries(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _unread_image(path: Path, suffix: str) -> str | None:
    """Return the reason why an image is not read, from its first bytes; `None` for other files. Pipes are not opened."""
    try:
        with open_regular_file(path) as file:
            name = image_format(file.read(NUM_BYTES))
    except OSError:
        return None
    if name is None and suffix in _UNSIGNED_SUFFIXES:
        name = "TGA"
    if name == "TIFF":  # most raw formats of cameras are TIFF
        return "TIFF or a camera's raw format under another suffix; convert it to JPEG, or rename a TIFF to .tif"
    if name in READ:
        return f"{name} under a name that does not end in a suffix of photos; rename it"
    return None if name is None else f"{name} is not a format that is read; convert it to JPEG or PNG"
