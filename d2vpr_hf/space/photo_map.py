"""Answers of a map to many questions at once: similar photos, a position, and a confidence."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.localization import Calibration, Localization, load_calibration, localize
from d2vpr_hf.localization.calibration import PRECISION, num_matches_of
from d2vpr_hf.localization.localize_photos import warn_of_other_form
from d2vpr_hf.localization.reranked_fit import first_order
from d2vpr_hf.maps import BaseMap, TileSource
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME
from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.filters import PlaceFilter, parse_numbers
from d2vpr_hf.readers import read_place
from d2vpr_hf.readers.photo_listing import natural_key
from d2vpr_hf.reranking.open_reranker import holds_regions
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.retrieval.compatibility import check_encoder
from d2vpr_hf.retrieval.search_photos import SearchResult, search_photos
from d2vpr_hf.sequences import SequenceAnswer, SequenceLocalizer, SequenceSettings
from d2vpr_hf.sequences.frame_order import list_frames
from d2vpr_hf.sequences.localizer import num_searched
from d2vpr_hf.sequences.sequence_photos import localize_results
from d2vpr_hf.space.space_encoder import SpaceEncoder
from d2vpr_hf.space.uploads import UploadError, check_photo

MAX_MATCHES = 20
MAX_FRAMES = 60  # photos of a sequence
_READING_SECONDS = 20  # for the photos of a batch, beyond which its other photos are refused


@dataclass(frozen=True)
class Question:
    """A photo and the options of its search.

    Attributes:
        photo: Its file.
        top_k: Number of matches, at most 20.
        precision: Share of correct answers among the answers given; less sure ones are "no match".
        places: Filter for the photos of the map.
        rerank: Whether the best matches are re-ranked by the similarity of their regions.
    """

    photo: Path
    top_k: int = 5
    precision: float = PRECISION
    places: PlaceFilter = field(default_factory=PlaceFilter)
    rerank: bool = False


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search as a visitor or a program enters them; `None` and blank texts are filters that are not set.

    Attributes:
        top_k: Number of matches, 1 to 20.
        precision: Share of correct answers among the answers given, 0 to 1; less sure ones are "no match".
        near: "LAT,LON,METRES": search photos within METRES of a position.
        heading: "DEGREES,TOLERANCE": search photos with this heading, within the tolerance.
        since: A time such as 2024-05-01: search photos of this time or later.
        until: Search photos of this time or earlier.
        rerank: Whether the best matches are re-ranked by the similarity of their regions.
    """

    top_k: float = 5
    precision: float = PRECISION
    near: str | None = None
    heading: str | None = None
    since: str | None = None
    until: str | None = None
    rerank: bool = False

    def question(self, photo: Path) -> Question:
        """Make the question for a photo.

        Raises:
            ValueError: If a number is out of its range or a text is not in its form.
        """
        if not (1 <= self.top_k <= MAX_MATCHES and 0 <= self.precision <= 1):
            raise ValueError(
                f"Expected 1 to {MAX_MATCHES} matches and a precision of 0 to 1, got {self.top_k} and {self.precision}."
            )
        ranges = {
            "near": parse_numbers(_typed(self.near), "LAT,LON,METRES"),
            "heading": parse_numbers(_typed(self.heading), "DEGREES,TOLERANCE"),
        }
        places = PlaceFilter(**ranges, since=_typed(self.since), until=_typed(self.until))  # type: ignore[arg-type]
        return Question(photo, int(self.top_k), float(self.precision), places, bool(self.rerank))


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        localization: The estimated position, "no match", or the reason why there is neither.
        matches: The most similar photos of the map, the most similar first.
        guess: The position that most matches support, whether or not it is sure; `None` if no match has a position.
        truth: The position that the photo's name or EXIF states, or `None`.
    """

    localization: Localization
    matches: list[Match]
    guess: Place | None = None
    truth: Place | None = None

    @property
    def error(self) -> str | None:
        """The reason why there is no answer, or `None`."""
        return self.localization.error

    @property
    def is_reranked(self) -> bool:
        """Whether the matches were re-ranked."""
        return bool(self.matches) and self.matches[0].reranked

    def distance(self, match: Match) -> float | None:
        """Return the distance in metres from a match to the truth, or without a truth to the guess; `None` without both."""
        reference = self.truth or self.guess
        return None if reference is None else distance_in_metres(reference, match.place)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values of the endpoint `/localize`, without the position that the visitor's photo states."""
        estimate = {name: value for name, value in self.localization.to_dict().items() if name != "query"}
        matches = [_match_to_dict(match) for match in self.matches]
        return estimate | {"reranked": self.is_reranked, "matches": matches}


@dataclass(frozen=True)
class SequenceAnswers:
    """The answers for a sequence.

    Attributes:
        frames: The answer for each photo, in their order.
        order: Kind of the order, as text.
    """

    frames: list[SequenceAnswer]
    order: str


class PhotoMap:
    """An index with its encoder and calibration, ready to answer questions. Safe to use from threads.

    Args:
        index: The map.
        encoder: Encoder with the index's model.
        tiles: Source of tiles below drawings of the map, or `None`.

    Raises:
        ValueError: If the encoder's model is not the index's.
    """

    def __init__(self, index: PlaceIndex, encoder: SpaceEncoder, tiles: TileSource | None = None) -> None:
        check_encoder(index, encoder, for_queries=True)
        self.index, self.encoder = index, encoder
        self.calibration: Calibration | None = load_calibration(index, encoder)
        warn_of_other_form(self.calibration, encoder)
        self.places = list(index.places)
        self.drawing = BaseMap(self.places, tiles)
        self.reranking = self._reranking()

    def _reranking(self) -> Reranking | None:
        """Return the options of re-ranking; `None` if the rows of the map hold no regions.

        They are those of the calibration, or else all answers are re-ranked.
        """
        is_same = self.encoder.fingerprint == self.index.settings.fingerprint
        if not (is_same and holds_regions(self.encoder) and self.encoder.test_time == DEFAULT_TEST_TIME):
            return None
        fit = None if self.calibration is None else self.calibration.reranked
        return Reranking("regions") if fit is None else fit.reranking

    def answer_requests(self, photos: Sequence[Path | str], options: Sequence[SearchOptions]) -> list[Answer]:
        """Answer the requests of programs, in order; an option out of its range or form becomes the error of its answer."""
        questions: dict[int, Question] = {}
        answers: dict[int, Answer] = {}
        for number, (photo, search) in enumerate(zip(photos, options, strict=True)):
            try:
                questions[number] = search.question(Path(photo))
            except (ValueError, TypeError) as error:
                answers[number] = _refusal(ValueError(str(error)))
        answers |= dict(zip(questions, self.answer(list(questions.values())), strict=True))
        return [answers[number] for number in range(len(answers))]

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions, in order; photos with the same filters are encoded in one batch.

        Slow photos hold up the others of a batch, so that photos at its end are refused when the first ones took too long.
        """
        until = time.monotonic() + _READING_SECONDS
        answers: dict[int, Answer] = {}
        groups: dict[tuple[PlaceFilter, bool], list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            try:
                if number and time.monotonic() > until:
                    raise UploadError("The Space is busy with other photos. Try again.")
                check_photo(question.photo)
                groups[question.places, question.rerank].append(number)
            except (UploadError, OSError) as error:
                answers[number] = _refusal(error)
        for (places, rerank), numbers in groups.items():
            of_group = self._answer_group(places, [questions[number] for number in numbers], rerank=rerank)
            answers |= dict(zip(numbers, of_group, strict=True))
        return [answers[number] for number in range(len(questions))]

    def _answer_group(self, places: PlaceFilter, questions: list[Question], *, rerank: bool) -> list[Answer]:
        """Answer questions that have the same filters and the same choice of re-ranking."""
        if rerank and self.reranking is None:
            reason = ValueError("The photos of this map have no stored regions, so that matches cannot be re-ranked.")
            return [_refusal(reason)] * len(questions)
        try:
            allowed = places.allowed(self.places)
        except ValueError as error:
            return [_refusal(error)] * len(questions)
        most_matches = max(min(question.top_k, MAX_MATCHES) for question in questions)
        photos = [question.photo for question in questions]
        reranking = self.reranking if rerank else None
        top_k = max(most_matches, num_matches_of(self.calibration), 0 if reranking is None else reranking.num_searched)
        results = search_photos(self.index, photos, self.encoder, top_k=top_k, allowed=allowed, reranking=reranking)
        return [self._localize(question, result) for question, result in zip(questions, results, strict=True)]

    def _localize(self, question: Question, result: SearchResult) -> Answer:
        if result.error is not None:
            return _refusal(UploadError(f"This photo cannot be used: {result.error}."))
        calibration, matches = self.calibration, result.matches
        is_fitted = calibration is not None and calibration.reranked is not None
        if question.rerank and calibration is not None and not is_fitted:
            matches = first_order(matches)  # the calibration's confidence is that of the first order
        reranking = question.rerank and is_fitted
        localization = localize(matches, calibration, question.photo.name, question.precision, reranking=reranking)
        guess = localization.place or localize(result.matches, None).place
        return Answer(localization, result.matches[: min(question.top_k, MAX_MATCHES)], guess, place_of_photo(question.photo))

    def answer_sequence(self, photos: Sequence[Path], interval: float, precision: float = PRECISION) -> SequenceAnswers:
        """Localize photos as the frames of a sequence: in the order of their times, else of the numbers in their names.

        Args:
            photos: Files of at least two and at most `MAX_FRAMES` frames.
            interval: Seconds between frames without times.
            precision: As for [`Question`].

        Raises:
            UploadError: If there are too few or too many photos, or none can be used.
            ValueError: If a number is out of its range.
        """
        if not 2 <= len(photos) <= MAX_FRAMES:
            raise UploadError(f"A sequence has 2 to {MAX_FRAMES} photos, got {len(photos)}.")
        if not 0 <= precision <= 1:
            raise ValueError(f"Expected a precision of 0 to 1, got {precision}.")
        settings = SequenceSettings(frame_interval=interval)
        by_name = sorted(photos, key=lambda photo: natural_key(PurePath(photo.name)))
        errors = self._check_frames(by_name)
        usable = [photo for photo in by_name if photo not in errors]
        if not usable:
            raise UploadError(next(iter(errors.values())))
        order = list_frames(by_name)
        top_k = num_searched(settings, self.calibration)
        results = dict(zip(usable, search_photos(self.index, usable, self.encoder, top_k=top_k), strict=True))
        unusable = {photo: SearchResult(photo, [], error) for photo, error in errors.items()}
        in_order = [(results | unusable)[frame.photo] for frame in order.frames]
        localizer = SequenceLocalizer(self.index, self.calibration, settings, precision)
        answers = [
            replace(answer, query=Path(answer.query).name) for answer in localize_results(localizer, in_order, order.frames)
        ]
        return SequenceAnswers(answers, order.order if order.order == "order of times" else "natural order of names")

    def _check_frames(self, photos: Sequence[Path]) -> dict[Path, str]:
        """Return the reasons why photos cannot be used; the others of a slow upload are refused."""
        until = time.monotonic() + _READING_SECONDS
        errors: dict[Path, str] = {}
        for number, photo in enumerate(photos):
            try:
                if number and time.monotonic() > until:
                    raise UploadError("The photos take too long to read. Upload fewer or smaller ones.")
                check_photo(photo)
            except (UploadError, OSError) as error:
                errors[photo] = str(error) if isinstance(error, UploadError) else "This photo was deleted. Upload it again."
        return errors


def _typed(text: str | None) -> str | None:
    """Return a text without blanks around it; `None` for an empty field."""
    return (text or "").strip() or None


def place_of_photo(photo: Path) -> Place | None:
    """Return the place that a photo's `@` name or EXIF states; `None` without a position."""
    try:
        place = read_place(photo)
    except ValueError:  # the name begins with @ but is not an @ name
        return None
    return place if place.has_position else None


def _refusal(error: Exception) -> Answer:
    text = str(error) if isinstance(error, ValueError) else "This photo was deleted. Upload it again."
    return Answer(Localization("", error=text), [])


def _match_to_dict(match: Match) -> dict[str, Any]:
    """Return a match as JSON values without the server's folders.

    The values are those of [`Match.to_dict`], with the path in the index under `photo` instead of `path`: Gradio's client takes
    each table with a `path` for a file to download.
    """
    values = {name: value for name, value in match.to_dict().items() if name != "path"}
    if match.photos:
        folder = match.photo.parents[len(Path(match.place.path).parts) - 1]
        values["photos"] = [photo.relative_to(folder).as_posix() for photo in match.photos if photo.is_relative_to(folder)]
    return {"rank": match.rank, "photo": match.place.path} | values
