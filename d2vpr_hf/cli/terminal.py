"""Output that several commands have in common: progress, photos that were read, search results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from d2vpr_hf.utils.printable import printable_line, printable_text

if TYPE_CHECKING:
    from d2vpr_hf.cli.choices import AnswerFormat
    from d2vpr_hf.encoders import Encoder
    from d2vpr_hf.index import PlaceIndex
    from d2vpr_hf.places import Place
    from d2vpr_hf.readers import PlaceTable
    from d2vpr_hf.retrieval.answer_formats import Answer
    from d2vpr_hf.retrieval.search_photos import SearchResult
    from d2vpr_hf.retrieval.updates import UpdateReport

is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)  # whether the command has `--quiet`

AnswerType = TypeVar("AnswerType", bound="Answer")


def echo(text: str) -> None:
    """Print a text. Control characters are shown as escapes: names of files and texts from files must not steer a terminal."""
    typer.echo(printable_text(text))


def notice(text: str, *, err: bool = False) -> None:
    """Print a line about the run, which `--quiet` skips; `err` prints it on stderr."""
    if not is_quiet.get():
        typer.echo(printable_text(text), err=err)


def hush_transformers() -> None:
    """Switch off transformers' progress bars, one for each file, and its load reports, which our errors repeat.

    A command may need no transformers: it reads both settings when it is imported.
    """
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error

        disable_progress_bar()
        set_verbosity_error()


@contextlib.contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Draw a progress bar on stderr, if that is a terminal, with the time that is left.

    Args:
        label: The work.
        total: Number of photos; `None` if it is not known: the bar then has the time that passed.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn(label), BarColumn(), MofNCompleteColumn()]
    if total is None:
        columns += [TimeElapsedColumn(), TextColumn("passed")]
    else:
        columns += [TimeRemainingColumn(), TextColumn("left")]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=is_quiet.get() or not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def count_photos(paths: Sequence[Path]) -> int | None:
    """Return the number of photos for a progress bar; `None` if there are folders or tables among the paths."""
    return len(paths) if all(path.suffix.lower() != ".csv" and path.is_file() for path in paths) else None


def print_pair(index: PlaceIndex, encoder: Encoder) -> None:
    """Print both models on stderr where queries are encoded by another model than the index."""
    from d2vpr_hf.retrieval.compatibility import check_encoder, describe_pair

    check_encoder(index, encoder, for_queries=True)
    if (text := describe_pair(index, encoder)) is not None:
        notice(text, err=True)


def table_text(table: PlaceTable) -> str:
    """Return the number of photos, and the source of their positions."""
    return f"{len(table.places)} photos, {table.num_positions} with a position (from: {table.source})."


def changes_text(report: UpdateReport) -> str:
    """Return the counts of an update."""
    return f"{report.added} added, {report.changed} changed, {report.removed} removed, {report.kept} kept."


def results_text(results: list[SearchResult]) -> str:
    """Return each query on a line, and below it a line for each match."""
    lines = []
    for result in results:
        query = printable_line(str(result.query))
        lines.append(query if result.error is None else f"{query}: {printable_line(result.error)}")
        for match in result.matches:
            place = f"{printable_line(match.place.path)}{position_column(match.place)}"
            regions = "" if match.region_similarity is None else f"  regions {match.region_similarity:.4f}"
            lines.append(f"  {match.rank:3d}  {match.similarity:7.4f}{regions}  {place}")
    return "\n".join(lines)


def print_answers(
    answers: Iterable[AnswerType], format: AnswerFormat, table: Callable[[list[AnswerType]], str]
) -> list[AnswerType]:
    """Print the answers to queries and return them.

    Args:
        answers: The answers. JSON lines are printed one by one, all other formats when all answers are known.
        format: Their format.
        table: Returns the text of the format `table`.
    """
    from d2vpr_hf.retrieval.answer_formats import answer_line, format_answers

    if format == "jsonl":
        printed = []
        for answer in answers:
            echo(answer_line(answer))
            printed.append(answer)
        return printed
    all_answers = list(answers)
    if format == "table":
        echo(table(all_answers))
    else:  # programs read names unchanged, a terminal shows them
        (echo if sys.stdout.isatty() else print)(format_answers(all_answers, format))  # typer.echo would remove colours
    return all_answers


def check_answers(queries: Sequence[Path], answers: Sequence[Any]) -> None:
    """Raise ValueError if a query, or a whole folder of queries, has no answer because it is missing or could not be read."""
    answered = [Path(answer.query) for answer in answers if answer.error is None]
    if not answered:
        raise ValueError("None of the queries could be read.")
    paths = {path for photo in answered for path in (photo, *photo.parents)}
    check_used([query for query in queries if query not in paths], len(queries))


def check_used(unused: Sequence[Path], total: int) -> None:
    """Raise ValueError if paths of the command line could not be used; the others were."""
    if unused:
        names = ", ".join(printable_line(str(path)) for path in unused)
        raise ValueError(f"{len(unused)} of {total} given paths could not be read: {names}. All others were used.")


def position_column(place: Place) -> str:
    """Return a place's position after two blanks, or an empty string without a position."""
    from d2vpr_hf.places import position_text

    text = printable_line(position_text(place))
    return f"  {text}" if text else ""
