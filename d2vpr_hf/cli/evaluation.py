"""Commands that evaluate searches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2vpr_hf.cli.choices import SequencePositives, SequenceScores
from d2vpr_hf.cli.options import (
    DescriptorOptions,
    EncoderOptions,
    NewModelOption,
    ReadingOptions,
    RerankOptions,
    StrictOption,
    parse_model,
    parse_path,
)
from d2vpr_hf.cli.terminal import echo, notice, progress_bar, table_text

if TYPE_CHECKING:
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.evaluation import Evaluation, PositiveRule
    from d2vpr_hf.evaluation.sequence_rule import SequenceRule
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.readers import PlaceTable
    from d2vpr_hf.readers.data_sets import DataSet, QuerySet


@dataclass
class PhotoSetOptions:
    """Options for the photos of an evaluation."""

    data: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="ROOT",
            help="Folder of a public data set, whose layout is recognised: all its query sets.",
        ),
    ] = None
    layout: Annotated[str | None, typer.Option(metavar="NAME", help="With --data: layout of the folder, if several fit.")] = (
        None
    )
    database: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="DIR",
            help="Photos to search, their CSV file, or an index of them, which is not encoded.",
        ),
    ] = None
    queries: Annotated[
        list[Path] | None,
        typer.Option(
            parser=parse_path,
            metavar="DIR",
            help="Photos to search with, or their CSV file; may be repeated: the database is encoded once for all query sets.",
        ),
    ] = None
    database_list: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FILE", help="List of the database photos, one path a line: .txt, .csv or .npy."
        ),
    ] = None
    query_list: Annotated[
        list[Path] | None,
        typer.Option(parser=parse_path, metavar="FILE", help="The same of the queries; one for each --queries."),
    ] = None
    positives: Annotated[
        list[Path] | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="Correct database photos of each query, instead of a rule: .npy, .npz, .csv or .json; one for each --queries.",
        ),
    ] = None

    def check(self) -> None:
        """Raise ValueError for options that do not belong together."""
        if self.data is not None:
            values = {name: getattr(self, name) for name in ("database", "queries", "database_list", "query_list", "positives")}
            given = [f"`{name}`" for name, value in values.items() if value]
            if given:
                raise ValueError(f"`data` has a data set's own photos and positives. Omit {', '.join(given)}.")
        elif self.layout is not None:
            raise ValueError("`layout` belongs to `data`.")
        elif self.database is None or not self.queries:
            raise ValueError("Give a data set with `data`, or photos with `database` and `queries`.")
        for name in ("query_list", "positives"):
            files = getattr(self, name)
            if files and len(files) != len(self.queries or ()):
                raise ValueError(
                    f"Give `{name}` once for each `queries`: {len(files)} and {len(self.queries or ())} are given."
                )

    @property
    def folders(self) -> list[Path]:
        """The folders of photos."""
        return [path for path in (self.data, self.database, *(self.queries or ())) if path is not None]


@dataclass
class RuleOptions:
    """Options that define a correct match."""

    positive_dist_threshold: Annotated[
        float | None,
        typer.Option(help="Distance in metres up to which a match is correct. Default: that of the data set, or 25."),
    ] = None
    heading_tolerance: Annotated[
        float | None,
        typer.Option(help="Difference in degrees up to which a heading is correct. Default: headings do not matter."),
    ] = None
    frame_tolerance: Annotated[
        int | None,
        typer.Option(help="Number of frames up to which a match is correct, instead of metres, for two aligned sequences."),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether any option is given."""
        return not (self.positive_dist_threshold is self.heading_tolerance is self.frame_tolerance is None)

    def rule(self, default: PositiveRule | None = None) -> PositiveRule:
        """Make the rule of the options; where they are not given, of the default, or else the usual one."""
        from d2vpr_hf.evaluation import PositiveRule

        threshold, frames = self.positive_dist_threshold, self.frame_tolerance
        if threshold is not None and frames is not None:
            raise ValueError("Give either --positive-dist-threshold or --frame-tolerance: metres decide, or frames do.")
        default = default or PositiveRule()
        if threshold is None and frames is None:
            threshold, frames = default.positive_dist_threshold, default.frame_tolerance
        heading = default.heading_tolerance if self.heading_tolerance is None else self.heading_tolerance
        return PositiveRule(PositiveRule().positive_dist_threshold if threshold is None else threshold, heading, frames)


@dataclass
class SequenceRuleOptions:
    """Options for the evaluation of sequences."""

    sequence_length: Annotated[
        int | None,
        typer.Option(min=1, metavar="L", help="Search sequences of L consecutive photos of a folder instead of single photos."),
    ] = None
    sequence_scores: Annotated[
        SequenceScores | None,
        typer.Option(
            help="Comparison of sequences. mean: means of descriptors; sum: similarities photo by photo. Default: mean."
        ),
    ] = None
    sequence_positives: Annotated[
        SequencePositives | None,
        typer.Option(help="Photos of a sequence that must be near: the centre ones (SeqNet) or any (JIST). Default: centre."),
    ] = None

    def rule(self) -> SequenceRule | None:
        """Make the rule; `None` for single photos."""
        from d2vpr_hf.evaluation.sequence_rule import SequenceRule

        if self.sequence_length is None:
            if self.sequence_scores is not None or self.sequence_positives is not None:
                raise ValueError("`sequence_scores` and `sequence_positives` belong to `sequence_length=...`. Give it too.")
            return None
        return SequenceRule(self.sequence_length, self.sequence_scores or "mean", self.sequence_positives or "centre")


@dataclass
class ReportOptions:
    """Options for a report and its pictures."""

    report: Annotated[
        Path | None,
        typer.Option(
            "--json",
            parser=parse_path,
            metavar="OUT",
            help="JSON file for the report; of several query sets, one for each: OUT-NAME.json.",
        ),
    ] = None
    plots: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="DIR",
            help="Folder for pictures: map, curve and matches; of several query sets, with a folder for each.",
        ),
    ] = None

    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            parser=parse_path,
            metavar="OUT",
            help="HTML page with numbers, a map and photos, which needs no other file; of several query sets, one for each.",
        ),
    ] = None

    def check(self, photos: list[Path], names: Sequence[str], overwrite: bool) -> None:
        """Refuse, before the work, outputs that cannot or must not be written."""
        for name in names:
            for file in (self.report, self.page):
                if file is not None:
                    from d2vpr_hf.utils.atomic_files import check_new_file

                    check_new_file(_file_of_set(file, name, len(names)), overwrite)
            if self.plots is not None:
                from d2vpr_hf.evaluation.plots import check_plot_folder

                check_plot_folder(self._plot_folder(name, len(names)), photos)

    def save(self, evaluations: Mapping[str, Evaluation], overwrite: bool) -> None:
        """Write reports and pictures, and print their paths."""
        for name, evaluation in evaluations.items():
            if self.report is not None:
                file = _file_of_set(self.report, name, len(evaluations))
                evaluation.save(file, overwrite)
                notice(f"Report: {file}")
            if self.page is not None:
                from d2vpr_hf.evaluation.page import to_page
                from d2vpr_hf.utils.atomic_files import write_file

                file = _file_of_set(self.page, name, len(evaluations))
                write_file(file, to_page(evaluation))
                notice(f"Page: {file}")
            if self.plots is not None:
                from d2vpr_hf.evaluation.plots import save_plots

                files = save_plots(evaluation, self._plot_folder(name, len(evaluations)))
                notice(f"Pictures: {', '.join(map(str, files))}")

    def _plot_folder(self, name: str, count: int) -> Path:
        assert self.plots is not None
        return self.plots if count == 1 else self.plots / name


def _file_of_set(file: Path, name: str, count: int) -> Path:
    """Return the file of a query set; with several, its name is a part of the file's."""
    return file if count == 1 else file.with_name(f"{file.stem}-{name.replace('/', '-')}{file.suffix}")


def evaluate(
    *,
    photos: PhotoSetOptions,
    reading: ReadingOptions,
    given: DescriptorOptions,
    query_descriptors: Annotated[
        list[Path] | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="With --descriptors, those of the database: those of the queries, one for each query set.",
        ),
    ] = None,
    model: NewModelOption = None,
    database_model: Annotated[
        str | None,
        typer.Option(
            parser=parse_model,
            metavar="MODEL",
            help="Model of the database photos, where --model encodes the queries only: a teacher, and a student that was "
            "distilled into its space, or the reverse.",
        ),
    ] = None,
    rules: RuleOptions,
    sequences: SequenceRuleOptions,
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
    reranking: RerankOptions,
    shuffle_check: Annotated[
        bool, typer.Option("--shuffle-check", help="Evaluate once more with the photos in a random order.")
    ] = False,
    outcome: ReportOptions,
    save_descriptors: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="DIR", help="Folder for indexes: of the database and of each query set."),
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
    rules.rule()
    sequence = sequences.rule()
    options = reranking.reranking()
    reranking.refuse_descriptors(given.descriptors)
    values = _parse_recall_values(recall_values)
    photos.check()
    if (given.descriptors is None) != (not query_descriptors):
        raise ValueError("Give both --descriptors, of the database, and --query-descriptors, or neither.")
    if given.descriptors is not None:
        _refuse_encoding(
            {
                "--model": model,
                "--database-model": database_model,
                "--cross-image-encoder": cross_image_encoder,
                "--shuffle-check": shuffle_check,
            }
        )
        _refuse_encoding({"--save-descriptors": save_descriptors, "--drop-shared": drop_shared})
    if photos.data is None:  # outputs are checked before photos are read, which may take long
        outcome.check(photos.folders, _set_names(photos.queries or []), overwrite)
    sides = _read_data_set(photos, reading, rules) if photos.data is not None else _read_sides(photos, reading, rules)
    outcome.check(photos.folders, sides.names, overwrite)
    sides.print()
    recalls = f"Recall@N of N = {', '.join(map(str, values))}."
    start = time.perf_counter()
    if given.descriptors is not None:
        notice(f"Correct: {sides.correct}. {recalls}")
        evaluations = _evaluate_files(sides, given, query_descriptors or [], values, strict, sequence)
    else:
        notice(f"Correct: {sides.correct}. {recalls} Batch size {encoding.batch_size}.")
        arguments: dict[str, Any] = {
            "recall_values": values,
            "shuffle_check": shuffle_check,
            "save_descriptors": save_descriptors,
            "drop_shared": drop_shared,
            "strict": strict,
            "overwrite": overwrite,
            "reranking": options,
            "sequence": sequence,
        }
        encoder = sides.load(encoding, model, cross_image_encoder)
        if database_model is not None:
            arguments["database_encoder"] = encoding.load_plain(database_model, cross_image_encoder=cross_image_encoder)
        with progress_bar("Encoding", sides.num_photos * (1 + shuffle_check)) as progress:
            evaluations = sides.evaluate(encoder, arguments | {"progress": progress})
    for evaluation in evaluations:
        echo(evaluation.to_text() + ("\n" if len(evaluations) > 1 else ""))
    if len(evaluations) > 1:
        from d2vpr_hf.evaluation.report import summary_lines

        echo("\n".join(summary_lines(dict(zip(sides.names, evaluations, strict=True)))))
    notice(f"took {time.perf_counter() - start:.1f} s")
    outcome.save(dict(zip(sides.names, evaluations, strict=True)), overwrite)


@dataclass
class _Sides:
    """The photos of an evaluation as the command read them: a data set, or a database with query sets."""

    rule: PositiveRule
    correct: str
    data_set: DataSet | None = None
    database: PlaceTable | PlaceIndex | None = None
    query_sets: Sequence[QuerySet] = ()
    positives_source: str = "the data set"
    is_rule_given: bool = False
    has_order: bool = False

    @property
    def names(self) -> list[str]:
        return [queries.name for queries in self.query_sets] if self.data_set is None else list(self.data_set.query_set_names)

    @property
    def num_photos(self) -> int:
        if self.data_set is not None:
            return self.data_set.num_database + sum(map(self.data_set.num_queries, self.names))
        from d2vpr_hf.readers import PlaceTable

        num_database = len(self.database.places) if isinstance(self.database, PlaceTable) else 0
        return num_database + sum(len(queries.table.places) for queries in self.query_sets)

    def print(self) -> None:
        """Print the photos that were found."""
        from d2vpr_hf.readers import PlaceTable

        if self.data_set is not None:
            notice(f"Data set: {self.data_set}")
            for part in self.data_set.parts:
                prefix = f"{part.name}: " if part.name else ""
                notice(f"{prefix}Database: {table_text(part.database)}")
                for queries in part.query_sets:
                    notice(f"{prefix}{queries.name.capitalize()}: {table_text(queries.table)}")
            return
        if isinstance(self.database, PlaceTable):
            notice(f"Database: {table_text(self.database)}")
        elif self.database is not None:
            notice(f"Database: the index {self.database.folder} of {len(self.database)} photos.")
        for queries in self.query_sets:
            notice(f"{queries.name.capitalize()}: {table_text(queries.table)}")

    def load(self, encoding: EncoderOptions, model: str | None, cross_image_encoder: bool | None) -> PlaceEncoder:
        """Load the encoder; that of the index, if the database is one."""
        from d2vpr_hf.index import PlaceIndex

        if isinstance(self.database, PlaceIndex):
            return encoding.load(model, self.database, cross_image_encoder=cross_image_encoder)
        tables = [self.database] if self.data_set is None else [part.database for part in self.data_set.parts]
        paths = [path for table in tables if table is not None for path in table.paths]
        return encoding.load(model, photos=paths, cross_image_encoder=cross_image_encoder)

    def evaluate(self, encoder: PlaceEncoder, arguments: dict[str, Any]) -> list[Evaluation]:
        """Evaluate all query sets."""
        from d2vpr_hf.evaluation import evaluate_data_set, evaluate_query_sets

        if self.data_set is not None:
            return evaluate_data_set(self.data_set, encoder, self.rule if self.is_rule_given else None, **arguments)
        assert self.database is not None
        source = self.positives_source
        return evaluate_query_sets(self.database, self.query_sets, encoder, self.rule, positives_source=source, **arguments)


def _read_data_set(photos: PhotoSetOptions, reading: ReadingOptions, rules: RuleOptions) -> _Sides:
    from d2vpr_hf.evaluation.evaluate import data_set_rule, replaced_rule
    from d2vpr_hf.readers.data_sets import read_data_set

    assert photos.data is not None
    data_set = read_data_set(photos.data, photos.layout, reading.read_options())
    default = data_set_rule(data_set)
    rule = rules.rule(default)
    replaced = replaced_rule(data_set, rule) if rules.is_given else None
    has_positives = any(queries.positives is not None for part in data_set.parts for queries in part.query_sets)
    correct = "as the data set states" if has_positives and not rules.is_given else str(rule)
    correct += "" if replaced is None else f", instead of {replaced}"
    return _Sides(rule, correct, data_set, is_rule_given=rules.is_given, has_order=True)


def _read_sides(photos: PhotoSetOptions, reading: ReadingOptions, rules: RuleOptions) -> _Sides:
    from d2vpr_hf.evaluation.given_photos import read_database, read_query_sets

    assert photos.database is not None and photos.queries
    if photos.positives and rules.is_given:
        raise ValueError("`positives` has the correct matches, and a rule would find others. Give one of them.")
    options = reading.read_options()
    paths = [photos.database, *photos.queries]
    with_positions = not photos.positives
    database = read_database(photos.database, photos.database_list, paths, options, with_positions)
    names = _set_names(photos.queries)
    query_sets = read_query_sets(
        dict(zip(names, photos.queries, strict=True)), photos.query_list or [], photos.positives or [], database, paths, options
    )
    files = ", ".join(map(str, photos.positives or []))
    rule = rules.rule()
    correct = f"as {files} states" if files else str(rule)
    has_order = photos.database_list is not None and bool(photos.query_list)
    return _Sides(rule, correct, None, database.photos, query_sets, positives_source=files, has_order=has_order)


def _set_names(queries: Sequence[Path]) -> list[str]:
    """Return a name for each query set: that of its folder, with its parents' as far as several have the same one."""
    if len(queries) == 1:
        return ["queries"]
    parts = [path.resolve().with_suffix("").parts if path.is_file() else path.resolve().parts for path in queries]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(each[-depth:]).strip("/") for each in parts]
        if len(set(names)) == len(names) and "database" not in names:
            return names
    raise ValueError("`queries` has the same photos twice. Give each once.")


def _evaluate_files(
    sides: _Sides,
    given: DescriptorOptions,
    files: list[Path],
    recall_values: tuple[int, ...],
    strict: bool,
    sequence: SequenceRule | None,
) -> list[Evaluation]:
    """Evaluate descriptors that another program made."""
    from d2vpr_hf.evaluation import evaluate_descriptor_sets
    from d2vpr_hf.readers import PlaceTable

    database, query_sets = sides.database, sides.query_sets
    if sides.data_set is not None:
        if len(sides.data_set.parts) > 1:
            names = ", ".join(part.name for part in sides.data_set.parts)
            raise ValueError(f"`descriptors` has one database, and the data set has several: {names}. Evaluate each of them.")
        database, query_sets = sides.data_set.parts[0].database, sides.data_set.parts[0].query_sets
    if not isinstance(database, PlaceTable):
        raise ValueError("An index has descriptors of its own. Give either the index or `descriptors`.")
    if len(files) != len(query_sets):
        raise ValueError(f"Give `query_descriptors` once for each query set: {len(files)} and {len(query_sets)} are given.")
    assert given.descriptors is not None
    return evaluate_descriptor_sets(
        (given.descriptors, database),
        list(zip(files, query_sets, strict=True)),
        sides.rule,
        data_set=sides.data_set,
        has_order=sides.has_order,
        sequence=sequence,
        use_given_positives=not sides.is_rule_given,
        positives_source=sides.positives_source,
        recall_values=recall_values,
        tensor=given.tensor,
        normalize=given.normalize,
        strict=strict,
    )


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
        database = "" if report.database_model is None else f"; database: {report.database_model}"
        echo(f"{letter}: {path}, {report.model}{database}")
    echo(compare_evaluations(*reports).to_text())
