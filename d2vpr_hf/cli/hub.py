"""The command that uploads models and indexes to the Hugging Face Hub."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from d2vpr_hf.cli.options import JsonOption, parse_model
from d2vpr_hf.cli.terminal import hush_transformers


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
    as_json: JsonOption = False,
) -> None:
    """Upload a model or an index to the Hugging Face Hub.

    The kind of folder is recognised by its files. A model gets everything that others need to use it.
    """
    from d2vpr_hf.hub.pushed_folder import FolderKind, recognize_folder
    from d2vpr_hf.hub.uploads import check_repository_name

    check_repository_name(name)
    kind = recognize_folder(source)
    options: dict[str, Any] = {"private": private} | ({} if message is None else {"commit_message": message})
    hush_transformers()
    if kind is FolderKind.INDEX:
        from d2vpr_hf.hub.push_index import push_index

        url = push_index(source, name, **options)
    else:
        from d2vpr_hf.hub.push_model import push_model

        url = push_model(source, name, **options)
    typer.echo(json.dumps({"kind": str(kind), "name": name, "url": url}, indent=2) if as_json else url)
