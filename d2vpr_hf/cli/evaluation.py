"""Commands that count how often searches are right."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.options import EncoderOptions, ModelOption, StrictOption, parse_path
from d2vpr_hf.cli.terminal import progress_bar, table_text

if TYPE_CHECKING:
    from d2vpr_hf.evaluation import Evaluation, PositiveRule
    from d2vpr_hf.readers import PlaceTable


@dataclass
class RuleOptions:
    """Which matches are right."""

    positive_dist_threshold: Annotated[
        float | None, typer.Option(help="Metres within which a match is right. Default: 25, unless frames decide.")
    ] = None
    heading_tolerance: Annotated[
        float | None, typer.Option(help="Degrees that headings may differ by as well. Default: headings do not matter.")
    ] = None
    frame_tolerance: Annotated[
        int | None, typer.Option(help="Frames within which a match is right, instead of metres, for two aligned sequences.")
    ] = None

    def rule(self) -> PositiveRule:
        """Read the options."""
        from d2vpr_hf.evaluation import PositiveRule
        from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD

        threshold = self.positive_dist_threshold
        if threshold is not None and self.frame_tolerance is not None:
            raise ValueError("Give either --positive-dist-threshold or --frame-tolerance: metres decide, or frames do.")
        threshold = POSITIVE_DIST_THRESHOLD if threshold is None else threshold
        return PositiveRule(threshold, self.heading_tolerance, self.frame_tolerance)


@dataclass
class ReportOptions:
    """Where the outcome is written."""

    report: Annotated[Path | None, typer.Option("--json", parser=parse_path, metavar="OUT", help="Write the report here.")] = (
        None
    )
    plots: Annotated[Path | None, typer.Option(parser=parse_path, metavar="DIR", help="Draw map, curve and matches here.")] = (
        None
    )

    def check(self, photos: list[Path], overwrite: bool) -> None:
        """Refuse what could not be written, or must not be, before the work."""
        if self.report is not None:
            from d2vpr_hf.evaluation.report import check_report_file

            check_report_file(self.report, overwrite)
        if self.plots is not None:
            from d2vpr_hf.evaluation.plots import check_plot_folder

            check_plot_folder(self.plots, photos)

    def save(self, found: Evaluation, overwrite: bool) -> None:
        """Write what was asked for, and say where."""
        if self.report is not None:
            found.save(self.report, overwrite)
            typer.echo(f"Report: {self.report}")
        if self.plots is not None:
            from d2vpr_hf.evaluation.plots import save_plots

            typer.echo(f"Pictures: {', '.join(map(str, save_plots(found, self.plots)))}")


def evaluate(
    *,
    database: Annotated[
        Path, typer.Option("--database", parser=parse_path, metavar="DIR", help="Photos to search, or their CSV.")
    ],
    queries: Annotated[Path, typer.Option("--queries", parser=parse_path, metavar="DIR", help="Photos to find, or their CSV.")],
    model: ModelOption = None,
    positives: RuleOptions,
    recall_values: Annotated[
        list[str] | None,
        typer.Option("--recall-values", metavar="N,N,...", help="The N of recall@N; may be repeated. Default: 1,5,10,20."),
    ] = None,
    cross_image_encoder: Annotated[
        bool | None,
        typer.Option(
            "--cross-image-encoder/--no-cross-image-encoder",
            help="Whether the model's cross-image encoder takes part. Default: if the model has one.",
        ),
    ] = None,
    shuffle_check: Annotated[
        bool, typer.Option("--shuffle-check", help="Evaluate once more with the photos in a random order.")
    ] = False,
    outcome: ReportOptions,
    save_descriptors: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="DIR", help="Write both sides here as indexes.")
    ] = None,
    encoding: EncoderOptions,
    strict: StrictOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report and indexes of another run.")] = False,
) -> None:
    """Search one folder with another and count how often a right place is found: recall@N and more."""
    from d2vpr_hf.evaluation import evaluate as run

    rule, values = positives.rule(), _parse_recall_values(recall_values)
    outcome.check([database, queries], overwrite)
    known, asked = _read_tables(database, queries)
    typer.echo(f"Right: {rule}. Recall@N of N = {', '.join(map(str, values))}. Batch size {encoding.batch_size}.")
    options: dict[str, Any] = {"save_descriptors": save_descriptors, "strict": strict, "overwrite": overwrite}
    options |= {"recall_values": values, "shuffle_check": shuffle_check}
    start = time.perf_counter()
    with progress_bar("Encoding", (len(known.places) + len(asked.places)) * (1 + shuffle_check)) as progress:
        encoder = encoding.load(model, cross_image_encoder=cross_image_encoder)
        found = run(known, asked, encoder, rule, progress=progress, **options)
    typer.echo(f"{found.to_text()}\ntook {time.perf_counter() - start:.1f} s")
    outcome.save(found, overwrite)


def _parse_recall_values(texts: list[str] | None) -> tuple[int, ...]:
    from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values

    if not texts:
        return RECALL_VALUES
    try:
        return check_recall_values([int(value) for text in texts for value in text.split(",")])
    except ValueError as error:
        raise ValueError(f"Expected `--recall-values 1,5,10`, whole numbers from 1, got {','.join(texts)!r}.") from error


def _read_tables(database: Path, queries: Path) -> tuple[PlaceTable, PlaceTable]:
    from d2vpr_hf.readers import read_places

    tables = read_places(database), read_places(queries)
    for name, table in zip(("Database", "Queries"), tables, strict=True):
        typer.echo(f"{name}: {table_text(table)}")
    return tables


def compare(
    first: Annotated[Path, typer.Argument(parser=parse_path, metavar="A.json", help="Report to compare with.")],
    second: Annotated[Path, typer.Argument(parser=parse_path, metavar="B.json", help="Report in question.")],
) -> None:
    """Compare two reports of the same queries: differences of recall@N, and whether they could be luck."""
    from d2vpr_hf.evaluation import Evaluation, compare_evaluations

    reports = Evaluation.load(first), Evaluation.load(second)
    for letter, path, report in zip("AB", (first, second), reports, strict=True):
        typer.echo(f"{letter}: {path}, {report.model}")
    typer.echo(compare_evaluations(*reports).to_text())
