"""A visitor's own map: photos with GPS become an index in a private folder, which is deleted when the visitor leaves."""

import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d2vpr_hf.encoders import Encoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable, Remark, read_photo
from d2vpr_hf.readers.remarks import merge_remarks
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.space.photo_map import PhotoMap
from d2vpr_hf.space.uploads import LIMITS, Limits, UploadError, collect_photos

Progress = Callable[[int, int], None]  # called with the number of finished photos and the number of all
NO_POSITION = "no GPS position in its EXIF"


@dataclass(frozen=True)
class OwnMap:
    """A map of a visitor's photos.

    Attributes:
        folder: The folder of the map, with `photos` and `index` in it.
        index: The index.
        skipped: Names of files that are not in the index, with the reason.
        remarks: Lines about positions, headings and times that were corrected or assumed.
    """

    folder: Path
    index: PlaceIndex
    skipped: dict[str, str]
    remarks: tuple[Remark, ...] = ()


def build_own_map(
    files: Sequence[Path], folder: Path, encoder: Encoder, *, limits: Limits = LIMITS, progress: Progress | None = None
) -> OwnMap:
    """Index the photos of an upload that have a position. The folder is deleted if that fails.

    Positions are read from EXIF, or from `@` names. Tables in a zip are not read, as they could name any file.

    Args:
        files: The uploaded files, photos or zips.
        folder: A new folder for this map, of which no files are served to other visitors.
        encoder: Makes the descriptors.
        limits: Limits of an upload.
        progress: Called when photos are finished.

    Raises:
        UploadError: If there are no photos, too many, none with a position, or a zip is refused.
    """
    try:
        collected = collect_photos(files, folder / "photos", limits)
        table, without_position = _read_photos(collected.photos, folder / "photos")
        if not table.places:
            photos = "The photo has no" if len(collected.photos) == 1 else f"None of the {len(collected.photos)} photos has a"
            problems = (f" {name}: {reason}." for name, reason in without_position.items() if reason != NO_POSITION)
            raise UploadError(
                f"{photos} GPS position in its EXIF, so no map can be made.{next(problems, '')} Switch on location in your "
                "camera, and upload original files: many messengers remove the position."
            )
        count_finished = None if progress is None else _sum_up(progress, len(table.places))
        index, report = index_photos(table, folder / "index", encoder, progress=count_finished)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return OwnMap(folder, index, collected.skipped | without_position | report.skipped, report.remarks)


def _read_photos(photos: Sequence[Path], folder: Path) -> tuple[PlaceTable, dict[str, str]]:
    """Return the photos with a position, and the reasons why the others have none, by their names."""
    places, remarks = list[Place](), list[Remark]()
    without_position: dict[str, str] = {}
    for photo in photos:
        try:
            table = read_photo(photo)
        except ValueError:  # the message has the server's folder
            without_position[photo.name] = "its name begins with @ and is not an @ name"
            continue
        if table.num_positions:
            places.append(replace(table.places[0], path=photo.relative_to(folder).as_posix()))
            remarks += table.remarks
        else:
            problem = next((remark.text.partition(";")[0] for remark in table.remarks if remark.kind == "skipped"), None)
            without_position[photo.name] = NO_POSITION if problem is None else f"no usable GPS position: {problem}"
    return PlaceTable(folder, places, "exif", remarks=merge_remarks(remarks)), without_position


def pack_index(own_map: OwnMap, out: Path) -> Path:
    """Write the index of an own map, without photos, as a zip that `d2vpr search` reads after unpacking."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(own_map.index.folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                archive.write(file, f"my-index/{file.name}")
    return out


class OwnMaps:
    """The own maps of all visitors, one for each owner, each in a folder with a secret name. Safe to use from threads.

    An owner is a visitor with a session: the name of the session alone does not open or delete a map. A timer deletes each map
    when its time is over.

    Args:
        folder: Parent of the maps' folders.
        seconds: Time from `begin` after which a map is deleted, also while its visitor's page is open. Its photos are deleted
            by the same clock, so that a map never outlives them.
        max_maps: Number of maps at a time; one more deletes the oldest.
    """

    def __init__(self, folder: Path, seconds: float = 3600, max_maps: int = 50) -> None:
        self.folder = folder
        self.seconds = seconds
        self.max_maps = max_maps
        self._begun: dict[Hashable, _BegunMap] = {}
        self._maps: dict[Hashable, _KeptMap] = {}
        self._lock = threading.Lock()

    def begin(self, owner: Hashable) -> Path:
        """Return the folder for an owner's new map, and delete the owner's earlier map."""
        self.remove(owner)
        folder = self.folder / secrets.token_hex(16)
        with self._lock:
            self._begun[owner] = _BegunMap(time.monotonic(), folder)
        return folder

    def keep(self, owner: Hashable, own_map: OwnMap, photo_map: PhotoMap) -> PhotoMap | None:
        """Keep an owner's map, and delete the oldest maps if these are too many.

        Returns:
            The map; `None` if it was deleted at once, because it was removed or begun again while it was being made.
        """
        with self._lock:
            begun = self._begun.get(owner)
            is_wanted = begun is not None and begun.folder == own_map.folder
            if begun is not None and is_wanted:
                del self._begun[owner]
                seconds = max(0.0, begun.since + self.seconds - time.monotonic())
                timer = threading.Timer(seconds, self._expire, (owner, own_map.folder))
                timer.daemon = True
                self._maps[owner] = _KeptMap(begun.since, own_map, photo_map, timer)
                timer.start()
            surplus = list(self._maps)[: -self.max_maps]  # a dictionary keeps the order of insertion
        for other in surplus:
            self.remove(other)
        if not is_wanted:
            shutil.rmtree(own_map.folder, ignore_errors=True)
            return None
        return photo_map

    def get(self, owner: Hashable) -> PhotoMap | None:
        """Return the map of an owner, or `None` if there is none or its time is over."""
        with self._lock:
            entry = self._maps.get(owner)
        if entry is None:
            return None
        if time.monotonic() - entry.since <= self.seconds:
            return entry.photo_map
        self.remove(owner)
        return None

    def remove(self, owner: Hashable) -> None:
        """Delete the map of an owner with its photos, if there is one, also one that is still being made."""
        with self._lock:
            self._begun.pop(owner, None)
            entry = self._maps.pop(owner, None)
        if entry is not None:
            entry.timer.cancel()
            shutil.rmtree(entry.own_map.folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._maps)

    def _expire(self, owner: Hashable, folder: Path) -> None:
        """Delete a map, unless its owner has another one meanwhile."""
        with self._lock:
            entry = self._maps.get(owner)
        if entry is not None and entry.own_map.folder == folder:
            self.remove(owner)


@dataclass(frozen=True)
class _BegunMap:
    """A map that is being made: the time of `begin`, and its folder."""

    since: float
    folder: Path


@dataclass(frozen=True)
class _KeptMap:
    """A map that is kept: the time of `begin`, the map in both forms, and the timer that deletes it."""

    since: float
    own_map: OwnMap
    photo_map: PhotoMap
    timer: threading.Timer


def _sum_up(progress: Progress, total: int) -> Callable[[int], None]:
    """Return a callback that adds up the numbers of finished photos and passes the sum on."""
    done = 0

    def finish(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return finish
