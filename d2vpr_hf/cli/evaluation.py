"""Commands that evaluate searches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2vpr_hf.cli.options import DescriptorOptions, EncoderOptions, NewModelOption, ReadingOptions, StrictOption, parse_path
from d2vpr_hf.cli.terminal import progress_bar, table_text

if TYPE_CHECKING:
    from d2vpr_hf.evaluation import Evaluation, PositiveRule


@dataclass
class RuleOptions:
    """Options that define a correct match."""

    positive_dist_threshold: Annotated[
        float | None, typer.Option(help="Distance in metres up to which a match is correct. Default: 25, unless frames decide.")
    ] = None
    heading_tolerance: Annotated[
        float | None,
        typer.Option(help="Difference in degrees up to which a heading is correct. Default: headings do not matter."),
    ] = None
    frame_tolerance: Annotated[
        int | None,
        typer.Option(help="Number of frames up to which a match is correct, instead of metres, for two aligned sequences."),
    ] = None

    def rule(self) -> PositiveRule:
        """Make the rule of the options."""
        from d2vpr_hf.evaluation import PositiveRule
        from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD

        threshold = self.positive_dist_threshold
        if threshold is not None and self.frame_tolerance is not None:
            raise ValueError("Give either --positive-dist-threshold or --frame-tolerance: metres decide, or frames do.")
        threshold = POSITIVE_DIST_THRESHOLD if threshold is None else threshold
        return PositiveRule(threshold, self.heading_tolerance, self.frame_tolerance)


@dataclass
class ReportOptions:
    """Options for a report and its pictures."""

    report: Annotated[
        Path | None, typer.Option("--json", parser=parse_path, metavar="OUT", help="JSON file for the report.")
    ] = None
    plots: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="DIR", help="Folder for pictures: map, curve and matches.")
    ] = None

    def check(self, photos: list[Path], overwrite: bool) -> None:
        """Refuse, before the work, outputs that cannot or must not be written."""
        if self.report is not None:
            from d2vpr_hf.evaluation.report import check_report_file

            check_report_file(self.report, overwrite)
        if self.plots is not None:
            from d2vpr_hf.evaluation.plots import check_plot_folder

            check_plot_folder(self.plots, photos)

    def save(self, evaluation: Evaluation, overwrite: bool) -> None:
        """Write report and pictures, and print their paths."""
        if self.report is not None:
            evaluation.save(self.report, overwrite)
            typer.echo(f"Report: {self.report}")
        if self.plots is not None:
            from d2vpr_hf.evaluation.plots import save_plots

            typer.echo(f"Pictures: {', '.join(map(str, save_plots(evaluation, self.plots)))}")


def evaluate(
    *,
    database: Annotated[
        Path, typer.Option("--database", parser=parse_path, metavar="DIR", help="Photos to search, or their CSV file.")
    ],
    queries: Annotated[
        Path, typer.Option("--queries", parser=parse_path, metavar="DIR", help="Photos to search with, or their CSV file.")
    ],
    reading: ReadingOptions,
    given: DescriptorOptions,
    query_descriptors: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FILE", help="With --descriptors, those of the database: those of the queries."
        ),
    ] = None,
    model: NewModelOption = None,
    positives: RuleOptions,
    recall_values: Annotated[
        list[str] | None,
        typer.Option(
            "--recall-values", metavar="N,N,...", help="Values of N for recall@N; may be repeated. Default: 1,5,10,20."
        ),
    ] = None,
    cross_image_encoder: Annotated[
        bool | None,
        typer.Option(
            "--cross-image-encoder/--no-cross-image-encoder",
            help="Use the model's cross-image encoder or not. Default: use it if the model has one.",
        ),
    ] = None,
    shuffle_check: Annotated[
        bool, typer.Option("--shuffle-check", help="Evaluate once more with the photos in a random order.")
    ] = False,
    outcome: ReportOptions,
    save_descriptors: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="DIR", help="Folder for two indexes: of the database and of the queries."),
    ] = None,
    encoding: EncoderOptions,
    drop_shared: Annotated[
        bool, typer.Option("--drop-shared", help="Skip queries whose file is equal to one of the database.")
    ] = False,
    strict: StrictOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report and indexes of another run.")] = False,
) -> None:
    """Measure how often searches are correct (recall@N).

    A query counts for recall@N if at least one of its first N matches is correct.
    """
    from d2vpr_hf.evaluation import evaluate as run
    from d2vpr_hf.readers.registry import read_all_places

    rule = positives.rule()
    values = _parse_recall_values(recall_values)
    outcome.check([database, queries], overwrite)
    if (given.descriptors is None) != (query_descriptors is None):
        raise ValueError("Give both --descriptors, of the database, and --query-descriptors, or neither.")
    database_table, query_table = read_all_places([database, queries], reading.read_options())
    typer.echo(f"Database: {table_text(database_table)}\nQueries: {table_text(query_table)}")
    start = time.perf_counter()
    if given.descriptors is not None and query_descriptors is not None:
        from d2vpr_hf.evaluation import evaluate_descriptor_files

        _refuse_encoding({"--model": model, "--cross-image-encoder": cross_image_encoder, "--shuffle-check": shuffle_check})
        _refuse_encoding({"--save-descriptors": save_descriptors, "--drop-shared": drop_shared})
        typer.echo(f"Correct: {rule}. Recall@N of N = {', '.join(map(str, values))}.")
        evaluation = evaluate_descriptor_files(
            (given.descriptors, database_table),
            (query_descriptors, query_table),
            rule,
            recall_values=values,
            tensor=given.tensor,
            normalize=given.normalize,
            strict=strict,
        )
        typer.echo(f"{evaluation.to_text()}\ntook {time.perf_counter() - start:.1f} s")
        outcome.save(evaluation, overwrite)
        return
    typer.echo(f"Correct: {rule}. Recall@N of N = {', '.join(map(str, values))}. Batch size {encoding.batch_size}.")
    num_photos = len(database_table.places) + len(query_table.places)
    with progress_bar("Encoding", num_photos * (1 + shuffle_check)) as progress:
        evaluation = run(
            database_table,
            query_table,
            encoding.load(model, photos=database_table.paths, cross_image_encoder=cross_image_encoder),
            rule,
            recall_values=values,
            shuffle_check=shuffle_check,
            save_descriptors=save_descriptors,
            drop_shared=drop_shared,
            strict=strict,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"{evaluation.to_text()}\ntook {time.perf_counter() - start:.1f} s")
    outcome.save(evaluation, overwrite)


def _refuse_encoding(options: dict[str, object]) -> None:
    """Raise ValueError for options that need photos."""
    from d2vpr_hf.model_info.model_options import is_set

    given = [flag for flag, value in options.items() if is_set(value)]
    if given:
        raise ValueError(f"`--descriptors` evaluates descriptors, and no photo is encoded. Omit {', '.join(given)}.")


def _parse_recall_values(texts: list[str] | None) -> tuple[int, ...]:
    from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values

    if not texts:
        return RECALL_VALUES
    try:
        return check_recall_values([int(value) for text in texts for value in text.split(",")])
    except ValueError as error:
        raise ValueError(f"Expected `--recall-values 1,5,10`, whole numbers from 1, got {','.join(texts)!r}.") from error


def compare(
    first: Annotated[Path, typer.Argument(parser=parse_path, metavar="A.json", help="Report to compare with.")],
    second: Annotated[Path, typer.Argument(parser=parse_path, metavar="B.json", help="Report to compare.")],
) -> None:
    """Compare two reports of the same queries.

    The differences of recall@N are tested: could they be due to chance?
    """
    from d2vpr_hf.evaluation import Evaluation, compare_evaluations

    reports = Evaluation.load(first), Evaluation.load(second)
    for letter, path, report in zip("AB", (first, second), reports, strict=True):
        typer.echo(f"{letter}: {path}, {report.model}")
    typer.echo(compare_evaluations(*reports).to_text())
