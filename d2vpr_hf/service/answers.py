"""Answers to the questions of a batch: photos are encoded together, and each question is searched with its own options."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import EncodedPhotos, encode_queries
from d2vpr_hf.index import Match
from d2vpr_hf.localization import Localization, localize
from d2vpr_hf.localization.calibration import num_matches_of
from d2vpr_hf.localization.localize import PRECISION
from d2vpr_hf.places.filters import PlaceFilter
from d2vpr_hf.retrieval.search_photos import SearchResult
from d2vpr_hf.service.generations import Generation

Kind = Literal["localize", "search", "encode"]


@dataclass(frozen=True)
class Question:
    """A photo or a descriptor, and the options of its answer.

    Attributes:
        generation: The state of the index that answers.
        kind: The kind of the answer.
        name: The client's name for the photo.
        source: The photo's file, or a descriptor (D,) of unit length.
        top_k: Number of matches of a search.
        precision: Share of correct answers of a localization.
        places: Filter for the photos of the index.
        as_query: Whether the photo is encoded as a query, and not as a photo of the index; they differ only for some models.
    """

    generation: Generation
    kind: Kind
    name: str
    source: Path | NDArray[np.float32]
    top_k: int = 5
    precision: float = PRECISION
    places: PlaceFilter = field(default_factory=PlaceFilter)
    as_query: bool = True


@dataclass(frozen=True)
class Descriptor:
    """The descriptor of a photo.

    Attributes:
        query: The client's name for the photo.
        values: Descriptor (D,), or (V, D) for a query of several; `None` if the photo could not be read.
        error: Reason why the photo could not be read, or `None`.
    """

    query: str
    values: NDArray[np.float32] | None
    error: str | None = None


Answer = SearchResult | Localization | Descriptor
Observe = Callable[[str, float], None]


def answer_batch(questions: Sequence[Question], observe: Observe = lambda name, seconds: None) -> list[Answer]:
    """Answer questions to one generation, in order.

    Args:
        questions: The questions.
        observe: Called with the seconds of `"encode"` and of `"search"`.
    """
    start = time.monotonic()
    descriptors, errors = _describe(questions)
    encoded = time.monotonic()
    matches = _search(questions, descriptors)
    observe("encode", encoded - start)
    observe("search", time.monotonic() - encoded)
    return [
        _answer(question, descriptors.get(number), matches.get(number, []), errors.get(number))
        for number, question in enumerate(questions)
    ]


def _describe(questions: Sequence[Question]) -> tuple[dict[int, NDArray[np.float32]], dict[int, str]]:
    """Return the descriptors by the numbers of their questions, and the reasons why the other photos cannot be read."""
    descriptors = {number: it.source for number, it in enumerate(questions) if isinstance(it.source, np.ndarray)}
    errors: dict[int, str] = {}
    for as_query in (True, False):
        group = [
            number
            for number, question in enumerate(questions)
            if isinstance(question.source, Path) and question.as_query == as_query
        ]
        for numbers in _batches(questions[0].generation, group):
            encoded = _encode(questions[0].generation, [questions[number].source for number in numbers], as_query)  # type: ignore[misc]
            for row, values in zip(encoded.rows.tolist(), encoded.descriptors, strict=True):
                descriptors[numbers[row]] = values
            errors |= {numbers[row]: reason for row, reason in encoded.skipped.items()}
    return descriptors, errors


def _batches(generation: Generation, numbers: list[int]) -> list[list[int]]:
    """Return the photos to encode together: each alone where a descriptor depends on the other photos, which are strangers'."""
    if generation.encoder is not None and generation.encoder.depends_on_batch:
        return [[number] for number in numbers]
    return [numbers] if numbers else []


def _encode(generation: Generation, photos: list[Path], as_query: bool) -> EncodedPhotos:
    assert generation.encoder is not None
    return encode_queries(generation.encoder, photos) if as_query else generation.encoder.encode(photos)


def _search(questions: Sequence[Question], descriptors: dict[int, NDArray[np.float32]]) -> dict[int, list[Match]]:
    """Return the matches by the numbers of their questions. Questions with equal options are one search."""
    groups: dict[tuple[PlaceFilter, int, int], list[int]] = defaultdict(list)
    for number, values in descriptors.items():
        if questions[number].kind != "encode":
            groups[questions[number].places, _num_matches(questions[number]), values.ndim].append(number)
    matches: dict[int, list[Match]] = {}
    for (places, count, _), numbers in groups.items():
        generation = questions[0].generation
        queries = np.stack([descriptors[number] for number in numbers])
        nearest = generation.index.search(queries, count, allowed=generation.allowed(places))
        matches |= {number: list(map(_named, found)) for number, found in zip(numbers, nearest, strict=True)}
    return matches


def _num_matches(question: Question) -> int:
    if question.kind == "search":
        return question.top_k
    return num_matches_of(question.generation.calibration)


def _named(match: Match) -> Match:
    """Return a match whose photo is named by its path in the index, not by the server's folders."""
    return replace(match, photo=Path(match.place.path))


def _answer(question: Question, descriptor: NDArray[np.float32] | None, matches: list[Match], error: str | None) -> Answer:
    if error is not None:
        return refusal(question.kind, question.name, error)
    if question.kind == "encode":
        return Descriptor(question.name, descriptor)
    if question.kind == "search":
        return SearchResult(Path(question.name), matches)
    return localize(matches, question.generation.calibration, question.name, question.precision)


def refusal(kind: Kind, name: str, reason: str) -> Answer:
    """Return the answer to a photo that cannot be used."""
    if kind == "encode":
        return Descriptor(name, None, reason)
    return SearchResult(Path(name), [], reason) if kind == "search" else Localization(name, error=reason)
