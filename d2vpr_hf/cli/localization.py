"""Commands that estimate where photos were taken, with a confidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    RerankOptions,
    StrictOption,
    check_changeable,
    open_index,
    parse_path,
)
from d2vpr_hf.cli.terminal import check_answers, echo, notice, position_column, print_answers, print_pair, progress_bar
from d2vpr_hf.utils.printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from d2vpr_hf.localization import Localization
    from d2vpr_hf.sequences import SequenceSettings
    from d2vpr_hf.sequences.frame_order import FrameOrder


@dataclass
class SequenceOptions:
    """Options for localizing photos as the frames of a sequence."""

    sequence: Annotated[
        bool, typer.Option("--sequence", help="The queries are frames of a drive or walk, which are localized together.")
    ] = False
    sequence_folder: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="DIR",
            help="Folder of such frames, or their CSV file: by time, else by name. No queries.",
        ),
    ] = None
    online: Annotated[
        bool, typer.Option("--online", help="For a sequence: use the frames up to each one only, as a robot does.")
    ] = False
    max_speed: Annotated[
        float | None, typer.Option(metavar="M/S", help="For a sequence: largest speed in metres a second. Default: 20.")
    ] = None
    frame_interval: Annotated[
        float | None, typer.Option(metavar="S", help="For a sequence: seconds between frames without times. Default: 1.")
    ] = None
    odometry: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="CSV",
            help="For a sequence: path, metres from the line before, and turn (degrees, clockwise) of each frame.",
        ),
    ] = None
    camera_direction: Annotated[
        float | None,
        typer.Option(
            metavar="DEGREES",
            help="For a sequence: direction of the camera, clockwise from that of travel; 0 looks forward. Default: not known.",
        ),
    ] = None
    outside_share: Annotated[
        float | None, typer.Option(help="For a sequence: share of frames expected outside the map. Default: 0.3.")
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether the queries are a sequence."""
        return self.sequence or self.sequence_folder is not None

    def check(self, queries: list[Path] | None) -> None:
        """Raise ValueError for options that do not belong together."""
        names = ("online", "max_speed", "frame_interval", "odometry", "camera_direction", "outside_share")
        values = [name for name in names if (value := getattr(self, name)) is not None and value is not False]  # 0 is given
        if values and not self.is_given:
            raise ValueError(f"`{values[0]}` belongs to a sequence. Give `sequence=True` or `sequence_folder=...` too.")
        if self.sequence_folder is not None and queries:
            raise ValueError("Give either queries or `sequence_folder=...`, which names all of them.")

    def settings(self) -> SequenceSettings:
        """Make the settings of the options that are given."""
        from d2vpr_hf.sequences import Motion, SequenceSettings

        def given(*names: str) -> dict[str, Any]:
            return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

        motion = Motion(**given("max_speed", "camera_direction"))
        return SequenceSettings(motion, **given("frame_interval", "outside_share"))

    def frames(self, queries: list[Path], *, strict: bool) -> FrameOrder:
        """Read the frames, and print their order on stderr."""
        from d2vpr_hf.sequences.frame_order import list_frames, read_frames
        from d2vpr_hf.sequences.frame_table import read_odometry

        odometry = None if self.odometry is None else read_odometry(self.odometry)
        if self.sequence_folder is None:
            order = list_frames(queries, odometry)
        else:
            order = read_frames(self.sequence_folder, odometry, strict=strict)
        notice(f"{len(order.frames)} frames, in the {order.order}.", err=True)
        return order


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
    reranking: RerankOptions,
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
    options = reranking.reranking()
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
            opened,
            table,
            encoder,
            positive_dist_threshold=positive_dist_threshold,
            strict=strict,
            progress=progress,
            reranking=options,
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
        notice(f"Pictures: {', '.join(pictures)}")


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
    frames: SequenceOptions,
    where: FilterOptions,
    reranking: RerankOptions,
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
    frames.check(queries)
    given.check(queries or frames.sequence_folder, "QUERY")
    given.refuse_model(model, encoding)
    reranking.refuse_descriptors(given.descriptors)
    options = reranking.reranking()
    if frames.is_given and options is not None:
        raise ValueError("A sequence weighs all matches by their similarity. Omit `rerank`.")
    opened = open_index(index)
    allowed = where.place_filter().allowed(opened.places)
    if given.descriptors is not None and frames.is_given:
        raise ValueError("A sequence needs photos. Omit `descriptors`, or call `SequenceLocalizer.add` with each descriptor.")
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
    group_size = encoder.batch_size if answer_format == "jsonl" else None
    if frames.is_given:
        from d2vpr_hf.sequences.sequence_photos import localize_sequence

        pending_answers: Iterable[Localization] = localize_sequence(
            opened,
            frames.frames(queries, strict=strict).frames,
            encoder,
            calibration,
            frames.settings(),
            online=frames.online,
            precision=min_precision,
            allowed=allowed,
            strict=strict,
            group_size=group_size,
        )
    else:
        pending_answers = iterate_localize(
            opened,
            queries,
            encoder,
            calibration,
            precision=min_precision,
            allowed=allowed,
            strict=strict,
            group_size=group_size,
            reranking=options,
        )
    check_answers(queries, print_answers(pending_answers, answer_format, _lines))


def _lines(answers: list[Localization]) -> str:
    return "\n".join(map(_line, answers))


def _line(answer: Localization) -> str:
    query = printable_line(str(answer.query))
    if answer.error is not None:
        return f"{query}: {printable_line(answer.error)}"
    confidence = "" if answer.confidence is None else f"  confidence {answer.confidence:.3f}"
    confidence += "  changed by the sequence" if getattr(answer, "changed", None) else ""
    confidence += "  re-ranked" if answer.reranked else ""
    if answer.place is None:
        return f"{query}  {'no match' if answer.no_match else answer.note}{confidence}"
    radius = f"  ({answer.note})" if answer.radius_90 is None else f"  within {answer.radius_90:.1f} m (90 %)"
    return f"{query}{position_column(answer.place)}{radius}{confidence}"
