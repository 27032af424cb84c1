"""Commands that make and maintain an index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.choices import Compression, Dtype, FusionMethod, Store
from d2vpr_hf.cli.options import (
    DescriptorOptions,
    EncoderOptions,
    IndexArgument,
    IndexEncoderOptions,
    IndexFolderArgument,
    JsonOption,
    ModelOption,
    NewModelOption,
    OverwriteOption,
    ReadingOptions,
    StrictOption,
    check_changeable,
    expand_patterns,
    index_folder,
    open_index,
    parse_model,
    parse_path,
)
from d2vpr_hf.cli.terminal import changes_text, check_used, count_photos, echo, notice, progress_bar, table_text
from d2vpr_hf.utils.printable import printable_line

if TYPE_CHECKING:
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.readers import PhotoCollection


@dataclass
class DatasetOptions:
    """Options for reading a data set instead of photo files."""

    dataset: Annotated[
        str | None,
        typer.Option(
            parser=parse_model, metavar="NAME", help="Hugging Face data set to index instead of PHOTOS: Hub id, folder or file."
        ),
    ] = None
    config: Annotated[str | None, typer.Option(help="Configuration (subset) of the data set.")] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the data set.")] = None
    split: Annotated[str | None, typer.Option(help="Split of the data set, such as train.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the data set while it is downloaded.")] = False

    def read(self, photos: Path | None, reading: ReadingOptions) -> PhotoCollection:
        """Read the photos or load the data set."""
        from d2vpr_hf.readers import DatasetPhotos, load_places, read_places
        from d2vpr_hf.readers.remarks import RemarkCounter

        if (photos is None) == (self.dataset is None):
            raise ValueError("Give either PHOTOS or `--dataset NAME`.")
        if photos is not None:
            values: dict[str, object] = {"--config": self.config, "--revision": self.revision, "--split": self.split}
            values |= {"--streaming": self.streaming}
            given = [flag for flag, value in values.items() if value]
            if given:
                raise ValueError(f"PHOTOS is not a data set; omit {', '.join(given)}, or give `--dataset`.")
            return read_places(photos, reading.read_options())
        options = {"--positions": reading.positions, "--assume-north-east": reading.assume_north_east}
        given = [flag for flag, value in options.items() if value]
        if given:
            raise ValueError(f"A data set has its positions in columns; omit {', '.join(given)}.")
        remarks = RemarkCounter()
        dataset = load_places(
            str(self.dataset),
            config=self.config,
            revision=self.revision,
            split=self.split,
            streaming=self.streaming,
            columns=reading.columns_by_field(),
            remarks=remarks,
        )
        return DatasetPhotos(dataset, remark_counter=remarks)

    def text(self, collection: PhotoCollection) -> str:
        """Return a line with the number of photos, and the source of their positions."""
        from d2vpr_hf.readers import PlaceTable

        if isinstance(collection, PlaceTable):
            return table_text(collection)
        count = collection.count
        return f"Streaming photos from {self.dataset}." if count is None else f"{count} photos in {self.dataset}."


@dataclass
class GivenDescriptors(DescriptorOptions):
    """Options for indexing descriptors that another program made."""

    places: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="CSV", help="With --descriptors: the places, a line for each row."),
    ] = None
    descriptor_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --descriptors: model that made them, such as megaloc-322. An index takes further ones of this name "
            "only. Default: that of the index, or own.",
        ),
    ] = None

    def check_index(self, photos: Path | None, dataset: str | None, model: str | None) -> None:
        """Raise ValueError unless either photos, a data set or descriptors with their places are given."""
        if self.descriptors is None:
            if self.places is not None or self.descriptor_name is not None or self.tensor is not None or self.normalize:
                raise ValueError("Descriptors of another program need `--descriptors FILE`.")
            return
        if self.places is None:
            raise ValueError("Give `--places CSV` with a line for each row of `--descriptors`.")
        if photos is not None or dataset is not None or model is not None:
            raise ValueError("With `--descriptors`, no photos are encoded. Omit PHOTOS, --dataset and --model.")


@dataclass
class StoreOptions:
    """Options for the vector store of an index."""

    compression: Annotated[
        Compression | None,
        typer.Option(help="Compression of searched descriptors; see docs/search.md. Default: that of the index, or none."),
    ] = None
    store: Annotated[Store | None, typer.Option(help="Vector store that searches. Default: that of the index, or faiss.")] = (
        None
    )
    uri: Annotated[
        str | None,
        typer.Option(
            parser=parse_model,
            metavar="FILE|URL",
            help="Address of the service, which the index keeps. milvus: a file that ends in .db, or a server; pgvector: "
            "postgresql://USER@HOST/DATABASE.",
        ),
    ] = None


@dataclass
class FusionOptions:
    """Options for one row for each place, in place of one for each photo."""

    fuse_places: Annotated[
        FusionMethod | None,
        typer.Option(
            help="Store one row for each place, fused of its photos; matches list them. mean: mean descriptor; hops: sum of "
            "differences from the mean of the map. The index of all photos is INDEX-photos.",
        ),
    ] = None
    fuse_cell: Annotated[float, typer.Option(help="With --fuse-places: side of a grid cell of a place in metres.")] = 10.0
    fuse_heading: Annotated[
        float, typer.Option(help="With --fuse-places: range of headings of a place in degrees; 360 ignores headings.")
    ] = 30.0

    def photo_index(self, out: Path, overwrite: bool) -> Path:
        """Return the folder of the index of all photos: `out`, or one next to it for an index of fused places."""
        from d2vpr_hf.readers import PlaceGrid
        from d2vpr_hf.retrieval.fuse_places import check_fused_out

        grid = PlaceGrid(self.fuse_cell, self.fuse_heading)
        if self.fuse_places is None:
            if grid != PlaceGrid():
                raise ValueError("`--fuse-cell` and `--fuse-heading` belong to `--fuse-places`. Give it too.")
            return out
        check_fused_out(out, overwrite)
        return out.with_name(f"{out.name}-photos")

    def fuse(self, built: PlaceIndex, out: Path, overwrite: bool, search: StoreOptions) -> dict[str, Any]:
        """Write the index of fused places, and return its counts; none if photos are not fused."""
        from d2vpr_hf.readers import PlaceGrid
        from d2vpr_hf.retrieval.fuse_places import fuse_places

        if self.fuse_places is None:
            return {}
        with progress_bar("Fusing", len(built)) as progress:
            _, report = fuse_places(
                built,
                out,
                method=self.fuse_places,
                grid=PlaceGrid(self.fuse_cell, self.fuse_heading),
                overwrite=overwrite,
                compression=search.compression,
                store=search.store,
                uri=search.uri,
                progress=progress,
            )
        return report.to_dict()


def index(
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="INDEX", help="Index folder to write.")],
    photos: Annotated[
        Path | None,
        typer.Argument(parser=parse_path, metavar="PHOTOS", help="Folder of photos, or a CSV file that lists them."),
    ] = None,
    dataset: DatasetOptions,
    given: GivenDescriptors,
    reading: ReadingOptions,
    model: ModelOption = None,
    encoding: IndexEncoderOptions,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Number type of the descriptors in a new index. Default: float16.")
    ] = None,
    search: StoreOptions,
    fusion: FusionOptions,
) -> None:
    """Index photos, or update an index of them.

    Positions are read from a CSV file, from @ names, or from EXIF, XMP and sidecar files; photos without a position are indexed
    too. With --dataset, they come from the columns of a data set.

    An existing index is updated: only photos that are new or changed are encoded. A run that was interrupted continues where
    it stopped.
    """
    from d2vpr_hf.index import PlaceIndex, check_out, check_store
    from d2vpr_hf.retrieval.index_photos import index_photos

    folder = check_out(out)  # checked before a model or data set is downloaded
    check_store(search.store, search.uri, search.compression)
    given.check_index(photos, dataset.dataset, model)
    folder = fusion.photo_index(folder, overwrite)
    photo_search = search if fusion.fuse_places is None else StoreOptions()
    if given.descriptors is not None and given.places is not None:
        built, facts, text = _index_descriptors(given, folder, reading, photo_search, as_json, overwrite, strict, dtype)
        counts = fusion.fuse(built, out, overwrite, search)
        if as_json:
            echo(json.dumps(facts | counts, indent=2))
            return
        notice(text)
        if counts:
            notice(_fusion_text(counts, out))
        return
    existing = None if overwrite else PlaceIndex.resume(folder, replacement=False)
    collection = dataset.read(photos, reading)
    if not as_json:
        notice(dataset.text(collection))
    total = None if collection.count is None else collection.count - len(collection.skipped)
    with progress_bar("Indexing", total) as progress:
        encoder = encoding.load(model, existing, photos=collection.paths)
        built, report = index_photos(
            collection,
            folder,
            encoder,
            strict=strict,
            overwrite=overwrite,
            dtype=dtype,
            compression=photo_search.compression,
            store=photo_search.store,
            uri=photo_search.uri,
            progress=progress,
        )
    counts = fusion.fuse(built, out, overwrite, search)
    num_positions = sum(place.has_position for place in built.places)
    if as_json:
        facts = {
            "index": str(out),
            "photos": len(built),
            "positions": num_positions,
            "source": getattr(collection, "source", "dataset"),
        }
        echo(json.dumps(facts | {"descriptor_dim": encoder.descriptor_dim} | report.to_dict() | counts, indent=2))
        return
    with_positions = "" if photos is not None else f", {num_positions} with a position,"
    notice(f"Indexed {len(built)} photos{with_positions} as descriptors of {encoder.descriptor_dim} numbers in {folder}.")
    if existing is not None:
        notice(changes_text(report))
    if counts:
        notice(_fusion_text(counts, out))


def _index_descriptors(
    given: GivenDescriptors,
    out: Path,
    reading: ReadingOptions,
    search: StoreOptions,
    as_json: bool,
    overwrite: bool,
    strict: bool,
    dtype: Dtype | None,
) -> tuple[PlaceIndex, dict[str, Any], str]:
    """Index descriptors; return the index, and the report as JSON values and as a text."""
    from d2vpr_hf.readers import read_places
    from d2vpr_hf.retrieval.given_descriptors import index_descriptors

    table = read_places(Path(str(given.places)), reading.read_options())
    if not as_json:
        notice(f"Places: {table_text(table)}")
    with progress_bar("Indexing", len(table.places)) as progress:
        built, report = index_descriptors(
            Path(str(given.descriptors)),
            table,
            out,
            name=given.descriptor_name,
            tensor=given.tensor,
            normalize=given.normalize,
            strict=strict,
            overwrite=overwrite,
            dtype=dtype,
            compression=search.compression,
            store=search.store,
            uri=search.uri,
            progress=progress,
        )
    settings = built.settings
    facts = {"index": str(out), "photos": len(built), "positions": sum(place.has_position for place in built.places)}
    facts |= {"descriptor_name": settings.descriptor_name, "descriptor_dim": settings.descriptor_dim}
    text = (
        f"{report.added} added, {report.replaced} replaced, {report.kept} kept. {out} holds {len(built)} descriptors of "
        f"{settings.descriptor_dim} numbers under the name {settings.descriptor_name!r}; search it with `--descriptors` of the "
        "same model."
    )
    return built, facts | report.to_dict(), text


def _fusion_text(counts: dict[str, Any], out: Path) -> str:
    """Return a line with the counts of a fusion."""
    single = f", {counts['not_fused']} of which have no cell or direction and stay alone" if counts["not_fused"] else ""
    return f"Fused {counts['fused_photos']} photos{single} to {counts['fused_rows']} rows in {out}."


def embed(
    photos: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="PHOTOS", help="Folder of photos, or a CSV file that lists them.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="PARTS", help="Folder to write shards into.")],
    reading: ReadingOptions,
    model: NewModelOption = None,
    encoding: EncoderOptions,
    dtype: Annotated[Dtype, typer.Option(help="Number type of the descriptors.")] = "float16",
    shard_size: Annotated[int, typer.Option(min=1, help="Photos in a shard.")] = 4096,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode a large photo set in several processes.

    Start them with `accelerate launch -m d2vpr_hf embed PHOTOS --out PARTS`; `d2vpr merge` then makes the index. Complete
    shards are kept: a run that was interrupted continues, also with another number of processes.
    """
    from d2vpr_hf.readers import read_places
    from d2vpr_hf.retrieval.distributed import embed_photos, launched_device, launched_process

    table = read_places(photos, reading.read_options())
    rank, num_processes = launched_process()
    encoding.device = encoding.device or launched_device()
    encoder = encoding.load(model, photos=table.paths if rank == 0 else ())  # one process warns
    with progress_bar("Encoding", len(table.places) // num_processes if rank == 0 else None) as progress:
        report = embed_photos(
            table,
            out,
            encoder,
            process=(rank, num_processes),
            strict=strict,
            dtype=dtype,
            shard_size=shard_size,
            progress=progress,
        )
    if as_json:
        echo(json.dumps({"parts": str(out), "process": rank, "processes": num_processes} | report.to_dict(), indent=2))
        return
    notice(
        f"Process {rank + 1} of {num_processes}: {report.encoded} shards encoded, {report.kept} kept, "
        f"of {report.total} in all; {len(report.skipped)} photos skipped."
    )


def merge(
    parts: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            callback=expand_patterns,
            metavar="PARTS...",
            help="Folders that `embed` wrote shards into, or patterns such as 'parts-*'.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="INDEX", help="Index folder to write.")],
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    search: StoreOptions,
) -> None:
    """Make an index of the shards that `embed` wrote.

    The shards themselves stay.
    """
    from d2vpr_hf.retrieval.distributed import merge_parts

    with progress_bar("Merging", None) as progress:
        merged = merge_parts(
            parts,
            out,
            overwrite=overwrite,
            compression=search.compression,
            store=search.store,
            uri=search.uri,
            progress=progress,
        )
    if as_json:
        facts = {"index": str(out), "photos": len(merged), "descriptor_dim": merged.settings.descriptor_dim}
        echo(json.dumps(facts | {"skipped": merged.skipped}, indent=2))
        return
    skipped = f"; {len(merged.skipped)} photos skipped" if merged.skipped else ""
    notice(f"Merged {len(merged)} photos as descriptors of {merged.settings.descriptor_dim} numbers into {out}{skipped}.")


def add(
    index: IndexFolderArgument,
    photos: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            callback=expand_patterns,
            metavar="PHOTOS...",
            help="Photos, folders, CSV files, or patterns such as 'a/*.jpg'.",
        ),
    ],
    *,
    reading: ReadingOptions,
    model: ModelOption = None,
    encoding: IndexEncoderOptions,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add photos to an index.

    Photos of the index are encoded again if their files changed; everything else stays.
    """
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.readers import name_in_folder
    from d2vpr_hf.readers.skipped import printable_path
    from d2vpr_hf.retrieval.index_photos import add_photos

    check_changeable(index)
    encoder = encoding.load(model, PlaceIndex.open(index))
    with progress_bar("Adding", count_photos(photos)) as progress:
        changed, report = add_photos(index, photos, encoder, options=reading.read_options(), strict=strict, progress=progress)
    if as_json:
        echo(json.dumps({"index": str(index), "photos": len(changed)} | report.to_dict(), indent=2))
    else:
        notice(f"{changes_text(report)} {len(changed)} photos in {index}.")
    names = {photo: name_in_folder(changed.settings.photo_folder, photo) for photo in photos}
    indexed = set(changed.places.column("path")) if report.skipped else set()  # photos that are given twice are skipped once
    unused = [
        photo
        for photo, name in names.items()
        if name not in indexed and not report.skipped.keys().isdisjoint((str(photo), printable_path(name)))
    ]
    check_used(unused, len(photos))


def remove(
    index: IndexFolderArgument,
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Names of photos in the index, or files.")],
) -> None:
    """Remove photos from an index.

    Their files stay; `compact` frees their space in the index.
    """
    from d2vpr_hf.retrieval.index_photos import remove_photos

    check_changeable(index)
    remaining = remove_photos(index, photos)
    notice(f"Removed {len(set(photos))} photos; {len(remaining)} remain in {index}.")


def info(
    index: IndexArgument,
    as_json: JsonOption = False,
) -> None:
    """Show the contents of an index and its settings."""
    from d2vpr_hf.encoders.embedded_notice import warn_of_embedded_model
    from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME

    opened = open_index(index)
    facts = opened.info()
    if facts["model"] == EMBEDDED_NAME:
        warn_of_embedded_model((place.path for place in opened.places), is_indexed=True, is_default=False)
    if (calibration := opened.calibration) is not None and "query_fingerprint" in calibration:
        facts["calibrated_for"] = calibration.get("query_model") or calibration["query_fingerprint"]
    texts = {name: _value_text(value) for name, value in facts.items()}
    if facts["descriptor_name"] is not None:
        texts["model"] = "none: descriptors of another program"
    elif facts["model"] is None:
        texts["model"] = "embedded, or one that was never saved"
    lines = [f"{name}: {printable_line(text)}" for name, text in texts.items()]
    echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines))


def verify(index: IndexArgument) -> None:
    """Read a whole index and list damaged files."""
    from d2vpr_hf.index import verify_index

    folder = index_folder(index)
    problems = verify_index(folder)
    if problems:
        remedy = "`d2vpr repair` drops damaged shards and keeps all others."
        if folder != Path(index):
            remedy = f"`hf download {index.partition('@')[0]} --repo-type dataset --force-download` downloads them again."
        lines = (f"{len(problems)} files of {index} are damaged:", *(f"  {line}" for line in problems))
        raise ValueError("\n".join([*lines, remedy]))
    notice(f"{index} is undamaged.")


def repair(index: IndexFolderArgument) -> None:
    """Drop damaged shards and keep the others.

    `index` with the same photos then encodes the dropped ones again.
    """
    from d2vpr_hf.index import repair_index

    check_changeable(index)
    report = repair_index(index)
    echo(f"Dropped {report.shards} damaged shards with {report.rows} photos from {index}.")
    if report.rows:
        echo("`d2vpr index PHOTOS --out INDEX` with the same photos encodes them again.")
    if added := [path for path in report.paths if Path(path).is_absolute()]:
        lines = [f"  {printable_line(path)}" for path in added]
        echo("\n".join(["These had been added; `d2vpr add` adds them again:", *lines]))
    if report.rows > len(report.paths):
        echo(f"The names of {report.rows - len(report.paths)} of them are lost; if they had been added, add them again.")
    if report.calibration:
        echo("The calibration was damaged too; `d2vpr calibrate` makes a new one.")


def compact(index: IndexFolderArgument) -> None:
    """Rewrite an index without removed photos."""
    from d2vpr_hf.index import PlaceIndex

    check_changeable(index)
    with PlaceIndex.open(index) as opened:
        before = opened.info()
        opened.compact()
        opened.build_store()
    after = opened.info()
    notice(f"{before['bytes']} -> {after['bytes']} bytes, {before['shards']} -> {after['shards']} shards in {index}.")


def _value_text(value: Any) -> str:
    """Return a value of an index's information on one line."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{name} ({reason})" for name, reason in value.items()) or "none"
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))
