"""The command that uploads models and indexes to the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from d2vpr_hf.cli.options import JsonOption, parse_model
from d2vpr_hf.cli.terminal import echo, hush_transformers, progress_bar


@dataclass
class PushIndexOptions:
    """Options for an index; models take none of them."""

    model: Annotated[
        str | None,
        typer.Option(
            parser=parse_model,
            metavar="USER/MODEL",
            help="Of an index: the Hub id of its model, if it was built with a folder. It must make the same descriptors.",
        ),
    ] = None
    push_model: Annotated[
        str | None, typer.Option(metavar="USER/MODEL", help="Of an index: Hub id to upload its model to as well.")
    ] = None
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Of an index: upload thumbnails of its photos.")] = False
    thumbnail_size: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Longer side of thumbnails. Default: 256.")
    ] = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by their names."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}


def push(
    source: Annotated[
        str,
        typer.Argument(
            parser=parse_model,
            metavar="MODEL|INDEX",
            help="Folder of a model, of an exported graph or of an index; `embedded` for the small model included here.",
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository on the Hub; it is created if there is none.")],
    *,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Message of the commit.")] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Visibility of a new repository.")] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Licence of model or index by the Hub's id, such as cc-by-4.0.")
    ] = None,
    of_index: PushIndexOptions,
    as_json: JsonOption = False,
) -> None:
    """Upload a model or an index to the Hugging Face Hub.

    The kind of folder is recognised by its files. A model gets everything that others need to use it. An index gets a card and
    a table of its places, and names a model that others can load. Photos are not uploaded.
    """
    from d2vpr_hf.hub.pushed_folder import FolderKind, recognize_folder
    from d2vpr_hf.hub.uploads import check_repository_name

    check_repository_name(name)
    kind = recognize_folder(source)
    options: dict[str, Any] = {"private": private, "license": license} | (
        {} if message is None else {"commit_message": message}
    )
    hush_transformers()
    if kind is FolderKind.INDEX:
        from d2vpr_hf.hub.push_index import push_index

        if of_index.thumbnail_size is not None and not of_index.thumbnails:
            raise ValueError("`thumbnail_size` needs `thumbnails=True`.")
        with progress_bar("Thumbnails", None) if of_index.thumbnails else contextlib.nullcontext() as progress:
            url = push_index(source, name, **options, **of_index.given(), progress=progress)
    elif given := of_index.given():
        raise ValueError(f"{source} is not an index. Omit {', '.join(f'`{name}`' for name in given)}.")
    else:
        from d2vpr_hf.hub.push_model import push_model

        url = push_model(source, name, **options)
    echo(json.dumps({"kind": str(kind), "name": name, "url": url}, indent=2) if as_json else url)
