"""Commands that make photos, and places of photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from d2vpr_hf.cli.options import StrictOption, parse_path
from d2vpr_hf.cli.terminal import progress_bar, table_text


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
    cell: Annotated[float, typer.Option(help="Side in metres of the cells whose photos show one place.")] = 10.0,
    heading: Annotated[
        float, typer.Option(help="Degrees of the directions that one place is seen in; 360 ignores headings.")
    ] = 30.0,
    spacing: Annotated[float, typer.Option(help="Metres between the places of a group, which may share a batch.")] = 25.0,
    min_photos: Annotated[int, typer.Option(min=1, help="Photos that a place must have.")] = 4,
    min_days: Annotated[int, typer.Option(min=1, help="Different days that its photos must be of.")] = 1,
    strict: StrictOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file.")] = False,
) -> None:
    """Group photos with positions into places for training: those of one cell of a grid that look the same way."""
    from d2vpr_hf.readers import PlaceGrid, describe_places, group_places, read_places, write_places
    from d2vpr_hf.readers.folder import check_places_file
    from d2vpr_hf.readers.skipped import report_skipped
    from d2vpr_hf.utils.atomic_files import check_writable

    grid = PlaceGrid(cell, heading, spacing)
    check_places_file(out, photos if photos.is_dir() else photos.parent, overwrite)
    check_writable(out)
    typer.echo(f"Places: {grid}.")
    table = read_places(photos)
    typer.echo(table_text(table))
    grouped = group_places(table, grid, min_photos=min_photos, min_days=min_days)
    report_skipped(grouped.skipped, len(table.places) + len(table.skipped), strict)
    write_places(grouped, out, overwrite)
    typer.echo(describe_places(grouped))
    typer.echo(f"Wrote {out}.")


@dataclass
class CityOptions:
    """What is rendered of a city."""

    num_cities: Annotated[int, typer.Option("--cities", min=1, help="How many cities: of this seed and of those after it.")] = 1
    layout: Annotated[str, typer.Option(metavar="at-names|gsv-cities", help="How the photos lie on disk.")] = "at-names"
    tier: Annotated[str, typer.Option(metavar="easy|standard|all", help="How far photos of a place differ.")] = "standard"
    conditions: Annotated[
        str | None, typer.Option(metavar="LIST", help="What queries see, such as day,night, in place of the tier's weathers.")
    ] = None
    photos_per_place: Annotated[int, typer.Option(min=1, help="Queries of a place; with gsv-cities, photos of each view.")] = 5
    image_size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")] = 224
    label_cells: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With gsv-cities: also write what N x N cells of every photo show.")
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="Processes. The files do not depend on their number.")] = 1

    def read(self) -> dict[str, Any]:
        """Read the options, as the renderer takes them."""
        from d2vpr_hf.gridtown import parse_weathers

        names = None if self.conditions is None else [name.strip() for name in self.conditions.split(",")]
        return {**vars(self), "conditions": None if names is None else parse_weathers(names)}


def simulate(
    out: Annotated[Path, typer.Argument(parser=parse_path, metavar="OUT", help="Folder to write.")],
    *,
    places: Annotated[int, typer.Option("--places", min=1, help="Places of a city, at least 32 m apart along a street.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which city. 9001 to 9003 are for testing, 8001 for validation.")],
    city: CityOptions,
) -> None:
    """Render street photos of a procedural city, with exact positions."""
    from d2vpr_hf.gridtown import simulate as render_city

    options = city.read()
    with progress_bar("Rendering", None) as progress:
        count = render_city(out, places, seed, progress=progress, **options)
    typer.echo(f"Wrote {count} photos of {places} places to {out}.")
