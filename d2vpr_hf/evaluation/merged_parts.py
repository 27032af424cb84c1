"""The evaluation of a query set over all parts of a data set: each query was searched in the database of its part."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2vpr_hf.evaluation.positives import PhotoSet
from d2vpr_hf.evaluation.report import CoordinateKind, Evaluation, Predictions, QueryResult
from d2vpr_hf.evaluation.sequence_windows import SEQUENCE_COUNTS


def merge_parts(evaluations: Mapping[str, Evaluation], data_set: dict[str, Any]) -> Evaluation:
    """Return one evaluation of the queries of all parts.

    Paths become relative to the folder that has the photos of all parts, so that they differ between parts. Places get
    new numbers, because those of two parts are never the same.

    Args:
        evaluations: The evaluation of each part, by the part's name.
        data_set: Layout, variant and query set, for the report.
    """
    parts = list(evaluations.values())
    if len(parts) == 1:
        return replace(parts[0], data_set=data_set)
    sizes = [{"part": name, "database": part.database["count"]} for name, part in evaluations.items()]
    folders = {side: [Path(getattr(part, side)["path"]) for part in parts] for side in ("database", "query_set")}
    roots = {side: Path(os.path.commonpath(of_side)) for side, of_side in folders.items()}
    prefixes = {side: [folder.relative_to(roots[side]) for folder in of_side] for side, of_side in folders.items()}
    skipped = [
        {
            "database": _with_prefix(part.skipped["database"], database),
            "queries": _with_prefix(part.skipped["queries"], queries),
        }
        for part, database, queries in zip(parts, prefixes["database"], prefixes["query_set"], strict=True)
    ]
    shared = [part.shared_photos for part in parts]
    return replace(
        parts[0],
        queries=_merge_queries(evaluations, prefixes["database"], prefixes["query_set"]),
        database=_merge_sides([part.database for part in parts], roots["database"]),
        query_set=_merge_sides([part.query_set for part in parts], roots["query_set"]),
        skipped={side: {path: it for each in skipped for path, it in each[side].items()} for side in ("database", "queries")},
        remarks={side: [remark for part in parts for remark in part.remarks[side]] for side in ("database", "queries")},
        shared_photos=None if None in shared else sum(filter(None, shared)),
        coordinates=_merge_coordinates(parts),
        predictions=_merge_predictions(parts, roots, prefixes),
        data_set=data_set | {"parts": sizes},
        reranking=_merge_counts([part.reranking for part in parts], "reranked", "comparisons"),
        sequences=_merge_counts([part.sequences for part in parts], *SEQUENCE_COUNTS),
    )


def _merge_counts(parts: Sequence[dict[str, Any] | None], *counts: str) -> dict[str, Any] | None:
    """Return the options that all parts share, with the sums of their counts; `None` for parts without them."""
    given = [part for part in parts if part is not None]
    return given[0] | {name: sum(part[name] for part in given) for name in counts} if given else None


def _merge_queries(
    evaluations: Mapping[str, Evaluation], database: Sequence[Path], queries: Sequence[Path]
) -> list[QueryResult]:
    merged: list[QueryResult] = []
    num_places = 0
    for (name, part), of_database, of_queries in zip(evaluations.items(), database, queries, strict=True):
        merged += [
            replace(
                query,
                path=(of_queries / query.path).as_posix(),
                place=query.place + num_places,
                top_match=(of_database / query.top_match).as_posix(),
                part=name,
            )
            for query in part.queries
        ]
        num_places += int(part.places.max()) + 1
    return merged


def _merge_sides(sides: Sequence[dict[str, Any]], root: Path) -> dict[str, Any]:
    """Return path, count and checksum of all parts, and the other values in which they agree."""
    common = {key: value for key, value in sides[0].items() if all(side.get(key) == value for side in sides)}
    checksum = hashlib.sha256("\n".join(side["checksum"] for side in sides).encode()).hexdigest()
    return common | {"path": str(root), "count": sum(side["count"] for side in sides), "checksum": checksum}


def _with_prefix(skipped: Mapping[str, str], prefix: Path) -> dict[str, str]:
    return {(prefix / path).as_posix(): reason for path, reason in skipped.items()}


def _merge_coordinates(parts: Sequence[Evaluation]) -> CoordinateKind:
    """Return the form of all positions: metres of two parts may be of two zones."""
    return "degrees" if all(part.coordinates == "degrees" for part in parts) else "metres of several frames"


def _merge_predictions(
    parts: Sequence[Evaluation], roots: Mapping[str, Path], prefixes: Mapping[str, Sequence[Path]]
) -> Predictions | None:
    """Return the predictions of all parts, of as many matches as every query has."""
    predictions = [part.predictions for part in parts if part.predictions is not None]
    if len(predictions) < len(parts):
        return None
    depth = min(each.rows.shape[1] for each in predictions)
    starts = np.cumsum([0, *(part.database["count"] for part in parts)])
    return Predictions(
        np.concatenate([each.rows[:, :depth] + start for each, start in zip(predictions, starts[:-1], strict=True)]),
        np.concatenate([each.similarities[:, :depth] for each in predictions]),
        np.concatenate([each.correct[:, :depth] for each in predictions]),
        _merge_photos([each.database for each in predictions], roots["database"], prefixes["database"]),
        _merge_photos([each.queries for each in predictions], roots["query_set"], prefixes["query_set"]),
    )


def _merge_photos(parts: Sequence[PhotoSet], root: Path, prefixes: Sequence[Path]) -> PhotoSet:
    """Return the photos of all parts, with positions if all parts have positions of one form; each part is a region."""
    pairs = zip(parts, prefixes, strict=True)
    paths = [(prefix / path).as_posix() for part, prefix in pairs for path in part.paths or ()]
    positions = [part.positions for part in parts if part.positions is not None]
    is_placed = (
        len(positions) == len(parts)
        and len({(part.in_degrees, each.shape[1]) for part, each in zip(parts, positions, strict=True)}) == 1
    )
    return PhotoSet(
        positions=np.concatenate(positions) if is_placed else None,
        paths=paths,
        folder=root,
        in_degrees=is_placed and parts[0].in_degrees,
        regions=[
            f"{number} {region}" for number, part in enumerate(parts) for region in part.regions or [""] * len(part.paths or ())
        ],
    )
