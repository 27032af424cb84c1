"""Commands that write files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.choices import DescriptorFormat, IndexTarget, PairFormat
from d2vpr_hf.cli.options import (
    DescriptorOptions,
    EncoderOptions,
    FilterOptions,
    IndexArgument,
    JsonOption,
    ModelOption,
    StrictOption,
    open_index,
    parse_path,
)
from d2vpr_hf.cli.terminal import check_used, count_photos, echo, notice, progress_bar

ImageRootOption = Annotated[
    Path | None,
    typer.Option(
        parser=parse_path,
        metavar="DIR",
        help="Folder of all images, which names are relative to. Default: that of the photos of the index, and where queries "
        "are elsewhere, the deepest folder that contains both.",
    ),
]
OverwriteFileOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]


def pairs(
    index: IndexArgument,
    queries: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=parse_path, metavar="[QUERY...]", help="Photos, or folders of photos; or give --all or --descriptors."
        ),
    ] = None,
    *,
    all_photos: Annotated[
        bool, typer.Option("--all", help="Pair each photo of the index with others of the index. Nothing is encoded.")
    ] = False,
    given: DescriptorOptions,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="FILE", help="Text file to write.")],
    format: Annotated[
        PairFormat, typer.Option("--format", help="hloc: a query and its match a line; colmap: each unordered pair once.")
    ] = "hloc",
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Pairs of each photo.")] = 20,
    image_root: ImageRootOption = None,
    where: FilterOptions,
    model: ModelOption = None,
    encoding: EncoderOptions,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    overwrite: OverwriteFileOption = False,
) -> None:
    """Write pairs of similar photos for hloc or COLMAP.

    hloc matches the pairs by `match_features`, COLMAP by `colmap matches_importer --match_type pairs`. With --all, filters
    apply to both photos of a pair. --descriptors takes an HDF5 file whose groups are named by photos.
    """
    from d2vpr_hf.retrieval.image_pairs import pair_descriptors, pair_index, pair_queries
    from d2vpr_hf.utils.atomic_files import check_new_file

    if all_photos and (queries or given.descriptors is not None):
        raise ValueError("Give one of QUERY, `--all` and `--descriptors FILE`.")
    given.check(queries or all_photos, "QUERY, `--all`,")
    given.refuse_model(model, encoding)
    if all_photos and (model is not None or encoding.model_options()):
        raise ValueError("With `--all`, no photos are encoded. Omit `--model` and its options.")
    check_new_file(out, overwrite)
    opened = open_index(index)
    allowed = where.place_filter().allowed(opened.places)
    if all_photos:
        with progress_bar("Searching", len(opened) if allowed is None else int(allowed.sum())) as progress:
            report = pair_index(
                opened,
                out,
                format=format,
                top_k=top_k,
                image_root=image_root,
                allowed=allowed,
                strict=strict,
                overwrite=overwrite,
                progress=progress,
            )
    elif given.descriptors is not None:
        report = pair_descriptors(
            opened,
            given.descriptors,
            out,
            format=format,
            top_k=top_k,
            image_root=image_root,
            allowed=allowed,
            tensor=given.tensor,
            normalize=given.normalize,
            strict=strict,
            overwrite=overwrite,
        )
    else:
        encoder = encoding.load(model, opened)
        with progress_bar("Encoding", count_photos(queries or [])) as progress:
            report = pair_queries(
                opened,
                queries or [],
                encoder,
                out,
                format=format,
                top_k=top_k,
                image_root=image_root,
                allowed=allowed,
                strict=strict,
                overwrite=overwrite,
                progress=progress,
            )
    if as_json:
        echo(json.dumps({"index": index} | report.to_dict(), indent=2))
    else:
        root = "" if report.image_root is None else f" Names are relative to {report.image_root}."
        notice(f"Wrote {report.pairs} pairs of {report.photos} photos for {format}: {out}.{root}")
    check_used([query for query in queries or [] if str(query) in report.skipped], len(queries or []))


def export_descriptors(
    index: IndexArgument,
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="FILE", help="File to write.")],
    format: Annotated[
        DescriptorFormat, typer.Option("--format", help="h5: HDF5 with a group for each photo, as hloc stores them.")
    ] = "h5",
    image_root: ImageRootOption = None,
    overwrite: OverwriteFileOption = False,
) -> None:
    """Write the descriptors of an index for hloc.

    Each photo has the data set `global_descriptor`, which `hloc.pairs_from_retrieval` reads.
    """
    from d2vpr_hf.retrieval.export_descriptors import export_descriptors as run

    opened = open_index(index)
    with progress_bar("Writing", len(opened)) as progress:
        count = run(opened, out, format=format, image_root=image_root, overwrite=overwrite, progress=progress)
    notice(f"Wrote {count} descriptors of {opened.settings.descriptor_dim} numbers: {out}.")


def export_index(
    index: IndexArgument,
    *,
    to: Annotated[IndexTarget, typer.Option("--to", help="Form of the rows; geojson, gpx and kml have no descriptors.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=parse_path, metavar="PATH", help="File, or folder of a database of lancedb or qdrant."),
    ] = None,
    uri: Annotated[
        str | None, typer.Option("--uri", metavar="ADDRESS", help="Server instead of --out, such as http://HOST:6333.")
    ] = None,
    table: Annotated[str, typer.Option("--table", metavar="NAME", help="Table or collection in a database.")] = "places",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file, or the table of an earlier export.")
    ] = False,
) -> None:
    """Write an index for databases, Parquet or maps.

    The rows are places with descriptors, and the table states the model. docs/bridges.md shows searches.
    """
    from d2vpr_hf.bridges.export_index import export_index as run

    opened = open_index(index)
    with progress_bar("Writing", len(opened)) as progress:
        count = run(opened, to, out=out, uri=uri, table=table, overwrite=overwrite, progress=progress)
    notice(f"Wrote {count} of {len(opened)} rows: {out or uri}.")
