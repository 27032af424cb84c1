"""Commands that make models of other models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.options import EncoderOptions, OverwriteOption, StrictOption, parse_pairs, parse_path
from d2vpr_hf.cli.terminal import hush_transformers, progress_bar

if TYPE_CHECKING:
    from d2vpr_hf.convert.convert import Conversion


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Weights file (.pth, .safetensors), or folder or Hub id of a transformers model."),
    ],
    out: Annotated[Path, typer.Argument(parser=parse_path, metavar="OUT", help="Model folder to write; with --to, the file.")],
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
    from d2vpr_hf.convert import convert_weights

    hush_transformers()
    if to is not None:
        _check_publishing(to, target, changes)
        _publish(source, out, overwrite)
        return
    done = convert_weights(source, out, target=target, changes=_parse_changes(changes), seed=seed, overwrite=overwrite)
    typer.echo(
        f"{source} is {done.source.name}; wrote the model folder {out}. Next: d2vpr index PHOTOS --model {out} --out INDEX"
    )
    _describe(done, seed)


def _describe(done: Conversion, seed: int) -> None:
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


def _publish(source: str, out: Path, overwrite: bool) -> None:
    from d2vpr_hf.convert import convert_to_published

    row = convert_to_published(source, out, overwrite=overwrite)
    typer.echo(f"Wrote {source} as {row.name}: {out}.")


def _parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Read FIELD=VALUE; a value is JSON or one of Python's words where it can be read so, and text otherwise."""
    parsed = {}
    for field, value in parse_pairs(changes, "--set FIELD=VALUE"):
        try:
            parsed[field] = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except ValueError:
            parsed[field] = value
    return parsed


def fit_projection(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub id, without a projection.")],
    photos: Annotated[
        Path,
        typer.Argument(parser=parse_path, metavar="PHOTOS", help="Photos that the model is not evaluated on, or their CSV."),
    ],
    dim: Annotated[int, typer.Option("--dim", min=1, help="Width of the projected descriptors.")],
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="MODEL2", help="Model folder to write.")],
    *,
    whiten: Annotated[bool, typer.Option("--whiten", help="Give all directions the same variance.")] = False,
    encoding: EncoderOptions,
    strict: StrictOption = False,
) -> None:
    """Make a model of smaller descriptors: PCA or whitening, fitted to photos and stored in the model."""
    from d2vpr_hf.projection import fit_projection as run
    from d2vpr_hf.readers import read_places

    table = read_places(photos)
    with progress_bar("Encoding", len(table.places)) as progress:
        encoder = encoding.load(model)
        found = run(table, out, encoder, dim, whiten=whiten, strict=strict, progress=progress)
    typer.echo(f"{found.components.shape[1]} numbers become {dim}, with {100 * found.explained:.1f} % of the variance: {out}")


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub id; `embedded` for the small one here.")],
    out: Annotated[Path, typer.Argument(parser=parse_path, metavar="OUT", help="Folder to write, a model for --model.")],
    *,
    target: Annotated[str, typer.Option("--format", metavar="onnx|openvino", help="What runs it.")] = "onnx",
    precision: Annotated[str, typer.Option(metavar="fp32|bf16|int8", help="bf16: openvino only.")] = "fp32",
    takes: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="fixed|any-size|photos",
            help="What it takes: normalised images of the model's size, or of any, or photos as they are.",
        ),
    ] = "fixed",
    photos: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="PHOTOS", help="Photos like those to come, to calibrate int8 on.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="DIR", help="With --queries: say what it costs in recall.")
    ] = None,
    queries: Annotated[Path | None, typer.Option(parser=parse_path, metavar="DIR", help="Photos to find, for that.")] = None,
    max_difference: Annotated[
        float | None,
        typer.Option(
            help="Accept this relative difference of descriptors for nine of ten photos. Default: 0.001 (fp32), 0.1 (bf16), "
            "0.15 (int8: a tenth of the distance between different places)."
        ),
    ] = None,
) -> None:
    """Write a model as a graph for ONNX runtimes or OpenVINO, and check it against the model."""
    from d2vpr_hf.backends.export_model import ExportOptions
    from d2vpr_hf.export import export as run

    hush_transformers()
    if (database is None) != (queries is None):
        raise ValueError("Give both --database and --queries, or neither.")
    options = ExportOptions(target, precision, takes, max_difference)  # type: ignore[arg-type] # it checks them
    labelled = None if database is None or queries is None else (database, queries)
    done = run(None if model == "embedded" else model, out, options, photos=photos, labelled=labelled)
    difference = done.model.info["relative_difference"]
    typer.echo(f"Wrote {out}: {target}, {precision}; descriptors differ from the model's by {difference:.1e} of their norm.")
    if done.comparison is not None:
        typer.echo(f"A: {model}, B: {out}\n{done.comparison.to_text()}")
