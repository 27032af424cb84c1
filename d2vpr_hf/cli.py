"""The command line. Each command is a plain function of the library behind a few lines that print.

Everything heavy is imported inside the commands, so that `d2vpr --help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf import __version__

if TYPE_CHECKING:
    from d2vpr_hf.encoder import PlaceEncoder
    from d2vpr_hf.jobs import SearchResult

app = typer.Typer(
    help="Visual place recognition with D²-VPR: where was this photo taken?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _path(text: str) -> Path:
    """Read a path; an empty one, as of an unset shell variable, would mean the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty")
    return Path(text)


ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model folder or Hub id. Default: the small one in this package.")
]
PlotOption = Annotated[
    Path | None, typer.Option(parser=_path, metavar="FILE", help="Draw queries and matches into this file (png, pdf, svg).")
]
DeviceOption = Annotated[str | None, typer.Option(help="Where the network runs, such as cpu or cuda. Default: a GPU if any.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Photos the network sees at once.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode photos.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Make a photo that cannot be used an error.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Write although there is something at OUT already: an index is replaced, a model's files are."
    ),
]


def main() -> None:
    """Run the command line; what the user can put right is one line on stderr and exit status 1."""
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's, of photos it opens all the same
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"d2vpr: {error}\n")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(parser=_path, metavar="SRC", help="Weights file, .pth or .safetensors.")],
    out: Annotated[Path, typer.Argument(parser=_path, metavar="OUT", help="Model folder to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Convert published weights to a complete Hugging Face model folder."""
    from d2vpr_hf.convert import convert_weights

    _hush_transformers()
    row = convert_weights(source, out, overwrite=overwrite)
    typer.echo(f"{source} is {row.name}; wrote the model folder {out}.")


@app.command()
def index(
    photos: Annotated[
        Path, typer.Argument(parser=_path, metavar="PHOTOS", help="Folder of photos, or a CSV file that lists them.")
    ],
    out: Annotated[Path, typer.Option("--out", parser=_path, metavar="INDEX", help="Index folder to write.")],
    model: ModelOption = None,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Index a folder of photos, with positions from a CSV file, from @ names, from EXIF, or with none."""
    from d2vpr_hf.jobs import index_photos
    from d2vpr_hf.readers import read_places

    table = read_places(photos)
    typer.echo(f"{len(table.places)} photos, {table.num_positions} with a position (from: {table.source}).")
    with _progress("Indexing", len(table.places)) as progress:
        encoder = _encoder(model, batch_size, workers, device)
        built, _ = index_photos(table, out, encoder, strict=strict, overwrite=overwrite, progress=progress)
    typer.echo(f"Indexed {len(built)} photos as descriptors of {encoder.descriptor_dim} numbers in {out}.")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(parser=_path, metavar="INDEX", help="Index folder.")],
    queries: Annotated[list[Path], typer.Argument(parser=_path, metavar="QUERY...", help="Photos, or folders of photos.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Matches for each query.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of a table.")] = False,
    plot: PlotOption = None,
    model: ModelOption = None,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
) -> None:
    """Find where photos were taken. Without --model, the index says which model to load."""
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.jobs import search_photos

    opened = PlaceIndex.open(index)
    if plot is not None:
        from d2vpr_hf.plots import check_plot_file

        check_plot_file(plot, photos=[*queries, opened.folder])
    encoder = _encoder(model or opened.model, batch_size, workers, device)
    results = search_photos(opened, queries, encoder, top_k=top_k, strict=strict)
    typer.echo(_to_json(results) if as_json else _to_text(results))
    if plot is not None:
        from d2vpr_hf.plots import plot_search, save_figure

        save_figure(plot_search(results), plot)
    if all(result.error for result in results):
        raise ValueError("None of the queries could be read.")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", parser=_path, metavar="FOLDER", help="Folder for photos, index and plot.")],
) -> None:
    """Draw a few streets, index them and search them: the main job offline, with the model in this package."""
    from d2vpr_hf.demo import run_demo

    _hush_transformers()
    result = run_demo(out)
    typer.echo(_to_text(result.results))
    typer.echo(result.summary)


def _encoder(model: str | None, batch_size: int, workers: int, device: str | None) -> PlaceEncoder:
    from d2vpr_hf.encoder import PlaceEncoder

    _hush_transformers()
    return PlaceEncoder(model, device=device, batch_size=batch_size, num_workers=workers)


def _hush_transformers() -> None:
    """Switch off the bars that transformers draws for every file it reads or writes."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


@contextlib.contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if a person is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _to_json(results: list[SearchResult]) -> str:
    return json.dumps([result.to_dict() for result in results], indent=2, allow_nan=False)


def _to_text(results: list[SearchResult]) -> str:
    return "\n".join(line for result in results for line in _lines(result))


def _lines(result: SearchResult) -> Iterator[str]:
    yield f"{result.query}" if result.error is None else f"{result.query}: {result.error}"
    for match in result.matches:
        yield f"  {match.rank:3d}  {match.score:7.4f}  {match.place.path}{_position(match.place)}"


def _position(place: Any) -> str:
    if place.is_local:
        return f"  x {place.x:.2f} m, y {place.y:.2f} m"
    if place.latitude is not None and place.longitude is not None:
        return f"  {place.latitude:.6f}, {place.longitude:.6f}"
    return "" if place.utm_east is None else f"  {place.utm_east:.1f} E, {place.utm_north:.1f} N"


__all__ = ["app", "main"]
