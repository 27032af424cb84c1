"""The command that writes the card of an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from d2vpr_hf.cli.choices import Resample
from d2vpr_hf.cli.options import parse_image_size, parse_path


def parse_channels(text: str) -> tuple[float, float, float]:
    """Read three numbers, one for each channel, `0.485,0.456,0.406`; one number counts for all."""
    try:
        numbers = [float(number) for number in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise typer.BadParameter(f"expected R,G,B, such as 0.485,0.456,0.406; got {text!r}")
    return numbers[0], numbers[-2 if len(numbers) == 3 else 0], numbers[-1]


def card_onnx(
    graph: Annotated[Path, typer.Argument(parser=parse_path, metavar="MODEL.onnx", help="ONNX file; its weights next to it.")],
    out: Annotated[
        Path,
        typer.Option("--out", parser=parse_path, metavar="FOLDER", help="Folder to write, which --model takes."),
    ],
    *,
    image_size: Annotated[
        str | None,
        typer.Option(
            parser=parse_image_size,
            metavar="H[,W]",
            help="Pixels to resize the whole photo to. Default: the size of a graph that takes one only.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(parser=parse_channels, metavar="R,G,B", help="Mean to subtract, after rescaling. Default: ImageNet's."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(parser=parse_channels, metavar="R,G,B", help="Deviation to divide by, then. Default: ImageNet's."),
    ] = None,
    resample: Annotated[Resample | None, typer.Option(help="Filter of resizing. Default: bilinear.")] = None,
    rescale: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="Factor for pixels in 0..255; 1 for none. Default: 1/255.")
    ] = None,
    input_name: Annotated[
        str | None, typer.Option("--input", metavar="NAME", help="Input of the graph, if it has several.")
    ] = None,
    output_name: Annotated[
        str | None, typer.Option("--output", metavar="NAME", help="Output with the descriptors, if it has several.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--licence", "--license", metavar="ID", help="Licence of the weights by the Hub's id, such as mit."),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Name for people. Default: that of the file.")] = None,
    arxiv: Annotated[str | None, typer.Option(metavar="ID", help="Paper on arXiv, such as 2502.17237.")] = None,
    training_data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Photos that the weights were trained on, and their terms.")
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="PHOTOS", help="Folder of photos to check the graph on. Default: drawn ones."),
    ] = None,
) -> None:
    """Check an ONNX graph on photos, and write it with a card.

    The graph is checked for its shapes, lengths of descriptors, numbers that are not finite, and dependence on the batch. The
    folder has model.onnx, its weights, encoder.json and README.md. MegaLoc's official file needs no options.
    """
    from d2vpr_hf.onnx_cards import card_onnx as run
    from d2vpr_hf.onnx_cards import describe_checks

    steps: dict[str, Any] = {"size": image_size, "mean": mean, "std": std, "resample": resample, "rescale_factor": rescale}
    card = run(
        graph,
        out,
        preprocessing={name: value for name, value in steps.items() if value is not None},
        input_name=input_name,
        output_name=output_name,
        title=title,
        license=license,
        training_data=training_data,
        arxiv=arxiv,
        photos=photos,
    )
    typer.echo(f"Wrote {out}: {card.title}.")
    for line in describe_checks(card):
        typer.echo(f"- {line}")
    typer.echo(f"Next: d2vpr index PHOTOS --model {out} --out INDEX")
