"""Index photos: build an index, add photos to it, remove photos from it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.index import SHARD_SIZE, PlaceIndex, check_out, check_store, is_index
from d2vpr_hf.readers import PhotoCollection, PlaceTable, ReadOptions, as_collection, name_in_folder, read_photo, read_places
from d2vpr_hf.readers.place_table import check_any_photo
from d2vpr_hf.readers.registry import options_of_paths
from d2vpr_hf.readers.remarks import merge_remarks, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.compatibility import check_setup, index_settings
from d2vpr_hf.retrieval.interruptions import count_stored, interruption_message
from d2vpr_hf.retrieval.updates import IndexUpdate, UpdateReport, other_photos_message

if TYPE_CHECKING:
    from d2vpr_hf.readers.place_dataset import PlaceDataset
    from d2vpr_hf.stores import Compression, StoreWord

logger = logging.getLogger(__name__)


def index_photos(
    photos: str | Path | PhotoCollection | PlaceDataset,
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
    """Build the index of photos, or update it: only new and changed photos are encoded.

    Encoded photos are stored each minute, whenever they fill a shard, and when the run is interrupted (KeyboardInterrupt or
    SystemExit, which is raised again), so that a killed run loses about a minute. The same call then continues from there, and
    the index has the same bytes as without the interruption. A photo counts as unchanged if its file has the recorded size
    and time, or the recorded content.

    Args:
        photos: A folder, a CSV file, a table from [`read_places`], a data set from [`load_places`], or any other
            [`d2vpr_hf.readers.PhotoCollection`].
        out: The index folder.
        encoder: Makes the descriptors; it must have the model that the index was built with.
        strict: Whether a skipped photo is an error.
        overwrite: Whether to replace an index at `out`; the old index can be searched until the new one is complete.
        dtype: Number type of the descriptors of a new index: `"float16"`, the default, or `"float32"`.
        compression: Form of the descriptors that searches read: `"none"`, `"half"`, `"int8"` or `"bits"`; `None` keeps the
            compression of the index.
        store: Library that searches: `"faiss"` in this process, or `"milvus"` at `uri`; `None` keeps the store of the index.
        uri: Address of the service: for Milvus a file that ends in `.db`, or a server.
        shard_size: Number of photos that a new index stores at a time.
        progress: Called with the number of photos just finished.

    Returns:
        The index, and a report of the update.

    Raises:
        FileExistsError: If `out` exists and is not an index.
        BlockingIOError: If another process is changing the index.
        ValueError: If no photo could be read, if a photo was skipped and `strict` is set, or if the index is of another model
            or of other photos.
    """
    folder = check_out(Path(out))  # before photos are encoded
    check_store(store, uri, compression)
    collection = as_collection(photos)
    remarks = tuple(getattr(collection, "remarks", ()))  # collections of other programs may have none
    report_remarks(remarks)
    if isinstance(collection, PlaceTable):
        check_any_photo(collection)
    if strict:
        report_skipped(collection.skipped, collection.count or len(collection.skipped), strict)
    replaces = overwrite and is_index(folder)
    index = _index_to_continue(folder, encoder, overwrite, dtype)
    with contextlib.ExitStack() as stack:
        if index is not None:
            stack.enter_context(index)
            collection = collection.rebase(index.settings.photo_folder)
            _check_photos(index, collection)
        base = collection.base_folder

        def begin() -> PlaceIndex:
            settings = replace(index_settings(encoder), dtype=dtype or "float16", shard_size=shard_size, photo_folder=base)
            return stack.enter_context(PlaceIndex.create(folder, settings, overwrite=overwrite))

        size = shard_size if index is None else index.settings.shard_size
        update = IndexUpdate(
            index, begin, encoder, shard_size=size, folder=base, total=collection.count, strict=strict, progress=progress
        )
        total = None if collection.count is None else collection.count - len(collection.skipped)
        paths = collection.paths
        place = f"the index that will replace {out}" if replaces else out
        command = "The same command without `overwrite=True`" if overwrite and not replaces else "The same command"
        interrupted = partial(interruption_message, place, lambda: count_stored(update.index, paths), total, command)
        with interrupted():
            report = update.run(collection.items())
            if update.index is not None:
                update.index.build_store(compression, store=store, uri=uri)
    if not remarks:  # those of a stream are known now
        remarks = tuple(getattr(collection, "remarks", ()))
        report_remarks(remarks)
    report_remarks(report.remarks)
    skipped = dict(collection.skipped) | report.skipped
    report_skipped(skipped, len(skipped) + report.added + report.changed + report.kept, strict)
    if update.index is None:
        raise ValueError(f"None of the {len(report.skipped)} photos in {base} could be read.")
    return update.index, replace(report, skipped=skipped, remarks=merge_remarks([*remarks, *report.remarks]))


def add_photos(
    index: str | Path,
    photos: Sequence[str | Path],
    encoder: Encoder,
    *,
    options: ReadOptions | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> tuple[PlaceIndex, UpdateReport]:
    """Add photos to an index. Photos that are in the index already are encoded again if they changed; all other rows stay.

    Args:
        index: The index folder.
        photos: Photo files, folders of them, or CSV files that list them. Photos outside the folder that the index was built
            from are named by their absolute paths, and no update of that folder removes them.
        encoder: Makes the descriptors; it must have the model that the index was built with.
        options: Options of the readers; `None` for the defaults.
        strict: Whether a skipped photo is an error.
        progress: Called with the number of photos just finished.

    Raises:
        ValueError: If the index is of another model, or if a photo was skipped and `strict` is set.
    """
    opened = PlaceIndex.open(index)
    with opened:
        check_setup(opened, encoder, building=not opened.complete)
        base = opened.settings.photo_folder
        tables, missing = _read_tables([Path(path) for path in photos], options or ReadOptions())
        remarks = merge_remarks(remark for table in tables for remark in table.remarks)
        report_remarks(remarks)
        items = [
            (replace(place, path=name_in_folder(base, table.photo(place))), table.photo(place))
            for table in tables
            for place in table.places
        ]
        skipped = missing | {str(table.folder / path): reason for table in tables for path, reason in table.skipped.items()}
        total = len(items) + len(skipped)
        update = IndexUpdate(
            opened,
            lambda: opened,
            encoder,
            shard_size=opened.settings.shard_size,
            folder=None,
            total=len(items),
            strict=strict,
            progress=progress,
        )
        paths = [place.path for place, _ in items]
        interrupted = partial(interruption_message, index, lambda: count_stored(opened, paths), len(items))
        with interrupted():
            report = update.run(items)
            opened.build_store()
    report_remarks(report.remarks)
    skipped |= report.skipped
    report_skipped(skipped, total, strict)
    return opened, replace(report, skipped=skipped, remarks=merge_remarks([*remarks, *report.remarks]))


def remove_photos(index: str | Path, photos: Sequence[str | Path]) -> PlaceIndex:
    """Remove photos from an index, named by their paths in the index or by their files.

    Raises:
        ValueError: If a photo is not in the index; then no photo is removed.
    """
    with PlaceIndex.open(index) as opened:
        indexed, base = set(opened.places.column("path")), opened.settings.photo_folder
        opened.remove([str(photo) if str(photo) in indexed else name_in_folder(base, Path(photo)) for photo in photos])
        opened.build_store()
    return opened


def _index_to_continue(folder: Path, encoder: Encoder, overwrite: bool, dtype: str | None) -> PlaceIndex | None:
    """Open the index that a run adds to: the one at `folder`, or the unfinished replacement that an interrupted run left."""
    if not overwrite:
        index = PlaceIndex.resume(folder, replacement=False)
        if index is not None:
            check_setup(index, encoder, dtype, building=not index.complete)
        return index
    with contextlib.suppress(ValueError, OSError):  # a replacement that is damaged or does not fit is begun again
        index = PlaceIndex.resume(folder, replacement=True)
        if index is not None:
            check_setup(index, encoder, dtype, building=True)
        return index
    return None


def _check_photos(index: PlaceIndex, collection: PhotoCollection) -> None:
    """Raise ValueError if a collection cannot be the photos that an index was built from, or a later state of them."""
    index_folder, folder = index.settings.photo_folder, collection.base_folder
    if index_folder not in (folder, Path()) and index_folder.is_dir():  # an index from the Hub names no folder
        raise ValueError(
            f"The index {index.folder} holds the photos of {index_folder.resolve()}, which is another folder than {folder}. "
            "Give that folder, `overwrite=True` to replace the index, or `d2vpr add` to add photos from elsewhere."
        )
    indexed = {path for path in index.places.column("path") if not Path(path).is_absolute()}
    if indexed and collection.paths is not None and indexed.isdisjoint(collection.paths):
        raise ValueError(other_photos_message(index))


def _read_tables(photos: Sequence[Path], options: ReadOptions) -> tuple[list[PlaceTable], dict[str, str]]:
    """Read folders and CSV files, and make a table of each photo.

    Returns:
        The tables; and the reasons why the other paths are skipped, by path: those that do not exist, and empty folders.

    Raises:
        FileNotFoundError: If all paths are skipped.
    """
    tables, missing = [], {}
    for path, own_options in zip(photos, options_of_paths(photos, options), strict=True):
        try:
            tables.append(_read_table(path, own_options))
        except FileNotFoundError as error:
            missing[str(path)] = str(error)
    if not tables:
        raise FileNotFoundError("\n".join(missing.values()))
    return tables, missing


def _read_table(photo: Path, options: ReadOptions) -> PlaceTable:
    """Read a folder or a CSV file, or make a table of one photo."""
    if photo.is_dir() or photo.suffix.lower() == ".csv":
        table = read_places(photo, options)
        check_any_photo(table)
        return table
    if not photo.exists():
        raise FileNotFoundError(f"There is no file or folder {photo}.")
    if options.columns:
        raise ValueError(f"{photo} is a photo and not a table. Leave `columns=...` out, or give a CSV file.")
    return read_photo(photo, options)
