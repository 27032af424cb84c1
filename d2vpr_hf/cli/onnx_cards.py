"""The command that writes the card of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from d2vpr_hf.cli.choices import Resample
from d2vpr_hf.cli.options import parse_image_size, parse_path
from d2vpr_hf.cli.terminal import notice


def parse_channels(text: str) -> tuple[float, float, float]:
    """Read three numbers, one for each channel, `0.485,0.456,0.406`; one number counts for all."""
    try:
        numbers = [float(number) for number in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise typer.BadParameter(f"expected R,G,B, such as 0.485,0.456,0.406; got {text!r}")
    return numbers[0], numbers[-2 if len(numbers) == 3 else 0], numbers[-1]


@dataclass
class CardOptions:
    """Options of a graph's preprocessing, of facts for its card, and of the photos that it is checked on."""

    image_size: Annotated[
        str | None,
        typer.Option(
            parser=parse_image_size,
            metavar="H[,W]",
            help="Pixels to resize the whole photo to. Default: that of a known model, or of a graph that takes one size only.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(parser=parse_channels, metavar="R,G,B", help="Mean to subtract, after rescaling. Default: ImageNet's."),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(parser=parse_channels, metavar="R,G,B", help="Deviation to divide by, then. Default: ImageNet's."),
    ] = None
    resample: Annotated[
        Resample | None, typer.Option(help="Filter of resizing. Default: that of a known model, or bilinear.")
    ] = None
    license: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="ID",
            help="Licence of the weights by the Hub's id, such as mit. Default: that of a known model, or of a repository.",
        ),
    ] = None
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Name for people.")] = None
    arxiv: Annotated[str | None, typer.Option(metavar="ID", help="Paper on arXiv, such as 2502.17237.")] = None
    training_data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Photos that the weights were trained on, and their terms.")
    ] = None
    photos: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="PHOTOS", help="Folder of photos to check the graph on. Default: drawn ones."),
    ] = None

    def steps(self) -> dict[str, Any]:
        """Return the given steps of the preprocessing but the size."""
        values = {"mean": self.mean, "std": self.std, "resample": self.resample}
        return {name: value for name, value in values.items() if value is not None}

    def facts(self) -> dict[str, Any]:
        """Return the facts for the card."""
        return {"license": self.license, "title": self.title, "arxiv": self.arxiv, "training_data": self.training_data}


def card_onnx(
    graph: Annotated[Path, typer.Argument(parser=parse_path, metavar="MODEL.onnx", help="ONNX file; its weights next to it.")],
    out: Annotated[
        Path,
        typer.Option("--out", parser=parse_path, metavar="FOLDER", help="Folder to write, which --model takes."),
    ],
    *,
    card_options: CardOptions,
    rescale: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="Factor for pixels in 0..255; 1 for none. Default: 1/255.")
    ] = None,
    input_name: Annotated[
        str | None, typer.Option("--input", metavar="NAME", help="Input of the graph, if it has several.")
    ] = None,
    output_name: Annotated[
        str | None, typer.Option("--output", metavar="NAME", help="Output with the descriptors, if it has several.")
    ] = None,
) -> None:
    """Check an ONNX graph on photos, and write it with a card.

    The graph is checked for its shapes, lengths of descriptors, numbers that are not finite, and dependence on the batch. The
    folder has model.onnx, its weights, encoder.json and README.md. MegaLoc's official file needs no options.
    """
    from d2vpr_hf.onnx_cards import card_onnx as run
    from d2vpr_hf.onnx_cards import describe_checks

    values = {"size": card_options.image_size, "rescale_factor": rescale}
    given = {name: value for name, value in values.items() if value is not None}
    card = run(
        graph,
        out,
        preprocessing=card_options.steps() | given,
        input_name=input_name,
        output_name=output_name,
        photos=card_options.photos,
        **card_options.facts(),
    )
    notice(f"Wrote {out}: {card.title}.")
    for line in describe_checks(card):
        notice(f"- {line}")
    notice(f"Next: d2vpr index PHOTOS --model {out} --out INDEX")
