"""Commands that make and tend an index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.options import (
    EncoderOptions,
    IndexArgument,
    IndexEncoderOptions,
    ModelOption,
    OverwriteOption,
    StrictOption,
    parse_pairs,
    parse_path,
)
from d2vpr_hf.cli.terminal import progress_bar, table_text

if TYPE_CHECKING:
    from d2vpr_hf.retrieval.updates import UpdateReport


@dataclass
class DatasetOptions:
    """Which data set is indexed, if any, and how it is read."""

    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead of PHOTOS: a Hugging Face data set, by Hub id, folder or file.")
    ] = None
    config: Annotated[str | None, typer.Option(help="Configuration (subset) of the data set.")] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the data set.")] = None
    split: Annotated[str | None, typer.Option(help="Split of the data set, such as train.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the data set without downloading it first.")] = False
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=COLUMN", help="Say which column of the data set holds what: image=photo."),
    ] = None

    def read(self, photos: Path | None) -> tuple[Any, int | None]:
        """Read or load what is to be indexed, and say how many photos there are (`None` if streaming)."""
        if (photos is None) == (self.dataset is None):
            raise ValueError("Give either PHOTOS or `--dataset NAME`.")
        return self._load_rows() if photos is None else self._read_photos(photos)

    def _load_rows(self) -> tuple[Any, int | None]:
        from d2vpr_hf.readers import load_places

        rows = load_places(str(self.dataset), **self._options())
        total = None if self.streaming else len(rows)
        typer.echo(f"Streaming photos from {self.dataset}." if total is None else f"{total} photos in {self.dataset}.")
        return rows, total

    def _read_photos(self, photos: Path) -> tuple[Any, int]:
        from d2vpr_hf.readers import read_places

        given = ", ".join(f"--{name}".removesuffix("s") for name, value in self._options().items() if value)
        if given:
            raise ValueError(f"PHOTOS is no data set; {given} belongs to `--dataset`.")
        table = read_places(photos)
        typer.echo(table_text(table))
        return table, len(table.places)

    def _options(self) -> dict[str, Any]:
        columns = dict(parse_pairs(self.columns, "--column FIELD=COLUMN"))
        named = {"config": self.config, "revision": self.revision, "split": self.split, "streaming": self.streaming}
        return {**named, "columns": columns}


@dataclass
class SearchOptions:
    """What searches of an index read."""

    compression: Annotated[
        str | None,
        typer.Option(
            metavar="none|half|int8|bits", help="What searches read: docs/search.md. Default: as the index has it, or none."
        ),
    ] = None
    store: Annotated[
        str | None, typer.Option(metavar="faiss|milvus", help="Who searches. Default: as the index has it, or faiss.")
    ] = None
    uri: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="With --store milvus: a file that ends in .db, or a server. The index keeps it."),
    ] = None


def index(
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="INDEX", help="Index folder to write.")],
    photos: Annotated[
        Path | None,
        typer.Argument(parser=parse_path, metavar="PHOTOS", help="Folder of photos, or a CSV file that lists them."),
    ] = None,
    dataset: DatasetOptions,
    model: ModelOption = None,
    encoding: IndexEncoderOptions,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    dtype: Annotated[
        str | None, typer.Option(metavar="float16|float32", help="How a new index stores descriptors. Default: float16.")
    ] = None,
    search: SearchOptions,
) -> None:
    """Index photos: a folder, with positions from a CSV file, from @ names, from EXIF, or with none; or a data set.

    An index that is there already is brought in line with the photos: only what is new or changed is encoded. A run that was
    interrupted goes on where it stopped.
    """
    from d2vpr_hf.index import PlaceIndex, check_out, check_store
    from d2vpr_hf.retrieval.index_photos import index_photos

    folder = check_out(out)  # before anything is downloaded
    check_store(search.store, search.uri, search.compression)
    there = None if overwrite else PlaceIndex.resume(folder, replacement=False)
    source, total = dataset.read(photos)
    options: dict[str, Any] = {"strict": strict, "overwrite": overwrite, "dtype": dtype, **vars(search)}
    with progress_bar("Indexing", total) as progress:
        encoder = encoding.load(model, there)
        built, report = index_photos(source, out, encoder, progress=progress, **options)
    positions = sum(place.has_position for place in built.places)
    with_positions = "" if photos is not None else f", {positions} with a position,"
    typer.echo(f"Indexed {len(built)} photos{with_positions} as descriptors of {encoder.descriptor_dim} numbers in {out}.")
    if there is not None:
        typer.echo(_changes(report))


def embed(
    photos: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="PHOTOS", help="Folder of photos, or a CSV file that lists them.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="PARTS", help="Folder to write parts into.")],
    model: ModelOption = None,
    encoding: EncoderOptions,
    dtype: Annotated[str, typer.Option(metavar="float16|float32", help="How descriptors are stored.")] = "float16",
    shard_size: Annotated[int, typer.Option(min=1, help="Photos of a part, and of a shard of the index.")] = 4096,
    strict: StrictOption = False,
) -> None:
    """Encode a large set of photos in parts, by several processes: accelerate launch -m d2vpr_hf embed PHOTOS --out PARTS.

    `merge` makes the index. Parts that are there are kept, so that a run which was interrupted goes on, with as many processes
    as you like.
    """
    from d2vpr_hf.readers import read_places
    from d2vpr_hf.retrieval.distributed import embed_photos, launched_device, launched_process

    table, process = read_places(photos), launched_process()
    encoding.device = encoding.device or launched_device()
    encoder = encoding.load(model)
    with progress_bar("Encoding", len(table.places) // process[1] if process[0] == 0 else None) as progress:
        options: dict[str, Any] = {"strict": strict, "dtype": dtype, "shard_size": shard_size, "progress": progress}
        done = embed_photos(table, out, encoder, process=process, **options)
    own = f"{done.encoded} parts encoded, {done.kept} kept, of {done.total} in all"
    typer.echo(f"Process {process[0] + 1} of {process[1]}: {own}; {len(done.skipped)} photos left out.")


def merge(
    parts: Annotated[
        list[Path], typer.Argument(parser=parse_path, metavar="PARTS...", help="Folders that `embed` wrote parts into.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="INDEX", help="Index folder to write.")],
    overwrite: OverwriteOption = False,
    search: SearchOptions,
) -> None:
    """Make an index of the parts that `embed` wrote. The parts stay."""
    from d2vpr_hf.retrieval.distributed import merge_parts

    with progress_bar("Merging", None) as progress:
        options: dict[str, Any] = {"overwrite": overwrite, "progress": progress, **vars(search)}
        merged = merge_parts(parts, out, **options)
    left_out = f"; {len(merged.skipped)} could not be read" if merged.skipped else ""
    typer.echo(f"Merged {len(merged)} photos as descriptors of {merged.settings.descriptor_dim} numbers into {out}{left_out}.")


def add(
    index: IndexArgument,
    photos: Annotated[
        list[Path], typer.Argument(parser=parse_path, metavar="PHOTOS...", help="Photos, folders, or CSV files.")
    ],
    *,
    model: ModelOption = None,
    encoding: IndexEncoderOptions,
    strict: StrictOption = False,
) -> None:
    """Add photos to an index; those in it that changed are encoded anew, everything else stays."""
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.retrieval.index_photos import add_photos

    encoder = encoding.load(model, PlaceIndex.open(index))
    with progress_bar("Adding", None) as progress:
        changed, report = add_photos(index, photos, encoder, strict=strict, progress=progress)
    typer.echo(f"{_changes(report)} {len(changed)} photos in {index}.")


def remove(
    index: IndexArgument,
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Photos, as they are named in the index, or files.")],
) -> None:
    """Remove photos from an index. The photos themselves stay; `compact` gives back their room in the index."""
    from d2vpr_hf.retrieval.index_photos import remove_photos

    left = remove_photos(index, photos)
    typer.echo(f"Removed {len(set(photos))} photos; {len(left)} are left in {index}.")


def info(
    index: IndexArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say what an index holds and what made it."""
    from d2vpr_hf.index import PlaceIndex

    found = PlaceIndex.open(index).info()
    lines = "\n".join(f"{name}: {_plain(value)}" for name, value in found.items())
    typer.echo(json.dumps(found, indent=2) if as_json else lines)


def verify(index: IndexArgument) -> None:
    """Read everything in an index and name every damaged file."""
    from d2vpr_hf.index import verify_index

    problems = verify_index(index)
    if problems:
        lines = (f"{len(problems)} files of {index} are damaged:", *(f"  {line}" for line in problems))
        raise ValueError("\n".join([*lines, "`d2vpr repair` drops damaged shards and keeps all others."]))
    typer.echo(f"{index} is as it was stored.")


def repair(index: IndexArgument) -> None:
    """Drop the damaged shards of an index, and keep all others; `index` with its photos then encodes what went."""
    from d2vpr_hf.index import repair_index

    done = repair_index(index)
    typer.echo(f"Dropped {done.shards} damaged shards with {done.rows} photos from {index}.")
    if done.rows:
        typer.echo("`d2vpr index PHOTOS --out INDEX` with the photos it was built from encodes them again.")
    if elsewhere := [path for path in done.paths if Path(path).is_absolute()]:
        typer.echo("\n".join(["These came from elsewhere; `d2vpr add` adds them again:", *(f"  {path}" for path in elsewhere)]))
    if done.rows > len(done.paths):
        typer.echo(f"The names of {done.rows - len(done.paths)} of them are lost; add again what came from elsewhere.")
    if done.calibration:
        typer.echo("Its calibration was damaged too; `d2vpr calibrate` makes it anew.")


def compact(index: IndexArgument) -> None:
    """Rewrite an index without the room of removed photos, in few files."""
    from d2vpr_hf.index import PlaceIndex

    opened = PlaceIndex.open(index)
    before = opened.info()
    opened.compact()
    opened.build_store()
    after = opened.info()
    typer.echo(f"{before['bytes']} -> {after['bytes']} bytes, {before['shards']} -> {after['shards']} shards in {index}.")


def _changes(report: UpdateReport) -> str:
    return f"{report.added} added, {report.changed} changed, {report.removed} removed, {report.kept} kept."


def _plain(value: Any) -> str:
    """Show a value on one line."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{name} ({what})" for name, what in value.items()) or "none"
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))
