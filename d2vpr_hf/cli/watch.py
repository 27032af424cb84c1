"""The command that keeps an index in line with a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2vpr_hf.cli.indexes import StoreOptions
from d2vpr_hf.cli.options import IndexEncoderOptions, JsonOption, ModelOption, ReadingOptions, parse_path
from d2vpr_hf.cli.terminal import changes_text, echo, notice

if TYPE_CHECKING:
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.retrieval.updates import UpdateReport


def watch(
    photos: Annotated[Path, typer.Argument(parser=parse_path, metavar="FOLDER", help="Folder of photos to watch.")],
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="INDEX", help="Index folder to write.")],
    settle_seconds: Annotated[
        float,
        typer.Option("--settle", min=0, metavar="SECONDS", help="Time for which a file must rest before it counts."),
    ] = 2.0,
    poll_seconds: Annotated[
        float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Time between two looks at the folder.")
    ] = 1.0,
    reading: ReadingOptions,
    model: ModelOption = None,
    encoding: IndexEncoderOptions,
    search: StoreOptions,
    as_json: JsonOption = False,
) -> None:
    """Keep an index in line with a folder.

    New and changed photos are encoded, and removed ones are removed from the index, until Ctrl-C or SIGTERM. Photos that are
    still being written wait. With --json, each update is a line.
    """
    from d2vpr_hf.index import PlaceIndex, check_out, check_store
    from d2vpr_hf.retrieval.compatibility import check_setup
    from d2vpr_hf.retrieval.watch_folder import FolderWatch, watch_folder

    if not photos.is_dir():
        raise NotADirectoryError(f"There is no folder {photos}. Give a folder of photos.")
    folder = check_out(out)
    check_store(search.store, search.uri, search.compression)
    existing = PlaceIndex.resume(folder, replacement=False)
    encoder = encoding.load(model, existing, photos=())
    if existing is not None:  # an index that can never be updated is an error now
        check_setup(existing, encoder, building=not existing.complete)
    folder_watch = FolderWatch(
        photos,
        out,
        encoder,
        settle_seconds=settle_seconds,
        options=reading.read_options(),
        compression=search.compression,
        store=search.store,
        uri=search.uri,
    )
    notice(f"Watching {photos}. Ctrl-C ends it.", err=as_json)

    def report(index: PlaceIndex, update: UpdateReport) -> None:
        if as_json:
            echo(json.dumps({"index": str(out), "photos": len(index)} | update.to_dict()))
        elif update.added or update.changed or update.removed:
            notice(f"{changes_text(update)} {len(index)} photos in {out}.")

    try:
        watch_folder(folder_watch, report, poll_seconds=poll_seconds)
    except KeyboardInterrupt as interrupt:
        if getattr(interrupt, "__notes__", None):  # an update was interrupted
            raise
    notice(f"Ended. The same command continues to watch {photos}.", err=as_json)
