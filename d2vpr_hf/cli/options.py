"""Arguments and options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.terminal import hush_transformers

if TYPE_CHECKING:
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.places.filters import PlaceFilter

BATCH_SIZE = 16


def parse_path(text: str) -> Path:
    """Read a path; an empty one, as of an unset shell variable, would mean the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty")
    return Path(text)


IndexArgument = Annotated[Path, typer.Argument(parser=parse_path, metavar="INDEX", help="Index folder.")]
QueriesArgument = Annotated[
    list[Path], typer.Argument(parser=parse_path, metavar="QUERY...", help="Photos, or folders of photos.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model folder or Hub id. Default: what the index was built with; for a new one, the small model here."
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Make a photo that cannot be used an error.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Write although there is something already: an index is replaced whole, a model's files are replaced.",
    ),
]


@dataclass
class EncoderOptions:
    """How photos are encoded."""

    batch_size: Annotated[int | None, typer.Option(min=1, help="Photos the network sees at once.")] = BATCH_SIZE
    num_workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that decode photos.")] = 2
    device: Annotated[str | None, typer.Option(help="Where the network runs, such as cpu or cuda. Default: a GPU if any.")] = (
        None
    )

    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What runs the network: torch, torch-compiled, onnxruntime, openvino, or auto."),
    ] = "torch"
    precision: Annotated[
        str | None,
        typer.Option(
            "--backend-precision",
            metavar="fp32|bf16|fp16|int8",
            help="Of the network's products. Default: the type of its weights.",
        ),
    ] = None

    def load(
        self, model: str | None, index: PlaceIndex | None = None, *, cross_image_encoder: bool | None = None
    ) -> PlaceEncoder:
        """Load an encoder: of a model, or else the one an index was built with, or else the small one in this package."""
        from d2vpr_hf.encoders.place_encoder import PlaceEncoder

        hush_transformers()
        settings = None if index is None else index.settings
        model_name = settings.model_name if settings is not None and model is None else model
        batch_size = self.batch_size or (settings.batch_size if settings is not None else None) or BATCH_SIZE
        options: dict[str, Any] = {"num_workers": self.num_workers, "cross_image_encoder": cross_image_encoder}
        options |= self._runtime(index if model is None else None)
        return PlaceEncoder(model_name, device=self.device, batch_size=batch_size, **options)

    def _runtime(self, index: PlaceIndex | None) -> dict[str, str | None]:
        """Give backend and precision: what was asked for, or else what made the latest rows of an index."""
        latest = None if index is None else index.settings.runtime
        if latest is None or self.backend or self.precision:
            return {"backend": self.backend or "torch", "precision": self.precision}
        return asdict(latest)


@dataclass
class IndexEncoderOptions(EncoderOptions):
    """How photos are encoded for an index, which goes on as it began."""

    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"Photos the network sees at once. Default: as the index has it, or {BATCH_SIZE}.")
    ] = None
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What runs the network: torch, torch-compiled, onnxruntime, openvino, or auto. Default: what made the index's "
            "latest rows, if `--model` is not given either; else torch.",
        ),
    ] = None


@dataclass
class FilterOptions:
    """Which places come into question."""

    near: Annotated[
        str | None, typer.Option(metavar="LAT,LON,METRES", help="Search places within so many metres of a position.")
    ] = None
    box: Annotated[
        str | None, typer.Option(metavar="SOUTH,WEST,NORTH,EAST", help="Search places in a box of latitudes and longitudes.")
    ] = None
    heading: Annotated[
        str | None, typer.Option(metavar="DEGREES,TOLERANCE", help="Search photos that look this way, give or take.")
    ] = None
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Search photos of this time or later: 2024-05-01T12:30.")
    ] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Search photos of this time or earlier.")] = None

    def place_filter(self) -> PlaceFilter:
        """Read the options."""
        from d2vpr_hf.places.filters import PlaceFilter, parse_numbers

        ranges = {
            "near": parse_numbers(self.near, "--near LAT,LON,METRES"),
            "box": parse_numbers(self.box, "--box SOUTH,WEST,NORTH,EAST"),
            "heading": parse_numbers(self.heading, "--heading DEGREES,TOLERANCE"),
        }
        return PlaceFilter(**ranges, since=self.since, until=self.until)  # type: ignore[arg-type]


def parse_pairs(texts: list[str] | None, form: str) -> Iterator[tuple[str, str]]:
    """Split what options like `--set FIELD=VALUE` were given."""
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ValueError(f"Expected `{form}`, got {text!r}.")
        yield name, value
