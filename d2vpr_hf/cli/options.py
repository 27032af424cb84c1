"""Arguments and options that several commands share, each written once."""

from __future__ import annotations

import glob
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.choices import AnswerFormat, Backend, Pool, PositionSource, Precision, RerankMode, TestTime
from d2vpr_hf.cli.terminal import hush_transformers
from d2vpr_hf.utils.printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.places.filters import PlaceFilter
    from d2vpr_hf.readers import ReadOptions
    from d2vpr_hf.reranking.options import Reranking

BATCH_SIZE = 16


def parse_path(text: str) -> Path:
    """Read a path, with `~` for the home folder, which shells do not expand in `--out=~/index`.

    An empty path, as from an unset shell variable, would mean the current folder and is refused.
    """
    if not text:
        raise typer.BadParameter("the path is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"there is no home folder for {text}") from error


def expand_patterns(paths: list[Path] | None) -> list[Path] | None:
    """Return paths with the files that match a pattern in place of it, sorted: Windows and quotes leave `*.jpg` unchanged.

    A path that exists is not a pattern, whatever characters it has. `**` also matches folders in folders.
    """
    if paths is None:
        return None
    expanded: list[Path] = []
    for path in paths:
        if not glob.has_magic(str(path)) or path.exists():
            expanded.append(path)
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not matches and set("*?").isdisjoint(str(path)):  # brackets are usual in names
            matches = [str(path)]
        if not matches:
            raise typer.BadParameter(f"no file matches the pattern {printable_line(str(path))}")
        expanded += map(Path, matches)
    return expanded


def parse_model(text: str) -> str:
    """Read the name of a model, an index or a data set, which may be a folder, with `~` for the home folder."""
    return str(parse_path(text)) if text.startswith("~") else text


def parse_index(text: str) -> str:
    """Read the name of an index, a folder or a Hub id."""
    return text if text and not text.startswith("~") else str(parse_path(text))


def open_index(name: str, *, thumbnails: bool = False) -> PlaceIndex:
    """Open an index in a folder, or one on the Hub under `user/name` or `user/name@revision`; thumbnails of the latter too."""
    from d2vpr_hf.index import PlaceIndex

    return PlaceIndex.from_pretrained(name, thumbnails=thumbnails) if is_on_hub(name) else PlaceIndex.open(name)


def index_folder(name: str) -> Path:
    """Return the folder of an index; one on the Hub is downloaded."""
    from d2vpr_hf.index.hub import fetch_index

    return fetch_index(name) if is_on_hub(name) else Path(name)


def check_changeable(index: Path) -> None:
    """Raise ValueError if an index to be changed is a Hub id."""
    if is_on_hub(str(index)):
        from d2vpr_hf.utils.hub_ids import split_revision

        name = split_revision(str(index))[0]
        raise ValueError(
            f"There is no index folder {index}, and an index on the Hub cannot be changed there. Copy it with `hf download "
            f"{name} --repo-type dataset --local-dir FOLDER`, change the copy, and upload it with `d2vpr push FOLDER {name}`."
        )


def is_on_hub(name: str) -> bool:
    """Return whether a name of an index is a Hub id, and no folder of this name exists."""
    from d2vpr_hf.utils.hub_ids import is_hub_id, split_revision

    return not Path(name).exists() and is_hub_id(split_revision(name)[0])


IndexArgument = Annotated[str, typer.Argument(parser=parse_index, metavar="INDEX", help="Index folder or Hub id.")]
IndexFolderArgument = Annotated[Path, typer.Argument(parser=parse_path, metavar="INDEX", help="Index folder.")]
QueriesArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        parser=parse_path,
        callback=expand_patterns,
        metavar="[QUERY...]",
        help="Photos, folders of photos, or patterns such as 'a/*.jpg'; or give --descriptors.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        parser=parse_model,
        metavar="MODEL",
        help="Model folder or Hub id, `auto` for the best one here or on the Hub (see `d2vpr models`), or `embedded` for the "
        "small model included here. Default: the model of the index; for a new index, the small one.",
    ),
]
NewModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        parser=parse_model,
        metavar="MODEL",
        help="Model folder or Hub id, or `auto` for the best one here or on the Hub (see `d2vpr models`). Default: `embedded`, "
        "the small model included here.",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail if a photo cannot be used, instead of skipping it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing index as a whole.")]


@dataclass
class ReadingOptions:
    """Options for reading photos and their places."""

    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="FIELD=NAME",
            help="Name of the column of a CSV file or data set that has a field, such as latitude=y_wgs84; may be repeated.",
        ),
    ] = None
    positions: Annotated[
        PositionSource | None,
        typer.Option(
            help="Source of positions: the CSV file of the folder, @ names, or EXIF, XMP and sidecars. Default: the first of "
            "them that the folder has."
        ),
    ] = None
    assume_north_east: Annotated[
        bool, typer.Option("--assume-north-east", help="Read EXIF positions without a hemisphere as north and east.")
    ] = False

    def read_options(self) -> ReadOptions:
        """Make the options of readers."""
        from d2vpr_hf.readers import ReadOptions

        return ReadOptions(self.columns_by_field(), self.positions, self.assume_north_east)

    def columns_by_field(self) -> dict[str, str]:
        """Parse the names of columns."""
        return parse_pairs(self.columns, "--column FIELD=NAME")


def parse_image_size(text: str) -> tuple[int, int]:
    """Read a height and a width in pixels, `224,448`, or the side of a square, `224`."""
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise typer.BadParameter(f"expected a side or HEIGHT,WIDTH in pixels, such as 224 or 224,448; got {text!r}")
    return sides[0], sides[-1]


def parse_layer(text: str) -> int | str:
    """Read the number of a layer, or the name of a module."""
    try:
        return int(text)
    except ValueError:
        return text


@dataclass
class ModelChoices:
    """Options that change descriptors: sizes of photos, and the way to compute descriptors by models that leave it open."""

    pool: Annotated[
        Pool | None,
        typer.Option(help="For a model of transformers: pooling of its tokens. Default: that of its family."),
    ] = None
    image_size: Annotated[
        str | None,
        typer.Option(
            parser=parse_image_size,
            metavar="H[,W]",
            help="Pixels to resize photos to, in whole patches of the model. Default: as in its preprocessing.",
        ),
    ] = None
    layer: Annotated[
        str | None,
        typer.Option(
            parser=parse_layer,
            metavar="LAYER",
            help="For a model of transformers: layer whose tokens are pooled, such as 9, -2 or layer.12.expand_1x1. Default: "
            "its output.",
        ),
    ] = None
    center_crop: Annotated[
        bool, typer.Option("--center-crop", help="For a model of transformers: crop as in its preprocessing.")
    ] = False

    keep_aspect: Annotated[
        bool,
        typer.Option(
            "--keep-aspect",
            help="Keep the aspect of photos: the shorter side becomes the image size (its smaller number), in whole patches.",
        ),
    ] = False

    def model_options(self) -> dict[str, Any]:
        """Return the options that are given, as arguments of `PlaceEncoder`."""
        from d2vpr_hf.model_info.model_options import is_set

        names = ("pool", "image_size", "layer", "center_crop", "keep_aspect", "test_time", "dim")
        values = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in values.items() if is_set(value)}


@dataclass
class WholeEncoderOptions(ModelChoices):
    """Options for encoding photos as whole descriptors."""

    test_time: Annotated[
        TestTime | None,
        typer.Option(
            help="Form of queries; database photos are always resized. five-crops: mean descriptor of five square crops; "
            "nearest-crop: the nearest of the five counts. Default: resize, or the form that the index records."
        ),
    ] = None

    batch_size: Annotated[int | None, typer.Option(min=1, help="Photos in a batch of the network.")] = BATCH_SIZE
    num_workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that decode photos.")] = 2
    device: Annotated[
        str | None, typer.Option(help="Device of the network, such as cpu or cuda. Default: a GPU if there is one.")
    ] = None
    backend: Annotated[
        Backend | None, typer.Option(help="Library that runs the network. auto: the fastest for the device.")
    ] = "torch"
    precision: Annotated[
        Precision | None,
        typer.Option("--backend-precision", help="Precision of the network's products. Default: the type of its weights."),
    ] = None

    def load(
        self,
        model: str | None,
        index: PlaceIndex | None = None,
        *,
        photos: Iterable[str] | None = None,
        cross_image_encoder: bool | None = None,
    ) -> PlaceEncoder:
        """Load the encoder of a model, or else that of an index, or else the small one in this package.

        Options that are not given are taken from the index, as [`PlaceEncoder.for_index`] takes them; for its own model also
        the backend and precision of its latest rows.

        Args:
            model: The model's name; `None` for that of the index.
            index: The index that photos are encoded for.
            photos: Names of the photos, which show whether the embedded model is made for them; `None` for those of the index.
            cross_image_encoder: As for [`PlaceEncoder`].
        """
        from d2vpr_hf.encoders.embedded_notice import warn_of_embedded_model
        from d2vpr_hf.encoders.place_encoder import PlaceEncoder
        from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
        from d2vpr_hf.pretrained.unreachable_hub import confirm_if_on_hub

        hush_transformers()
        if model is None and index is not None:
            index.settings.check_has_model()
        if model is None and index is not None:
            _ask_for_download(index.settings.model_name)
        if model is None and (index is None or index.settings.model_name in (None, EMBEDDED_NAME)):
            names = (place.path for place in index.places) if photos is None and index is not None else photos
            warn_of_embedded_model(names, is_indexed=index is not None)
        arguments = self.model_options() | {
            "device": self.device,
            "num_workers": self.num_workers,
            "cross_image_encoder": cross_image_encoder,
            "backend": self.backend or "torch",
            "precision": self.precision,
        }
        if self.batch_size is not None:
            arguments["batch_size"] = self.batch_size
        confirm_if_on_hub(model)
        if index is None:
            return PlaceEncoder(model, **arguments)
        runtime = index.settings.runtime
        if model is None and runtime is not None and self.backend is None and self.precision is None:
            arguments |= {"backend": runtime.backend, "precision": runtime.precision}
        return PlaceEncoder.for_index(index, model, **arguments)

    def load_plain(self, model: str, *, cross_image_encoder: bool | None = None) -> PlaceEncoder:
        """Load a second model, with its own sizes and pooling, on the device and with the batches of these options.

        Args:
            model: The model's name.
            cross_image_encoder: `False` removes that of either model; a second model without one is accepted.
        """
        from d2vpr_hf.encoders.place_encoder import PlaceEncoder
        from d2vpr_hf.pretrained.unreachable_hub import confirm_if_on_hub

        confirm_if_on_hub(model)
        return PlaceEncoder(
            model,
            device=self.device,
            num_workers=self.num_workers,
            batch_size=self.batch_size or BATCH_SIZE,
            cross_image_encoder=False if cross_image_encoder is False else None,
            dim=self.model_options().get("dim"),
        )


@dataclass
class EncoderOptions(WholeEncoderOptions):
    """Options for encoding photos."""

    dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take the first numbers of each descriptor, divided by their length, of a model with PCA or Matryoshka head. "
            "Default: all, or as many as the index records.",
        ),
    ] = None


def _ask_for_download(name: str | None) -> None:
    """Ask at a terminal whether a model that an index names may be downloaded; elsewhere, opening it explains what to type."""
    from d2vpr_hf.pretrained.unreachable_hub import needs_confirmation
    from d2vpr_hf.utils.confirmed_names import confirm

    question = f"The index names the model {name} of the Hub. Use it, and download it if it is not in the cache?"
    if name is not None and needs_confirmation(name) and sys.stdin.isatty() and typer.confirm(question, err=True):
        confirm("models", name)


@dataclass
class IndexEncoderOptions(EncoderOptions):
    """Options for encoding photos for an index, which keeps to the options of its first run."""

    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"Photos in a batch of the network. Default: that of the index, or {BATCH_SIZE}.")
    ] = None
    backend: Annotated[
        Backend | None,
        typer.Option(
            help="Library that runs the network. auto: the fastest for the device. Default: torch; without --model, the "
            "library that encoded the latest photos of the index."
        ),
    ] = None


@dataclass
class DescriptorOptions:
    """Options for descriptors that another program made."""

    descriptors: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="Descriptors of another program instead of photos: .npy, .safetensors or .h5; see docs/encoders.md.",
        ),
    ] = None
    tensor: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --descriptors: tensor of the file. Default: the only one.")
    ] = None
    normalize: Annotated[
        bool, typer.Option("--normalize", help="With --descriptors: divide each descriptor by its length.")
    ] = False

    def refuse_model(self, model: str | None, encoding: EncoderOptions) -> None:
        """Raise ValueError if a model or its options are given with descriptors, for which no photo is encoded."""
        values = {"model": model, **encoding.model_options()}
        given = [f"--{name.replace('_', '-')}" for name, value in values.items() if value not in (None, False)]
        if self.descriptors is not None and given:
            raise ValueError(f"With `--descriptors`, no photos are encoded. Omit {', '.join(given)}.")

    def check(self, photos: object, name: str) -> None:
        """Raise ValueError unless either photos or descriptors are given."""
        if bool(photos) == (self.descriptors is not None):
            raise ValueError(f"Give either {name} or `--descriptors FILE`.")
        if self.descriptors is None and (self.tensor is not None or self.normalize):
            raise ValueError("`--tensor` and `--normalize` belong to `--descriptors FILE`.")


@dataclass
class FilterOptions:
    """Filters for the places of an index; a match passes them all."""

    near: Annotated[str | None, typer.Option(metavar="LAT,LON,METRES", help="Match places within METRES of a position.")] = None
    box: Annotated[
        str | None, typer.Option(metavar="SOUTH,WEST,NORTH,EAST", help="Match places in a box of latitudes and longitudes.")
    ] = None
    heading: Annotated[
        str | None, typer.Option(metavar="DEGREES,TOLERANCE", help="Match photos with this heading, within the tolerance.")
    ] = None
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Match photos of this time or later, such as 2024-05-01T12:30.")
    ] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Match photos of this time or earlier.")] = None

    def place_filter(self) -> PlaceFilter:
        """Parse the options."""
        from d2vpr_hf.places.filters import PlaceFilter, parse_numbers

        ranges = {
            "near": parse_numbers(self.near, "--near LAT,LON,METRES"),
            "box": parse_numbers(self.box, "--box SOUTH,WEST,NORTH,EAST"),
            "heading": parse_numbers(self.heading, "--heading DEGREES,TOLERANCE"),
        }
        return PlaceFilter(**ranges, since=self.since, until=self.until)  # type: ignore[arg-type] # PlaceFilter counts them


@dataclass
class RerankOptions:
    """Options for re-ranking."""

    rerank: Annotated[
        RerankMode | None,
        typer.Option(
            help="Order the best matches by their regions too: of answers that the calibration calls unsure, or of all "
            "(regions). Default: the order of similarity."
        ),
    ] = None
    rerank_top: Annotated[
        int | None, typer.Option(min=2, help="With --rerank: number of matches that are compared at most. Default: 20.")
    ] = None

    def reranking(self) -> Reranking | None:
        """Return the options; `None` without re-ranking."""
        from d2vpr_hf.reranking.options import reranking_of

        return reranking_of(self.rerank, self.rerank_top)

    def refuse_descriptors(self, descriptors: Path | None) -> None:
        """Raise ValueError if matches of given descriptors are to be re-ranked."""
        if descriptors is not None and self.rerank is not None:
            raise ValueError(
                "`rerank` needs the regions of a model's descriptors, and the model of `descriptors` is not known. Omit it."
            )


@dataclass
class AnswerOptions:
    """Options for the form of answers to queries."""

    answer_format: Annotated[
        AnswerFormat | None,
        typer.Option("--format", help="Format of the answers, which are printed; see docs/formats.md. Default: table."),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list: --format json.")] = False

    def chosen(self) -> AnswerFormat:
        """Return the format; `--json` is short for one of them."""
        if self.as_json and self.answer_format not in (None, "json"):
            raise ValueError(f"`--json` is `--format json`, and `--format {self.answer_format}` is another one. Give one.")
        return "json" if self.as_json else self.answer_format or "table"


def parse_pairs(texts: list[str] | None, form: str) -> dict[str, str]:
    """Return the value of each `NAME=VALUE` by its name; `form` is the option's form for the error message."""
    values: dict[str, str] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ValueError(f"Expected `{form}`, got {text!r}.")
        if name in values:
            raise ValueError(f"`{form}` is given twice for {name}: {values[name]!r} and {value!r}. Give it once.")
        values[name] = value
    return values
