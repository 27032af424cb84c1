"""The frames of a sequence in the order of their times, or of their names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import ReadOptions, read_place, read_places
from d2vpr_hf.readers.at_names import is_at_name
from d2vpr_hf.readers.photo_listing import list_photos, natural_key
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.sequences.frame_table import FrameTable, read_frame_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """A photo of a sequence.

    Attributes:
        photo: Its file.
        seconds: Its time in seconds since 1970; `None` if the order is not that of times.
        metres: Metres from the frame before it, by odometry; `None` if they are not known.
        turn: Change of the heading from the frame before it in degrees, clockwise; `None` if it is not known.
    """

    photo: Path
    seconds: float | None = None
    metres: float | None = None
    turn: float | None = None


@dataclass(frozen=True)
class FrameOrder:
    """The frames of a sequence in their order.

    Attributes:
        frames: The frames.
        order: Kind of the order, as text.
    """

    frames: list[Frame]
    order: str


def read_frames(folder: str | Path, odometry: FrameTable | None = None, *, strict: bool = False) -> FrameOrder:
    """Read the photos of a folder, or of a CSV file, as frames: in the order of their times, else of the lines or the names.

    Args:
        folder: A CSV file that [`read_frame_table`] reads, a folder with one, or a folder of photos, whose times are those of
            `@` names, EXIF, XMP and sidecar files.
        odometry: Movements between the frames, from [`read_odometry`]; a CSV file of the photos may have them too.
        strict: Whether a photo that is not used is an error.

    Raises:
        FileNotFoundError: If there is no such folder, or no photo in it.
        ValueError: If the folder has several CSV files, a line names a folder, or [`with_odometry`] raises it.
    """
    folder = Path(folder)
    file = _find_table(folder, odometry)
    if file is None:
        table = read_places(folder, ReadOptions(positions=None if _has_at_names(folder) else "exif"))
        report_skipped(table.skipped, table.count, strict)
        photos = [table.photo(place) for place in table.places]
        order = order_frames(photos, [to_seconds(place.timestamp) for place in table.places], is_listed=False)
    else:
        frames = read_frame_table(file)
        _check_photos([row.photo for row in frames.rows])
        _report_unlisted(folder, frames, strict)
        seconds = [to_seconds(row.timestamp) for row in frames.rows]
        order = order_frames([row.photo for row in frames.rows], seconds, is_listed=True)
        odometry = frames if odometry is None and "metres" in frames.fields else odometry
    return order if odometry is None else with_odometry(order, odometry)


def _find_table(folder: Path, odometry: FrameTable | None) -> Path | None:
    """Return the CSV file of a folder, apart from that of the odometry, or the CSV file itself; `None` without one."""
    if folder.is_file():
        return folder
    used = None if odometry is None else odometry.file.resolve()
    tables = [file for file in sorted(folder.glob("*.[cC][sS][vV]")) if file.is_file() and file.resolve() != used]
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"{folder} has several CSV files ({names}). Give the one of the frames instead of the folder.")
    return tables[0] if tables else None


def _has_at_names(folder: Path) -> bool:
    """Return whether a photo of a folder has an `@` name."""
    return any(is_at_name(file) for file in list_photos(folder).photos)


def _report_unlisted(folder: Path, frames: FrameTable, strict: bool) -> None:
    """Count the photos of a folder that its table does not list."""
    if folder.is_file():
        return
    listed = {row.photo.resolve() for row in frames.rows}
    photos = list_photos(folder).photos
    unlisted = {photo.name: f"not in {frames.file.name}" for photo in photos if photo.resolve() not in listed}
    report_skipped(unlisted, len(photos), strict)


def list_frames(photos: Sequence[str | Path], odometry: FrameTable | None = None) -> FrameOrder:
    """Return photos as frames, in the order of the times of their names, EXIF, XMP and sidecar files, else as given.

    Raises:
        ValueError: If a path is a folder, or [`with_odometry`] raises it.
    """
    paths = list(map(Path, photos))
    _check_photos(paths)
    order = order_frames(paths, [_photo_seconds(path) for path in paths], is_listed=True)
    return order if odometry is None else with_odometry(order, odometry)


def _check_photos(paths: Sequence[Path]) -> None:
    """Raise ValueError if a path is a folder: its photos would take the places of the frames behind it."""
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None:
        raise ValueError(f"{folder} is a folder. Give `sequence_folder=...` for the photos of a folder.")


def order_frames(photos: Sequence[Path], seconds: Sequence[float], *, is_listed: bool) -> FrameOrder:
    """Order photos by their times; without times of all of them, as listed, or by the natural order of their names.

    Photos of one time are in the order that they have without times, and spread evenly over a whole second.

    Args:
        photos: The photos.
        seconds: Their times; NaN for times that are not known.
        is_listed: Whether the photos are in an order that their user chose.
    """
    rows = list(range(len(photos))) if is_listed else sorted(range(len(photos)), key=lambda row: natural_key(photos[row]))
    kind = "given order" if is_listed else "natural order of names"
    num_timed = int(np.isfinite(seconds).sum())
    if len(photos) > 1 and num_timed == len(photos) and len(set(seconds)) > 1:
        rows.sort(key=lambda row: seconds[row])
        times = _spread_over_seconds([float(seconds[row]) for row in rows])
        return FrameOrder([Frame(photos[row], time) for row, time in zip(rows, times, strict=True)], "order of times")
    if 0 < num_timed < len(photos):
        logger.warning(
            "%d of %d frames have no time, so that the times of the others are not used.", len(photos) - num_timed, len(photos)
        )
    elif num_timed > 1:
        logger.warning("All %d frames have the same time, which is not used.", len(photos))
    return FrameOrder([Frame(photos[row]) for row in rows], kind)


def _spread_over_seconds(times: list[float]) -> list[float]:
    """Return times (N,) in their order, with those of one whole second spread evenly over it, or up to the next time in it.

    EXIF often has whole seconds only: at the same time, frames would have to be at the same position.
    """
    counts = Counter(times)
    shared = {time: count for time, count in counts.items() if count > 1 and time.is_integer()}
    if not shared:
        return times
    logger.warning("%d frames share the whole second of their time; they are spread evenly over it.", sum(shared.values()))
    first_numbers = {time: number for number, time in reversed(list(enumerate(times)))}
    different = sorted(counts)
    spans = {time: min(1.0, later - time) for time, later in zip(different, [*different[1:], np.inf], strict=True)}
    return [
        time + spans[time] * (number - first_numbers[time]) / counts[time] if time in shared else time
        for number, time in enumerate(times)
    ]


def with_odometry(order: FrameOrder, odometry: FrameTable) -> FrameOrder:
    """Add the movements of an odometry to frames; a warning counts the frames that it lacks.

    Each line is the movement from the line before it; the first line may be that from a frame without a line. Movements
    of lines between two frames, such as those of photos that are skipped, are added.

    Raises:
        ValueError: If the lines of two frames are in another order than the frames, or no line has the metres of a frame after
            the first.
    """
    numbers = {row.photo.resolve(): number for number, row in enumerate(odometry.rows)}
    lines = [numbers.get(frame.photo.resolve()) for frame in order.frames]
    _check_line_order(order, odometry, lines)
    frames, num_lacking = [], 0
    for number, (frame, line) in enumerate(zip(order.frames, lines, strict=True)):
        metres, turn = _movement(odometry, lines[number - 1] if number else None, line)
        num_lacking += number > 0 and metres is None
        frames.append(replace(frame, metres=metres, turn=turn))
    if 0 < num_lacking == len(frames) - 1:
        raise ValueError(f"{odometry.file} has no metres of any frame after the first, such as {frames[1].photo}.")
    if num_lacking:
        logger.warning("%d of %d frames after the first have no metres in %s.", num_lacking, len(frames) - 1, odometry.file)
    return FrameOrder(frames, order.order)


def _check_line_order(order: FrameOrder, odometry: FrameTable, lines: Sequence[int | None]) -> None:
    """Raise ValueError if the lines of an odometry are in another order than the frames: movements would be those of others."""
    listed = [(line, frame.photo) for line, frame in zip(lines, order.frames, strict=True) if line is not None]
    for (line, photo), (next_line, next_photo) in pairwise(listed):
        if next_line < line:
            raise ValueError(
                f"The lines of {odometry.file} are movements from the line before, and {next_photo.name} is before "
                f"{photo.name} there. The frames are in the {order.order}: sort the lines like them."
            )


def _movement(odometry: FrameTable, earlier: int | None, line: int | None) -> tuple[float | None, float | None]:
    """Return metres and turn from the frame of an earlier line to that of a line; `None` for those that are not known."""
    if line is None or (earlier is None and line > 0):
        return None, None
    rows = odometry.rows[line : line + 1] if earlier is None else odometry.rows[earlier + 1 : line + 1]
    metres, turns = [row.metres for row in rows], [row.turn for row in rows]
    return _total(metres), _total(turns)


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of values; `None` if one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _photo_seconds(photo: Path) -> float:
    """Return the time of a photo; NaN if it is not known or the file cannot be read, which the encoder reports."""
    try:
        return to_seconds(read_place(photo).timestamp)
    except (OSError, ValueError):
        return float("nan")
