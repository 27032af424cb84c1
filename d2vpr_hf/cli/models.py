"""Commands that make models from other models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from d2vpr_hf.cli.choices import ExportFormat, ExportInput, ExportPrecision, ModelKind
from d2vpr_hf.cli.options import (
    ModelChoices,
    ReadingOptions,
    StrictOption,
    WholeEncoderOptions,
    open_index,
    parse_index,
    parse_model,
    parse_pairs,
    parse_path,
)
from d2vpr_hf.cli.terminal import echo, hush_transformers, notice, progress_bar


def convert(
    source: Annotated[
        str,
        typer.Argument(
            parser=parse_model,
            metavar="SRC",
            help="Weights file (.pth, .safetensors), or folder or Hub id of a transformers model.",
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=parse_path, metavar="OUT", help="Model folder to write; with --to, the file.")],
    target: Annotated[
        ModelKind | None,
        typer.Option("--as", help="Model to make of a DINOv2; weights that a DINOv2 does not have are drawn at random."),
    ] = None,
    to: Annotated[
        Literal["published"] | None, typer.Option("--to", help="Write a model of this package for the code of its authors.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="With --as: a field of the configuration, such as recovery_size=1024. VALUE is written as in JSON or Python.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the weights that are drawn at random.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an existing model, or with --to, an existing file.")
    ] = False,
) -> None:
    """Convert published weights to a model folder, and back.

    SRC may be a file of D²-VPR or CricaVPR from their authors, or a DINOv2; its format is recognised by its tensor names. A
    MobileNetV2 from TensorFlow Lite, with the plan of its operations in the metadata, becomes a model of transformers.
    """
    from d2vpr_hf.convert import convert_mobilenet_v2, convert_to_published, convert_weights
    from d2vpr_hf.convert.mobilenet_v2 import is_mobilenet_v2

    hush_transformers()
    if to is not None:
        if target is not None or changes:
            raise ValueError("`--to published` writes a model unchanged; omit `--as` and `--set`.")
        published = convert_to_published(source, out, overwrite=overwrite)
        notice(f"Wrote {source} as {published.name}: {out}.")
        return
    if is_mobilenet_v2(source):
        if target is not None or changes:
            raise ValueError(f"{source} is a MobileNetV2, a complete model; omit `--as` and `--set`.")
        convert_mobilenet_v2(source, out, overwrite=overwrite)
        notice(f"{source} is a MobileNetV2; wrote the folder {out} of a model of transformers.")
        return
    done = convert_weights(source, out, target=target, changes=parse_changes(changes), seed=seed, overwrite=overwrite)
    untrained = done.model.config.untrained_parts
    command = f"d2vpr index PHOTOS --model {out} --out INDEX"
    if untrained:
        stage = "distill" if done.model.config.model_type == "d2vpr" else "finetune"
        command = f"train it, as docs/training.md shows: accelerate launch -m d2vpr_hf.training.{stage} ... --model {out}"
    notice(f"{source} is {done.source.name}; wrote the model folder {out}. Next: {command}")
    if untrained:
        notice(f"Until then the places that it finds are random: {', '.join(untrained)} were drawn at random.")
    if done.assumed_heads:
        notice(f"Assumed {done.assumed_heads} attention heads, of 64 channels each; if not, `--set num_attention_heads=N`.")
    if done.drawn:
        notice(f"Drew {len(done.drawn)} tensors that {source} does not have, with seed {seed}.")
    if done.dropped:
        notice(f"Skipped tensors that the model does not use: {', '.join(done.dropped)}.")


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Parse FIELD=VALUE; a value is JSON or Python's True, False or None if it can be parsed so, and text otherwise."""
    from d2vpr_hf.utils.bounded_files import parse_json

    parsed = {}
    for field, value in parse_pairs(changes, "--set FIELD=VALUE").items():
        try:
            parsed[field] = parse_json({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except ValueError:
            parsed[field] = value
    return parsed


def fit_projection(
    model: Annotated[
        str | None,
        typer.Argument(
            parser=parse_model,
            metavar="MODEL",
            help="Model folder or Hub id, without a projection; or `embedded`. With --index, the model of the index.",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Argument(
            parser=parse_path,
            metavar="PHOTOS",
            help="Photos that are not used for evaluation, or their CSV file; or give --index.",
        ),
    ] = None,
    *,
    index: Annotated[
        str | None,
        typer.Option(
            "--index", parser=parse_index, metavar="INDEX", help="Fit to the descriptors of an index; nothing is encoded."
        ),
    ] = None,
    dim: Annotated[int, typer.Option("--dim", min=1, help="Width of the projected descriptors.")],
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="MODEL2", help="Model folder to write.")],
    whiten: Annotated[bool, typer.Option("--whiten", help="Give all directions the same variance.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=2, help="Photos to draw at random, 16384 as published. Default: all photos.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of --sample.")] = 0,
    reading: ReadingOptions,
    encoding: WholeEncoderOptions,
    strict: StrictOption = False,
) -> None:
    """Add a PCA to a model, for smaller descriptors.

    The projection, also whitening, is fitted to photos and stored in the model.
    """
    from d2vpr_hf.projection import fit_index_projection
    from d2vpr_hf.projection import fit_projection as run
    from d2vpr_hf.readers import read_places

    if (photos is None) == (index is None) or (model is None and index is None):
        raise ValueError("Give either MODEL and PHOTOS, or `--index INDEX`.")
    if index is not None:
        opened = open_index(index)
        encoder = encoding.load(model, opened)
        with progress_bar("Reading", len(opened) if sample is None else min(sample, len(opened))) as progress:
            projection = fit_index_projection(
                opened, out, encoder, dim, whiten=whiten, sample=sample, seed=seed, progress=progress
            )
    else:
        table = read_places(Path(str(photos)), reading.read_options())
        with progress_bar("Encoding", len(table.places) if sample is None else min(sample, len(table.places))) as progress:
            encoder = encoding.load(model)
            projection = run(
                table, out, encoder, dim, whiten=whiten, sample=sample, seed=seed, strict=strict, progress=progress
            )
    echo(
        f"{projection.components.shape[1]} numbers become {dim}, with {100 * projection.explained:.1f} % of the variance: {out}"
    )


def export(
    model: Annotated[
        str,
        typer.Argument(
            parser=parse_model, metavar="MODEL", help="Model folder or Hub id; `embedded` for the small model included here."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="OUT", help="Folder to write; other commands take it as --model.")
    ],
    *,
    format: Annotated[ExportFormat, typer.Option("--format", help="Format of the graph.")] = "onnx",
    precision: Annotated[ExportPrecision, typer.Option(help="Precision of the products; bf16 for openvino only.")] = "fp32",
    input: Annotated[
        ExportInput | None,
        typer.Option(
            "--input",
            help="Input of the graph: normalised images of the model's size (default), or of any size, or photos of any size "
            "(the only one for transformers-js).",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="PHOTOS", help="Photos to calibrate int8 with, similar to later ones."),
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="DIR", help="With --queries: photos to measure the loss of recall on."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="DIR", help="With --database: photos to search with.")
    ] = None,
    max_difference: Annotated[
        float | None,
        typer.Option(
            help="Accept this relative difference of descriptors for nine of ten photos. Default: 0.001 (fp32), 0.1 (bf16), "
            "0.15 (int8: a tenth of the distance between different places)."
        ),
    ] = None,
    choices: ModelChoices,
) -> None:
    """Write a model as a graph for another runtime.

    The graph is checked: its descriptors must agree with those of the model. Only coreml is not, which Apple's systems run.
    """
    from d2vpr_hf.backends.export_model import ExportOptions
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.export import export as run

    hush_transformers()
    if (database is None) != (queries is None):
        raise ValueError("Give both --database and --queries, or neither.")
    options = ExportOptions(format, precision, input, max_difference)
    labelled = None if database is None or queries is None else (database, queries)
    encoder = PlaceEncoder(model, device="cpu", **choices.model_options())
    done = run(encoder, out, options, photos=photos, labelled=labelled)
    difference = done.model.info.get("relative_difference")
    if difference is None:
        verified = "not verified, because this format does not run here; compare its descriptors with the model's on a device"
    else:
        verified = f"descriptors differ from the model's by {difference:.1e} of their norm"
    notice(f"Wrote {out}: {format}, {precision}; {verified}.")
    if done.comparison is not None:
        echo(f"A: {model}, B: {out}\n{done.comparison.to_text()}")
