"""Commands that estimate where photos were taken, with a confidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2vpr_hf.cli.options import (
    AnswerOptions,
    DescriptorOptions,
    EncoderOptions,
    FilterOptions,
    IndexArgument,
    IndexFolderArgument,
    JsonOption,
    ModelOption,
    QueriesArgument,
    ReadingOptions,
    StrictOption,
    check_changeable,
    open_index,
    parse_path,
)
from d2vpr_hf.cli.terminal import check_answers, echo, position_column, print_answers, print_pair, progress_bar
from d2vpr_hf.utils.printable import printable_line

if TYPE_CHECKING:
    from d2vpr_hf.localization import Localization


def calibrate(
    index: IndexFolderArgument,
    *,
    queries: Annotated[
        Path,
        typer.Option(
            "--queries",
            parser=parse_path,
            metavar="DIR",
            help="Photos with positions that are not in the index, or their CSV file.",
        ),
    ],
    positive_dist_threshold: Annotated[
        float, typer.Option(help="Distance in metres up to which a position is correct.")
    ] = 25.0,
    plots: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="DIR", help="Folder for plots of reliability and of precision over coverage."),
    ] = None,
    reading: ReadingOptions,
    model: ModelOption = None,
    encoding: EncoderOptions,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit confidences and radii to photos with known positions.

    Some of the photos should be from outside the map. The index stores the calibration.
    """
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.localization import calibrate as run
    from d2vpr_hf.readers import read_places

    check_changeable(index)
    opened = PlaceIndex.open(index)
    table = read_places(queries, reading.read_options())
    if plots is not None:
        from d2vpr_hf.evaluation.plots import check_plot_folder
        from d2vpr_hf.localization.plots import FILES

        check_plot_folder(plots, [queries, opened.folder], FILES)
    with opened, progress_bar("Encoding", len(table.places)) as progress:
        encoder = encoding.load(model, opened)
        print_pair(opened, encoder)
        calibration, reliability = run(
            opened, table, encoder, positive_dist_threshold=positive_dist_threshold, strict=strict, progress=progress
        )
        opened.store_calibration(calibration.to_dict())
    pictures = []
    if plots is not None:
        from d2vpr_hf.localization.plots import save_plots

        pictures = [str(path) for path in save_plots(reliability, plots)]
    if as_json:
        facts = {"index": str(index), "queries": str(queries), "pictures": pictures}
        echo(json.dumps(facts | reliability.to_dict(), indent=2))
        return
    echo(f"Calibrated {index}. Each half of the queries was judged with the fit to the other half:")
    echo(reliability.to_text())
    if pictures:
        echo(f"Pictures: {', '.join(pictures)}")


def localize(
    index: IndexArgument,
    queries: QueriesArgument = None,
    *,
    given: DescriptorOptions,
    min_precision: Annotated[
        float,
        typer.Option(
            "--precision", min=0.0, max=1.0, help="Smallest share of correct answers; unsure ones are reported as no match."
        ),
    ] = 0.95,
    where: FilterOptions,
    answers: AnswerOptions,
    model: ModelOption = None,
    encoding: EncoderOptions,
    strict: StrictOption = False,
) -> None:
    """Estimate where photos were taken, or report no match.

    An estimate has a position, a radius and a confidence. Calibrate the index first.
    """
    from d2vpr_hf.localization import iterate_localize, load_calibration, localize_descriptors

    answer_format = answers.chosen()
    given.check(queries, "QUERY")
    given.refuse_model(model, encoding)
    opened = open_index(index)
    allowed = where.place_filter().allowed(opened.places)
    if given.descriptors is not None:
        calibration = load_calibration(opened)
        localized = localize_descriptors(
            opened,
            given.descriptors,
            calibration,
            precision=min_precision,
            allowed=allowed,
            tensor=given.tensor,
            normalize=given.normalize,
        )
        print_answers(localized, answer_format, _lines)
        return
    queries = queries or []
    encoder = encoding.load(model, opened)
    print_pair(opened, encoder)
    calibration = load_calibration(opened, encoder)
    pending_answers = iterate_localize(
        opened,
        queries,
        encoder,
        calibration,
        precision=min_precision,
        allowed=allowed,
        strict=strict,
        group_size=encoder.batch_size if answer_format == "jsonl" else None,
    )
    check_answers(queries, print_answers(pending_answers, answer_format, _lines))


def _lines(answers: list[Localization]) -> str:
    return "\n".join(map(_line, answers))


def _line(answer: Localization) -> str:
    query = printable_line(str(answer.query))
    if answer.error is not None:
        return f"{query}: {printable_line(answer.error)}"
    confidence = "" if answer.confidence is None else f"  confidence {answer.confidence:.3f}"
    if answer.place is None:
        return f"{query}  {'no match' if answer.no_match else answer.note}{confidence}"
    radius = f"  ({answer.note})" if answer.radius_90 is None else f"  within {answer.radius_90:.1f} m (90 %)"
    return f"{query}{position_column(answer.place)}{radius}{confidence}"
