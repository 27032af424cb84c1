"""Commands that make photos, and places of photos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.choices import Layout, Tier
from d2vpr_hf.cli.options import JsonOption, ReadingOptions, StrictOption, parse_path
from d2vpr_hf.cli.terminal import echo, notice, progress_bar, table_text


def places(
    photos: Annotated[
        Path,
        typer.Argument(
            parser=parse_path, metavar="PHOTOS", help="Folder of photos with positions, or a CSV file that lists them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="FILE", help="CSV file to write.")] = Path(
        "places.csv"
    ),
    *,
    reading: ReadingOptions,
    cell: Annotated[float, typer.Option(help="Side of a grid cell in metres; photos of a place are in one cell.")] = 10.0,
    heading: Annotated[
        float, typer.Option(help="Range of headings in degrees that makes one place; 360 ignores headings.")
    ] = 30.0,
    spacing: Annotated[float, typer.Option(help="Distance in metres between places that may share a training batch.")] = 25.0,
    min_photos: Annotated[int, typer.Option(min=1, help="Smallest number of photos of a place.")] = 4,
    min_days: Annotated[
        int, typer.Option(min=1, help="Smallest number of days on which the photos of a place were taken.")
    ] = 1,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Group photos with positions into places for training.

    The photos of a place are in one cell of a grid and have similar headings.
    """
    from d2vpr_hf.readers import PlaceGrid, describe_places, group_places, read_places, write_places
    from d2vpr_hf.readers.folder import check_places_file
    from d2vpr_hf.readers.remarks import report_remarks
    from d2vpr_hf.readers.skipped import report_skipped
    from d2vpr_hf.utils.atomic_files import check_writable

    grid = PlaceGrid(cell, heading, spacing)
    check_places_file(out, photos if photos.is_dir() else photos.parent, overwrite)
    check_writable(out)
    table = read_places(photos, reading.read_options())
    if not as_json:
        notice(f"Places: {grid}.\n{table_text(table)}")
    grouped = group_places(table, grid, min_photos=min_photos, min_days=min_days)
    report_remarks(grouped.remarks)
    report_skipped(grouped.skipped, len(table.places) + len(table.skipped), strict)
    write_places(grouped, out, overwrite)
    if as_json:
        place_ids, group_ids = grouped.place_ids, grouped.group_ids
        counts = {
            "photos": len(grouped.places),
            "places": 0 if place_ids is None else len(set(place_ids.tolist())),
            "groups": 0 if group_ids is None else len(set(group_ids.tolist())),
        }
        facts = {"file": str(out), "source": table.source} | counts | {"skipped": grouped.skipped}
        echo(json.dumps(facts | {"remarks": [remark.to_dict() for remark in grouped.remarks]}, indent=2))
    else:
        notice(f"{describe_places(grouped)}\nWrote {out}.")


@dataclass
class CityOptions:
    """Options for rendering a city."""

    num_cities: Annotated[
        int, typer.Option("--cities", min=1, help="Number of cities: the city of the seed, and those of the next seeds.")
    ] = 1
    layout: Annotated[Layout, typer.Option(help="Folders and file names of the photos.")] = "at-names"
    tier: Annotated[Tier, typer.Option(help="Difference between photos of a place.")] = "standard"
    conditions: Annotated[
        str | None, typer.Option(metavar="LIST", help="Conditions of queries, such as day,night. Default: those of the tier.")
    ] = None
    photos_per_place: Annotated[
        int, typer.Option(min=1, help="Queries of each place; with --layout gsv-cities, photos of each view.")
    ] = 5
    image_size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")] = 224
    wild: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of the places whose photos have a random look.")
    ] = 0.0
    textures: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="DIR", help="Photos that cover walls and ground of the places of --wild."),
    ] = None
    label_cells: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="With --layout gsv-cities: also write labels for N x N cells of each photo."),
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="Processes. The files do not depend on their number.")] = 1


def simulate(
    out: Annotated[Path, typer.Argument(parser=parse_path, metavar="OUT", help="Folder to write.")],
    *,
    num_places: Annotated[
        int, typer.Option("--places", min=1, help="Places of a city, which are at least 32 m apart along a street.")
    ],
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the city. 9001 to 9003 are for testing, 8001 for validation.")
    ],
    city: CityOptions,
) -> None:
    """Render street photos of a procedural city.

    Their positions are exact.
    """
    from d2vpr_hf.gridtown import Wildness
    from d2vpr_hf.gridtown import simulate as render_city

    options = dict(vars(city))
    options["wildness"] = Wildness(options.pop("wild"), options.pop("textures"))
    if city.conditions is not None:
        options["conditions"] = [name.strip() for name in city.conditions.split(",")]
    photos_of_place = 4 + city.photos_per_place  # views and queries
    total = city.num_cities * num_places * photos_of_place if city.layout == "at-names" else None
    with progress_bar("Rendering", total) as progress:
        count = render_city(out, num_places, seed, progress=progress, **options)
    notice(f"Wrote {count} photos of {num_places} places to {out}.")
