"""A visitor's own map: photos with GPS become an index in a folder of his, which goes when he leaves."""

import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders import Encoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable, read_place
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.space.photo_map import PhotoMap
from d2vpr_hf.space.uploads import LIMITS, Limits, UploadError, collect_photos

Progress = Callable[[int, int], None]  # called with how many photos are finished, and how many there are
NO_POSITION = "no GPS position in its EXIF"


@dataclass(frozen=True)
class OwnMap:
    """A map of a visitor's photos.

    Attributes:
        folder: Everything of it: `photos`, `index`.
        index: The index.
        left_out: Photos that are not in it, by name, with the reason.
    """

    folder: Path
    index: PlaceIndex
    left_out: dict[str, str]


def build_own_map(
    files: Sequence[Path], folder: Path, encoder: Encoder, *, limits: Limits = LIMITS, progress: Progress | None = None
) -> OwnMap:
    """Index the photos of an upload that have a position; if that fails, nothing is left.

    Positions are read from EXIF, or from `@` names. Tables in a zip are not looked at, as they could name any file.

    Args:
        files: What was uploaded, zips too.
        folder: A folder of the visitor's own, which nobody else is given files of.
        encoder: Gives the descriptors.
        limits: What is taken.
        progress: Called as photos are finished.

    Raises:
        UploadError: If there are no photos, too many, none with a position, or a zip is refused.
    """
    try:
        collected = collect_photos(files, folder / "photos", limits)
        table, without = _with_positions(collected.photos, folder / "photos")
        if not table.places:
            raise UploadError(_no_positions(len(collected.photos)))
        finished = _counted(progress, len(table.places)) if progress is not None else None
        index, report = index_photos(table, folder / "index", encoder, progress=finished)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return OwnMap(folder, index, collected.left_out | without | report.skipped)


def pack_index(own: OwnMap, out: Path) -> Path:
    """Write the index of an own map, without photos, as a zip that `d2vpr search` reads when it is unpacked."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(own.index.folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                archive.write(file, f"my-index/{file.name}")
    return out


class OwnMaps:
    """The own maps of all visitors, one a session, each in a folder that nobody can guess. Safe to use from threads.

    Args:
        folder: Where the folders lie.
        seconds: After which a map is deleted, whether or not its visitor is still there.
        most: Maps at a time; the oldest goes for one more.
    """

    def __init__(self, folder: Path, seconds: float = 3600, most: int = 50) -> None:
        self.folder, self.seconds, self.most = folder, seconds, most
        self._kept: dict[str, tuple[float, OwnMap, PhotoMap]] = {}
        self._lock = threading.Lock()

    def begin(self, session: str) -> Path:
        """Name the folder of a new map; the one that the session had before is deleted."""
        self.remove(session)
        return self.folder / secrets.token_hex(16)

    def keep(self, session: str, own: OwnMap, photo_map: PhotoMap) -> PhotoMap:
        """Keep a map for a session, and delete those that are too old or too many."""
        with self._lock:
            self._kept[session] = (time.monotonic(), own, photo_map)
            oldest_first = sorted(self._kept, key=lambda name: self._kept[name][0])
            stale = set(oldest_first[: -self.most]) | {name for name in oldest_first if self._is_old(name)}
        for name in stale:
            self.remove(name)
        return photo_map

    def get(self, session: str) -> PhotoMap | None:
        """Return the map of a session, `None` if it has none any more."""
        with self._lock:
            if session in self._kept and not self._is_old(session):
                return self._kept[session][2]
        self.remove(session)
        return None

    def remove(self, session: str) -> None:
        """Delete the map of a session with its photos, if there is one."""
        with self._lock:
            kept = self._kept.pop(session, None)
        if kept is not None:
            shutil.rmtree(kept[1].folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._kept)

    def _is_old(self, session: str) -> bool:
        return time.monotonic() - self._kept[session][0] > self.seconds


def _counted(progress: Progress, total: int) -> Callable[[int], None]:
    """Add up what was finished."""
    done = 0

    def finish(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return finish


def _with_positions(photos: Sequence[Path], folder: Path) -> tuple[PlaceTable, dict[str, str]]:
    """Read positions; return the photos that have one, and the names of those that do not."""
    places, without = [], {}
    for photo in photos:
        place = _read_place(photo)
        path = photo.relative_to(folder).as_posix()
        if place.has_position:
            places.append(Place(**(vars(place) | {"path": path})))
        else:
            without[photo.name] = NO_POSITION
    return PlaceTable(folder, places, "exif"), without


def _read_place(photo: Path) -> Place:
    try:
        return read_place(photo)
    except ValueError:  # a name that begins with @ by chance
        return Place(photo.name)


def _no_positions(count: int) -> str:
    photos = "The photo has no" if count == 1 else f"None of the {count} photos has a"
    return (
        f"{photos} GPS position in its EXIF, so there is no map to make. Switch location on in your camera, and send "
        "originals: many messengers remove it."
    )
