"""The command that searches an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.options import (
    AnswerOptions,
    DescriptorOptions,
    EncoderOptions,
    FilterOptions,
    IndexArgument,
    ModelOption,
    QueriesArgument,
    RerankOptions,
    StrictOption,
    open_index,
    parse_path,
)
from d2vpr_hf.cli.terminal import check_answers, print_answers, print_pair, results_text


def search(
    index: IndexArgument,
    queries: QueriesArgument = None,
    *,
    given: DescriptorOptions,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Matches for each query.")] = 5,
    where: FilterOptions,
    reranking: RerankOptions,
    answers: AnswerOptions,
    plot: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="FILE", help="Draw queries and matches into this file (png, pdf or svg)."),
    ] = None,
    model: ModelOption = None,
    encoding: EncoderOptions,
    strict: StrictOption = False,
) -> None:
    """Find the photos of an index that are most similar."""
    from d2vpr_hf.retrieval.search_photos import iterate_search

    answer_format = answers.chosen()
    given.check(queries, "QUERY")
    given.refuse_model(model, encoding)
    reranking.refuse_descriptors(given.descriptors)
    options = reranking.reranking()
    opened = open_index(index, thumbnails=plot is not None)
    allowed = where.place_filter().allowed(opened.places)
    if given.descriptors is not None:
        from d2vpr_hf.retrieval.given_descriptors import search_descriptors

        if plot is not None:
            raise ValueError("`--plot` draws photos, and descriptors have none. Omit it.")
        results = search_descriptors(
            opened, given.descriptors, top_k=top_k, tensor=given.tensor, normalize=given.normalize, allowed=allowed
        )
        print_answers(results, answer_format, results_text)
        return
    queries = queries or []
    if plot is not None:
        from d2vpr_hf.figures import check_plot_file

        photo_folder = opened.settings.photo_folder
        check_plot_file(plot, photos=[*queries, *([photo_folder] if photo_folder != Path() else [])])
    encoder = encoding.load(model, opened)
    print_pair(opened, encoder)
    group_size = encoder.batch_size if answer_format == "jsonl" else None
    pending_results = iterate_search(
        opened, queries, encoder, top_k=top_k, allowed=allowed, strict=strict, group_size=group_size, reranking=options
    )
    results = print_answers(pending_results, answer_format, results_text)
    if plot is not None:
        from d2vpr_hf.figures import save_figure
        from d2vpr_hf.hub.thumbnails import read_thumbnails
        from d2vpr_hf.retrieval.plots import plot_search

        save_figure(plot_search(results, read_thumbnails(opened.folder)), plot)
    check_answers(queries, results)
