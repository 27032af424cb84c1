"""The command line. Each command is a plain function of the library behind a few lines that print.

Everything heavy is imported inside the commands, so that `d2vpr --help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf import __version__

if TYPE_CHECKING:
    from d2vpr_hf.encoder import PlaceEncoder
    from d2vpr_hf.evaluation import PositiveRule
    from d2vpr_hf.filters import PlaceFilter
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.jobs import SearchResult
    from d2vpr_hf.localization import Localization
    from d2vpr_hf.readers import PlaceTable
    from d2vpr_hf.updates import UpdateReport

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


_BATCH_SIZE = 16
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model folder or Hub id. Default: what the index was built with; for a new one, the small model here."
    ),
]
IndexArgument = Annotated[Path, typer.Argument(parser=_path, metavar="INDEX", help="Index folder.")]
PlotOption = Annotated[
    Path | None, typer.Option(parser=_path, metavar="FILE", help="Draw queries and matches into this file (png, pdf, svg).")
]
DeviceOption = Annotated[str | None, typer.Option(help="Where the network runs, such as cpu or cuda. Default: a GPU if any.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Photos the network sees at once.")]
IndexBatchSizeOption = Annotated[
    int | None, typer.Option(min=1, help=f"Photos the network sees at once. Default: as the index has it, or {_BATCH_SIZE}.")
]
NearOption = Annotated[
    str | None, typer.Option(metavar="LAT,LON,METRES", help="Search places within so many metres of a position.")
]
BoxOption = Annotated[
    str | None, typer.Option(metavar="SOUTH,WEST,NORTH,EAST", help="Search places in a box of latitudes and longitudes.")
]
HeadingOption = Annotated[
    str | None, typer.Option(metavar="DEGREES,TOLERANCE", help="Search photos that look this way, give or take.")
]
SinceOption = Annotated[str | None, typer.Option(metavar="TIME", help="Search photos of this time or later: 2024-05-01T12:30.")]
UntilOption = Annotated[str | None, typer.Option(metavar="TIME", help="Search photos of this time or earlier.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode photos.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Make a photo that cannot be used an error.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Write although there is something already: an index is replaced whole, a model's files are replaced.",
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
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Weights file (.pth, .safetensors), or folder or Hub id of a transformers model."),
    ],
    out: Annotated[Path, typer.Argument(parser=_path, metavar="OUT", help="Model folder to write; with --to, the file.")],
    target: Annotated[
        str | None, typer.Option("--as", metavar="student|cricavpr", help="What a DINOv2 becomes; the rest is freshly drawn.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="published", help="Write a model of this package for its authors' code.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="With --as: set a field of the configuration, such as recovery_size=1024. VALUE as in JSON or Python.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of what is freshly drawn.")] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert weights: the authors' files and DINOv2s to model folders, and back."""
    from d2vpr_hf.convert import convert_to_published, convert_weights

    _hush_transformers()
    if to is not None:
        _check_publishing(to, target, changes)
        row = convert_to_published(source, out, overwrite=overwrite)
        typer.echo(f"Wrote {source} as {row.name}: {out}.")
        return
    done = convert_weights(source, out, target=target, changes=_parse_changes(changes), seed=seed, overwrite=overwrite)
    typer.echo(
        f"{source} is {done.source.name}; wrote the model folder {out}. Next: d2vpr index PHOTOS --model {out} --out INDEX"
    )
    if done.assumed_heads:
        typer.echo(f"Assumed {done.assumed_heads} attention heads, of 64 channels each; if not, `--set num_attention_heads=N`.")
    if done.drawn:
        typer.echo(f"Freshly drawn with seed {seed}: {len(done.drawn)} tensors that it does not have.")
    if done.dropped:
        typer.echo(f"Left out, as the model has no place for them: {', '.join(done.dropped)}.")


def _check_publishing(to: str, target: str | None, changes: list[str] | None) -> None:
    if to != "published":
        raise ValueError(f"Models can be written as `--to published` only, got {to!r}.")
    if target is not None or changes:
        raise ValueError("`--to published` writes a model as it is; leave `--as` and `--set` out.")


def _parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Read FIELD=VALUE; a value is JSON or one of Python's words where it can be read so, and text otherwise."""
    parsed = {}
    for field, value in _pairs(changes, "--set FIELD=VALUE"):
        try:
            parsed[field] = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except ValueError:
            parsed[field] = value
    return parsed


def _pairs(texts: list[str] | None, form: str) -> Iterator[tuple[str, str]]:
    """Split what options like `--set FIELD=VALUE` were given."""
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ValueError(f"Expected `{form}`, got {text!r}.")
        yield name, value


@app.command()
def index(
    out: Annotated[Path, typer.Option("--out", parser=_path, metavar="INDEX", help="Index folder to write.")],
    photos: Annotated[
        Path | None,
        typer.Argument(parser=_path, metavar="PHOTOS", help="Folder of photos, or a CSV file that lists them."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead of PHOTOS: a Hugging Face data set, by Hub id, folder or file.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration (subset) of the data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data set, such as train.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the data set without downloading it first.")] = False,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=COLUMN", help="Say which column of the data set holds what: image=photo."),
    ] = None,
    model: ModelOption = None,
    batch_size: IndexBatchSizeOption = None,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    dtype: Annotated[
        str | None, typer.Option(metavar="float16|float32", help="How a new index stores descriptors. Default: float16.")
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(
            metavar="none|half|int8|bits", help="What searches read: docs/search.md. Default: as the index has it, or none."
        ),
    ] = None,
) -> None:
    """Index photos: a folder, with positions from a CSV file, from @ names, from EXIF, or with none; or a data set.

    An index that is there already is brought in line with the photos: only what is new or changed is encoded. A run that was
    interrupted goes on where it stopped.
    """
    from d2vpr_hf.index import PlaceIndex, check_out
    from d2vpr_hf.jobs import index_photos
    from d2vpr_hf.stores import check_compression

    folder = check_out(out)  # before anything is downloaded
    check_compression(compression or "none")
    there = None if overwrite else PlaceIndex.resume(folder, replacement=False)
    options = {"config": config, "revision": revision, "split": split, "streaming": streaming}
    source, total = _source_of_photos(photos, dataset, options | {"columns": dict(_pairs(columns, "--column FIELD=COLUMN"))})
    with _progress("Indexing", total) as progress:
        encoder = _encoder_of_index(there, model, batch_size, workers, device)
        settings: dict[str, Any] = {"dtype": dtype, "compression": compression}
        built, report = index_photos(source, out, encoder, strict=strict, overwrite=overwrite, progress=progress, **settings)
    positions = sum(place.has_position for place in built.places)
    with_positions = "" if dataset is None else f", {positions} with a position,"
    typer.echo(f"Indexed {len(built)} photos{with_positions} as descriptors of {encoder.descriptor_dim} numbers in {out}.")
    if there is not None:
        typer.echo(_changes(report))


@app.command()
def add(
    index: IndexArgument,
    photos: Annotated[list[Path], typer.Argument(parser=_path, metavar="PHOTOS...", help="Photos, folders, or CSV files.")],
    model: ModelOption = None,
    batch_size: IndexBatchSizeOption = None,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
) -> None:
    """Add photos to an index; those in it that changed are encoded anew, everything else stays."""
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.jobs import add_photos

    encoder = _encoder_of_index(PlaceIndex.open(index), model, batch_size, workers, device)
    with _progress("Adding", None) as progress:
        changed, report = add_photos(index, photos, encoder, strict=strict, progress=progress)
    typer.echo(f"{_changes(report)} {len(changed)} photos in {index}.")


@app.command()
def remove(
    index: IndexArgument,
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Photos, as they are named in the index, or files.")],
) -> None:
    """Remove photos from an index. The photos themselves stay; `compact` gives back their room in the index."""
    from d2vpr_hf.jobs import remove_photos

    left = remove_photos(index, photos)
    typer.echo(f"Removed {len(set(photos))} photos; {len(left)} are left in {index}.")


@app.command()
def verify(index: IndexArgument) -> None:
    """Read everything in an index and name every damaged file."""
    from d2vpr_hf.index import verify_index

    problems = verify_index(index)
    if problems:
        raise ValueError("\n".join([f"{len(problems)} files of {index} are damaged:", *(f"  {line}" for line in problems)]))
    typer.echo(f"{index} is as it was stored.")


@app.command()
def compact(index: IndexArgument) -> None:
    """Rewrite an index without the room of removed photos, in few files."""
    from d2vpr_hf.index import PlaceIndex

    opened = PlaceIndex.open(index)
    before = opened.info()
    opened.compact()
    opened.compress()
    after = opened.info()
    typer.echo(f"{before['bytes']} -> {after['bytes']} bytes, {before['shards']} -> {after['shards']} shards in {index}.")


@app.command()
def info(
    index: IndexArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say what an index holds and what made it."""
    from d2vpr_hf.index import PlaceIndex

    found = PlaceIndex.open(index).info()
    lines = "\n".join(f"{name}: {_plain(value)}" for name, value in found.items())
    typer.echo(json.dumps(found, indent=2) if as_json else lines)


def _encoder_of_index(
    index: PlaceIndex | None, model: str | None, batch_size: int | None, workers: int, device: str | None
) -> PlaceEncoder:
    """Load the encoder that an index goes on with; what is not given is as the index has it."""
    if index is None:
        return _encoder(model, batch_size or _BATCH_SIZE, workers, device)
    return _encoder(model or index.model, batch_size or index.batch_size or _BATCH_SIZE, workers, device)


def _changes(report: UpdateReport) -> str:
    return f"{report.added} added, {report.changed} changed, {report.removed} removed, {report.kept} kept."


def _plain(value: Any) -> str:
    """Show a value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} ({what})" for name, what in value.items()) or "none"
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def _source_of_photos(photos: Path | None, dataset: str | None, options: dict[str, Any]) -> tuple[Any, int | None]:
    """Read or load what is to be indexed, and say how many photos there are (`None` if streaming)."""
    from d2vpr_hf.readers import load_places, read_places

    if (photos is None) == (dataset is None):
        raise ValueError("Give either PHOTOS or `--dataset NAME`.")
    if photos is None:
        rows = load_places(str(dataset), **options)
        total = None if options["streaming"] else len(rows)
        typer.echo(f"Streaming photos from {dataset}." if total is None else f"{total} photos in {dataset}.")
        return rows, total
    if any(options.values()):
        given = ", ".join(f"--{name}".removesuffix("s") for name, value in options.items() if value)
        raise ValueError(f"PHOTOS is no data set; {given} belongs to `--dataset`.")
    table = read_places(photos)
    typer.echo(f"{len(table.places)} photos, {table.num_positions} with a position (from: {table.source}).")
    return table, len(table.places)


@app.command()
def search(
    index: IndexArgument,
    queries: Annotated[list[Path], typer.Argument(parser=_path, metavar="QUERY...", help="Photos, or folders of photos.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Matches for each query.")] = 5,
    near: NearOption = None,
    box: BoxOption = None,
    heading: HeadingOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of a table.")] = False,
    plot: PlotOption = None,
    model: ModelOption = None,
    batch_size: BatchSizeOption = _BATCH_SIZE,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
) -> None:
    """Find where photos were taken. Without --model, the index says which model to load."""
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.jobs import search_photos

    opened = PlaceIndex.open(index)
    allowed = _filter(near, box, heading, since, until).allowed(opened.places)
    if plot is not None:
        from d2vpr_hf.plots import check_plot_file

        check_plot_file(plot, photos=[*queries, opened.photos])
    encoder = _encoder(model or opened.model, batch_size, workers, device)
    results = search_photos(opened, queries, encoder, top_k=top_k, allowed=allowed, strict=strict)
    typer.echo(_to_json(results) if as_json else _to_text(results))
    if plot is not None:
        from d2vpr_hf.plots import plot_search, save_figure

        save_figure(plot_search(results), plot)
    if all(result.error for result in results):
        raise ValueError("None of the queries could be read.")


@app.command()
def localize(
    index: Annotated[Path, typer.Argument(parser=_path, metavar="INDEX", help="Index folder.")],
    queries: Annotated[list[Path], typer.Argument(parser=_path, metavar="QUERY...", help="Photos, or folders of photos.")],
    precision: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of right ones among the answers given; the rest is no match.")
    ] = 0.95,
    near: NearOption = None,
    box: BoxOption = None,
    heading: HeadingOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of lines.")] = False,
    model: ModelOption = None,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
) -> None:
    """Say where photos were taken: position, radius and confidence, or no match. Calibrate the index first."""
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.localization import load_calibration, localize_photos

    opened = PlaceIndex.open(index)
    allowed = _filter(near, box, heading, since, until).allowed(opened.places)
    calibration = load_calibration(opened)
    encoder = _encoder(model or opened.model, batch_size, workers, device)
    options: dict[str, Any] = {"precision": precision, "allowed": allowed, "strict": strict}
    answers = localize_photos(opened, queries, encoder, calibration, **options)
    if as_json:
        typer.echo(json.dumps([answer.to_dict() for answer in answers], indent=2, allow_nan=False))
    else:
        typer.echo("\n".join(map(_localization_line, answers)))
    if all(answer.error for answer in answers):
        raise ValueError("None of the queries could be read.")


def _filter(near: str | None, box: str | None, heading: str | None, since: str | None, until: str | None) -> PlaceFilter:
    from d2vpr_hf.filters import PlaceFilter

    ranges = {
        "near": _numbers(near, "--near LAT,LON,METRES"),
        "box": _numbers(box, "--box SOUTH,WEST,NORTH,EAST"),
        "heading": _numbers(heading, "--heading DEGREES,TOLERANCE"),
    }
    return PlaceFilter(**ranges, since=since, until=until)  # type: ignore[arg-type]


def _numbers(text: str | None, form: str) -> tuple[float, ...] | None:
    """Read what an option was given: as many numbers as its form names."""
    if text is None:
        return None
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        raise ValueError(f"Expected `{form}` in numbers, got {text!r}.")
    return numbers


@app.command()
def calibrate(
    index: Annotated[Path, typer.Argument(parser=_path, metavar="INDEX", help="Index folder; the calibration goes into it.")],
    queries: Annotated[
        Path,
        typer.Option(
            "--queries", parser=_path, metavar="DIR", help="Photos with positions that are not in the index, or a CSV."
        ),
    ],
    positive_dist_threshold: Annotated[float, typer.Option(help="Metres within which a position is right.")] = 25.0,
    plots: Annotated[
        Path | None, typer.Option(parser=_path, metavar="DIR", help="Draw reliability, and precision over coverage, here.")
    ] = None,
    model: ModelOption = None,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
) -> None:
    """Fit confidences and radii to photos whose positions are known, some of them from outside the map."""
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.localization import calibrate as run
    from d2vpr_hf.readers import read_places

    opened, table = PlaceIndex.open(index), read_places(queries)
    if plots is not None:
        from d2vpr_hf.evaluation.plots import check_plot_folder
        from d2vpr_hf.localization.plots import FILES

        check_plot_folder(plots, [queries, opened.folder], FILES)
    with _progress("Encoding", len(table.places)) as progress:
        encoder = _encoder(model or opened.model, batch_size, workers, device)
        options = {"positive_dist_threshold": positive_dist_threshold, "strict": strict}
        calibration, reliability = run(opened, table, encoder, progress=progress, **options)  # type: ignore[arg-type]
    opened.store_calibration(calibration.to_dict())
    typer.echo(f"Calibrated {index}. Fitted on one half of the queries and judged on the other, both ways:")
    typer.echo(reliability.to_text())
    if plots is not None:
        from d2vpr_hf.localization.plots import save_plots

        typer.echo(f"Pictures: {', '.join(map(str, save_plots(reliability, plots)))}")


def _localization_line(answer: Localization) -> str:
    if answer.error is not None:
        return f"{answer.query}: {answer.error}"
    sure = "" if answer.confidence is None else f"  confidence {answer.confidence:.3f}"
    if answer.place is None:
        return f"{answer.query}  {'no match' if answer.no_match else answer.note}{sure}"
    radius = f"  ({answer.note})" if answer.radius_90 is None else f"  within {answer.radius_90:.1f} m (90 %)"
    return f"{answer.query}{_position(answer.place)}{radius}{sure}"


@app.command()
def evaluate(
    database: Annotated[Path, typer.Option("--database", parser=_path, metavar="DIR", help="Photos to search, or their CSV.")],
    queries: Annotated[Path, typer.Option("--queries", parser=_path, metavar="DIR", help="Photos to find, or their CSV.")],
    model: ModelOption = None,
    positive_dist_threshold: Annotated[
        float | None, typer.Option(help="Metres within which a match is right. Default: 25, unless frames decide.")
    ] = None,
    heading_tolerance: Annotated[
        float | None, typer.Option(help="Degrees that headings may differ by as well. Default: headings do not matter.")
    ] = None,
    frame_tolerance: Annotated[
        int | None, typer.Option(help="Frames within which a match is right, instead of metres, for two aligned sequences.")
    ] = None,
    recall_values: Annotated[
        list[str] | None,
        typer.Option("--recall-values", metavar="N,N,...", help="The N of recall@N; may be repeated. Default: 1,5,10,20."),
    ] = None,
    cross_image_encoder: Annotated[
        bool | None,
        typer.Option(
            "--cross-image-encoder/--no-cross-image-encoder",
            help="Whether the model's cross-image encoder takes part. Default: if the model has one.",
        ),
    ] = None,
    shuffle_check: Annotated[
        bool, typer.Option("--shuffle-check", help="Evaluate once more with the photos in a random order.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--json", parser=_path, metavar="OUT", help="Write the report here.")] = None,
    plots: Annotated[Path | None, typer.Option(parser=_path, metavar="DIR", help="Draw map, curve and matches here.")] = None,
    save_descriptors: Annotated[
        Path | None, typer.Option(parser=_path, metavar="DIR", help="Write both sides here as indexes.")
    ] = None,
    batch_size: BatchSizeOption = _BATCH_SIZE,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report and indexes of another run.")] = False,
) -> None:
    """Search one folder with another and count how often a right place is found: recall@N and more."""
    from d2vpr_hf.evaluation import evaluate as run

    rule = _rule(positive_dist_threshold, heading_tolerance, frame_tolerance)
    values = _parse_recall_values(recall_values)
    _check_outputs(report, plots, [database, queries], overwrite)
    known, asked = _read_tables(database, queries)
    typer.echo(f"Right: {rule}. Recall@N of N = {', '.join(map(str, values))}. Batch size {batch_size}.")
    start = time.perf_counter()
    with _progress("Encoding", (len(known.places) + len(asked.places)) * (1 + shuffle_check)) as progress:
        encoder = _encoder(model, batch_size, workers, device, cross_image_encoder)
        found = run(
            known,
            asked,
            encoder,
            rule,
            recall_values=values,
            shuffle_check=shuffle_check,
            save_descriptors=save_descriptors,
            strict=strict,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(found.to_text())
    typer.echo(f"took {time.perf_counter() - start:.1f} s")
    if report is not None:
        found.save(report, overwrite)
        typer.echo(f"Report: {report}")
    if plots is not None:
        from d2vpr_hf.evaluation.plots import save_plots

        typer.echo(f"Pictures: {', '.join(map(str, save_plots(found, plots)))}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(parser=_path, metavar="A.json", help="Report to compare with.")],
    second: Annotated[Path, typer.Argument(parser=_path, metavar="B.json", help="Report in question.")],
) -> None:
    """Compare two reports of the same queries: differences of recall@N, and whether they could be luck."""
    from d2vpr_hf.evaluation import Evaluation, compare_evaluations
    from d2vpr_hf.evaluation.report import model_text

    reports = Evaluation.load(first), Evaluation.load(second)
    for letter, path, report in zip("AB", (first, second), reports, strict=True):
        typer.echo(f"{letter}: {path}, {model_text(report.model)}")
    typer.echo(compare_evaluations(*reports).to_text())


def _rule(threshold: float | None, heading_tolerance: float | None, frame_tolerance: int | None) -> PositiveRule:
    from d2vpr_hf.evaluation import PositiveRule
    from d2vpr_hf.readers import POSITIVE_DIST_THRESHOLD

    if threshold is not None and frame_tolerance is not None:
        raise ValueError("Give either --positive-dist-threshold or --frame-tolerance: metres decide, or frames do.")
    return PositiveRule(POSITIVE_DIST_THRESHOLD if threshold is None else threshold, heading_tolerance, frame_tolerance)


def _parse_recall_values(texts: list[str] | None) -> tuple[int, ...]:
    from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values

    if not texts:
        return RECALL_VALUES
    try:
        return check_recall_values([int(value) for text in texts for value in text.split(",")])
    except ValueError as error:
        raise ValueError(f"Expected `--recall-values 1,5,10`, whole numbers from 1, got {','.join(texts)!r}.") from error


def _check_outputs(report: Path | None, plots: Path | None, photos: list[Path], overwrite: bool) -> None:
    """Refuse what could not be written, or must not be, before the work."""
    if report is not None:
        from d2vpr_hf.evaluation.report import check_report_file

        check_report_file(report, overwrite)
    if plots is not None:
        from d2vpr_hf.evaluation.plots import check_plot_folder

        check_plot_folder(plots, photos)


def _read_tables(database: Path, queries: Path) -> tuple[PlaceTable, PlaceTable]:
    from d2vpr_hf.readers import read_places

    tables = read_places(database), read_places(queries)
    for name, table in zip(("Database", "Queries"), tables, strict=True):
        typer.echo(f"{name}: {len(table.places)} photos, {table.num_positions} with a position (from: {table.source}).")
    return tables


@app.command()
def fit_projection(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub id, without a projection.")],
    photos: Annotated[
        Path, typer.Argument(parser=_path, metavar="PHOTOS", help="Photos that the model is not evaluated on, or their CSV.")
    ],
    dim: Annotated[int, typer.Option("--dim", min=1, help="Width of the projected descriptors.")],
    out: Annotated[Path, typer.Option("--out", parser=_path, metavar="MODEL2", help="Model folder to write.")],
    whiten: Annotated[bool, typer.Option("--whiten", help="Give all directions the same variance.")] = False,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = None,
    strict: StrictOption = False,
) -> None:
    """Make a model of smaller descriptors: PCA or whitening, fitted to photos and stored in the model."""
    from d2vpr_hf.projection import fit_projection as run
    from d2vpr_hf.readers import read_places

    table = read_places(photos)
    with _progress("Encoding", len(table.places)) as progress:
        encoder = _encoder(model, batch_size, workers, device)
        found = run(table, out, encoder, dim, whiten=whiten, strict=strict, progress=progress)
    typer.echo(f"{found.components.shape[1]} numbers become {dim}, with {100 * found.explained:.1f} % of the variance: {out}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(parser=_path, metavar="OUT", help="Folder to write.")],
    places: Annotated[int, typer.Option("--places", min=1, help="Places of the city, at least 32 m apart along a street.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which city. 9001 to 9003 are for testing, 8001 for validation.")],
    layout: Annotated[str, typer.Option(metavar="at-names|gsv-cities", help="How the photos lie on disk.")] = "at-names",
    tier: Annotated[str, typer.Option(metavar="easy|standard|all", help="How far photos of a place differ.")] = "standard",
    conditions: Annotated[
        str | None, typer.Option(metavar="LIST", help="What queries see, such as day,night, in place of the tier's weathers.")
    ] = None,
    photos_per_place: Annotated[int, typer.Option(min=1, help="Queries of a place; with gsv-cities, photos of each view.")] = 5,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")] = 224,
    workers: Annotated[int, typer.Option(min=1, help="Processes. The files do not depend on their number.")] = 1,
) -> None:
    """Render street photos of a procedural city, with exact positions."""
    from d2vpr_hf.gridtown import parse_weathers
    from d2vpr_hf.gridtown import simulate as render_city

    weathers = None if conditions is None else parse_weathers([name.strip() for name in conditions.split(",")])
    with _progress("Rendering", None) as progress:
        count = render_city(
            out,
            places,
            seed,
            layout=layout,
            tier=tier,
            conditions=weathers,
            photos_per_place=photos_per_place,
            image_size=image_size,
            workers=workers,
            progress=progress,
        )
    typer.echo(f"Wrote {count} photos of {places} places to {out}.")


@app.command()
def places(
    photos: Annotated[
        Path,
        typer.Argument(parser=_path, metavar="PHOTOS", help="Folder of photos with positions, or a CSV file that lists them."),
    ],
    out: Annotated[Path, typer.Option("--out", parser=_path, metavar="FILE", help="CSV file to write.")] = Path("places.csv"),
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
    from d2vpr_hf.index import check_writable
    from d2vpr_hf.readers import PlaceGrid, describe_places, group_places, read_places, write_places
    from d2vpr_hf.readers.folder import check_places_file
    from d2vpr_hf.updates import report_skipped

    grid = PlaceGrid(cell, heading, spacing)
    check_places_file(out, photos if photos.is_dir() else photos.parent, overwrite)
    check_writable(out)
    typer.echo(f"Places: {grid}.")
    table = read_places(photos)
    typer.echo(f"{len(table.places)} photos, {table.num_positions} with a position (from: {table.source}).")
    grouped = group_places(table, grid, min_photos=min_photos, min_days=min_days)
    report_skipped(grouped.skipped, len(table.places) + len(table.skipped), strict)
    write_places(grouped, out, overwrite)
    typer.echo(describe_places(grouped))
    typer.echo(f"Wrote {out}.")


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


def _encoder(
    model: str | None, batch_size: int, workers: int, device: str | None, cross_image_encoder: bool | None = None
) -> PlaceEncoder:
    from d2vpr_hf.encoder import PlaceEncoder

    _hush_transformers()
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "cross_image_encoder": cross_image_encoder}
    return PlaceEncoder(model, device=device, **options)


def _hush_transformers() -> None:
    """Switch off the bars that transformers draws for every file, and its reports, which our errors repeat."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


@contextlib.contextmanager
def _progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
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
