"""Index photos: build an index, add photos to it, remove photos from it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.index import SHARD_SIZE, PlaceIndex, check_out, check_store
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PhotoSource, PlaceTable, iter_photos, read_place, read_places
from d2vpr_hf.readers.place_dataset import common_folder
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.compatibility import check_setup, index_settings
from d2vpr_hf.retrieval.updates import IndexUpdate, UpdateReport, not_the_same_photos

if TYPE_CHECKING:
    from d2vpr_hf.readers.place_dataset import PlaceDataset
    from d2vpr_hf.stores import Compression, StoreWord

logger = logging.getLogger(__name__)


def index_photos(
    photos: str | Path | PlaceTable | PlaceDataset,
    out: str | Path,
    encoder: Encoder,
    *,
    strict: bool = False,
    overwrite: bool = False,
    dtype: str | None = None,
    compression: Compression | None = None,
    store: StoreWord | None = None,
    uri: str | None = None,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> tuple[PlaceIndex, UpdateReport]:
    """Build the index of photos, or bring it in line with them: only what is new or changed is encoded.

    Photos are stored a shard at a time, so that a run which is killed loses no more; the same call again goes on from there,
    to the same bytes. A photo is taken for unchanged if its file has the size and time it had, or else the same content.

    Args:
        photos: A folder, a CSV file, what [`read_places`] made of one, or a data set as [`load_places`] gives it.
        out: The index folder.
        encoder: Gives the descriptors; it must have the model the index was built with.
        strict: Whether a photo that is left out is an error.
        overwrite: Whether to build anew what is at `out`; the old index stays in force until the new one is complete.
        dtype: How a new index stores descriptors: `"float16"`, the default, or `"float32"`.
        compression: What searches read: `"none"`, `"half"`, `"int8"` or `"bits"`; `None` for what it has.
        store: Who searches, `"faiss"` here or `"milvus"` at `uri`; `None` for what it has.
        uri: A file that ends in `.db`, or the address of a server.
        shard_size: Photos that a new index stores at a time.
        progress: Called with the number of photos just finished.

    Returns:
        The index, and what was done.

    Raises:
        FileExistsError: If there is something at `out` that is no index.
        BlockingIOError: If another process is changing the index.
        ValueError: If no photo could be read, with `strict` if one could not, or if the index is of another model or of other
            photos.
    """
    folder = check_out(Path(out))  # before the work, not after it
    check_store(store, uri, compression)
    source = read_places(photos) if isinstance(photos, str | Path) else photos
    left_out = source.skipped if isinstance(source, PlaceTable) else {}
    if strict:
        report_skipped(left_out, _count(source) or len(left_out), strict)
    index = _index_to_continue(folder, encoder, overwrite, dtype)
    base = _base_folder(source, index)
    with contextlib.ExitStack() as stack:
        if index is not None:
            stack.enter_context(index)
            _check_photos(index, source, base)

        def begin() -> PlaceIndex:
            settings = replace(index_settings(encoder), dtype=dtype or "float16", shard_size=shard_size, photo_folder=base)
            return stack.enter_context(PlaceIndex.create(folder, settings, overwrite=overwrite))

        size = shard_size if index is None else index.settings.shard_size
        options: dict[str, Any] = {"total": _count(source), "strict": strict, "progress": progress}
        update = IndexUpdate(index, begin, encoder, shard_size=size, folder=base, **options)
        report = update.run(_relative_places(source, base))
    skipped = left_out | report.skipped
    report_skipped(skipped, len(skipped) + report.added + report.changed + report.kept, strict)
    if update.index is None:
        raise ValueError(f"None of the {len(report.skipped)} photos in {base} could be read.")
    update.index.build_store(compression, store=store, uri=uri)
    return update.index, replace(report, skipped=skipped)


def add_photos(
    index: str | Path,
    photos: Sequence[str | Path],
    encoder: Encoder,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> tuple[PlaceIndex, UpdateReport]:
    """Add photos to an index, or encode them anew if they changed; what else is in it stays.

    Args:
        index: The index folder.
        photos: Photo files, folders of them, or CSV files that list them. Photos outside the folder that the index was built
            from are named by their absolute paths, and no update of that folder removes them.
        encoder: Gives the descriptors; it must have the model the index was built with.
        strict: Whether a photo that is left out is an error.
        progress: Called with the number of photos just finished.

    Raises:
        ValueError: If the index is of another model, or with `strict` if a photo was left out.
    """
    opened = PlaceIndex.open(index)
    check_setup(opened, encoder, building=not opened.complete)
    tables = [_table_of(Path(photo)) for photo in photos]
    found = [(place, table.photo(place)) for table in tables for place in table.places]
    named = [(replace(place, path=_name_in(opened.settings.photo_folder, photo)), photo) for place, photo in found]
    left_out = {str(table.folder / path): why for table in tables for path, why in table.skipped.items()}
    with opened:
        options: dict[str, Any] = {"total": len(named), "strict": strict, "progress": progress}
        update = IndexUpdate(opened, lambda: opened, encoder, shard_size=opened.settings.shard_size, folder=None, **options)
        report = update.run(named)
    skipped = left_out | report.skipped
    opened.build_store()
    report_skipped(skipped, len(named) + len(left_out), strict)
    return opened, replace(report, skipped=skipped)


def remove_photos(index: str | Path, photos: Sequence[str | Path]) -> PlaceIndex:
    """Remove photos from an index, named as they stand in it or by their files.

    Raises:
        ValueError: If one is not in the index; then nothing is removed.
    """
    opened = PlaceIndex.open(index)
    known = set(opened.places.column("path"))
    names = [str(photo) if str(photo) in known else _name_in(opened.settings.photo_folder, Path(photo)) for photo in photos]
    opened.remove(names)
    opened.build_store()
    return opened


def _index_to_continue(folder: Path, encoder: Encoder, overwrite: bool, dtype: str | None) -> PlaceIndex | None:
    """Open the index that a run adds to: the one there, or the one that an interrupted run was to replace it with."""
    if not overwrite:
        index = PlaceIndex.resume(folder, replacement=False)
        if index is not None:
            check_setup(index, encoder, dtype, building=not index.complete)
        return index
    with contextlib.suppress(ValueError, OSError):  # whatever is wrong with it, a new one takes its place
        index = PlaceIndex.resume(folder, replacement=True)
        if index is not None:
            check_setup(index, encoder, dtype, building=True)
        return index
    return None


def _check_photos(index: PlaceIndex, source: PlaceTable | PlaceDataset, folder: Path) -> None:
    """Raise ValueError if a folder of photos cannot be the one that an index was built from, or what became of it."""
    if not isinstance(source, PlaceTable):
        return
    known = index.settings.photo_folder
    if known != folder and known.is_dir():
        raise ValueError(
            f"The index {index.folder} holds the photos of {known.resolve()}, which is another folder than {folder}. Give that "
            "folder, `--overwrite` to replace the index, or `d2vpr add` to add photos from elsewhere."
        )
    own = {path for path in index.places.column("path") if not Path(path).is_absolute()}
    if own and own.isdisjoint(place.path for place in source.places):
        raise ValueError(not_the_same_photos(index))


def _base_folder(source: PlaceTable | PlaceDataset, index: PlaceIndex | None) -> Path:
    """Name the folder that paths in the index are relative to."""
    if isinstance(source, PlaceTable):
        return source.folder.resolve()
    return common_folder(source) if index is None else index.settings.photo_folder


def _count(source: PlaceTable | PlaceDataset) -> int | None:
    """Return how many photos there are, those that are left out included; `None` of a stream."""
    if isinstance(source, PlaceTable):
        return len(source.places) + len(source.skipped)
    return getattr(source, "num_rows", None)


def _relative_places(source: PlaceTable | PlaceDataset, folder: Path) -> Iterator[tuple[Place, PhotoSource]]:
    """Yield photos with paths as the index of a folder has them: those of a table are relative to it already."""
    for place, photo in iter_photos(source):
        named = Path(place.path).is_absolute() and not isinstance(source, PlaceTable)
        yield (replace(place, path=_name_in(folder, Path(place.path))) if named else place), photo


def _name_in(folder: Path, photo: Path) -> str:
    """Name a photo as an index does: relative to its folder if it lies there, else by its absolute path."""
    plain, resolved = photo.absolute(), photo.parent.resolve() / photo.name
    for path in (plain, resolved) if ".." not in plain.parts else (resolved,):
        if folder.is_absolute() and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.as_posix()


def _table_of(photo: Path) -> PlaceTable:
    """Read what is known of a photo, or of the photos in a folder or a table."""
    if photo.is_dir() or photo.suffix.lower() == ".csv":
        return read_places(photo)
    return PlaceTable(photo.parent, [read_place(photo)], "names")
