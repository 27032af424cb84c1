"""The command that checks a map by its own photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.options import IndexArgument, JsonOption, open_index, parse_path
from d2vpr_hf.cli.terminal import echo, notice, progress_bar


def check_map(
    index: IndexArgument,
    *,
    page: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="FILE", help="HTML file to write: the report with drawings and photos."),
    ] = None,
    geojson: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="FILE", help="GeoJSON file to write: areas, pairs and misplaced photos."),
    ] = None,
    positive_dist_threshold: Annotated[
        float, typer.Option(help="Distance in metres up to which two photos are near each other.")
    ] = 25.0,
    far: Annotated[
        float | None,
        typer.Option(help="Distance in metres from which on two photos are far apart. Default: four times the near one."),
    ] = None,
    area: Annotated[
        float | None, typer.Option(help="Side in metres of the areas that reliability is computed for. Default: that of --far.")
    ] = None,
    num_neighbours: Annotated[
        int, typer.Option("--neighbours", min=2, help="Most similar other photos of each photo that are compared.")
    ] = 16,
    min_confidence: Annotated[
        float,
        typer.Option("--confidence", min=0.0, max=1.0, help="Smallest confidence with which a photo is called misplaced."),
    ] = 0.8,
    max_photos: Annotated[
        int, typer.Option(min=2, help="Photos to check; of a larger map, areas are drawn at random until they have as many.")
    ] = 100_000,
    pictures: Annotated[int, typer.Option(min=0, help="With --page: findings of each kind that are shown with photos.")] = 24,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find weak places of a map by its own photos.

    They are ambiguous (similar photos far apart), sparse (no second photo near by), or inconsistent (photos whose neighbours
    agree on another position). Needs positions, and no labels or queries.
    """
    from d2vpr_hf.map_check import check_map as run
    from d2vpr_hf.map_check.page import to_page
    from d2vpr_hf.utils.atomic_files import check_new_file, write_file

    for file in filter(None, (page, geojson)):
        check_new_file(file, overwrite)
    opened = open_index(index)
    with progress_bar("Comparing", len(opened)) as progress:
        report = run(
            opened,
            positive_dist_threshold=positive_dist_threshold,
            far=far,
            area=area,
            num_neighbours=num_neighbours,
            min_confidence=min_confidence,
            max_photos=max_photos,
            progress=progress,
        )
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_file(page, to_page(report, opened, pictures))
    if geojson is not None:
        geojson.parent.mkdir(parents=True, exist_ok=True)
        write_file(geojson, report.to_geojson() + "\n")
    if as_json:
        echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
        return
    echo(report.to_text())
    for file in filter(None, (page, geojson)):
        notice(f"Wrote {file}.")
