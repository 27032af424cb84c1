"""Answers of a map: which photos are alike, where that is, and how sure it is; many questions at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.localization import Calibration, Localization, load_calibration, localize
from d2vpr_hf.localization.consensus import NUM_MATCHES
from d2vpr_hf.localization.localize import PRECISION
from d2vpr_hf.maps import BaseMap, TileSource
from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.filters import PlaceFilter, parse_numbers
from d2vpr_hf.readers import read_place
from d2vpr_hf.retrieval.compatibility import check_encoder
from d2vpr_hf.retrieval.search_photos import SearchResult, search_photos
from d2vpr_hf.space.uploads import UploadError, check_photo

MAX_MATCHES = 20


@dataclass(frozen=True)
class Question:
    """A photo, and how it is to be looked for.

    Attributes:
        photo: Its file.
        top_k: Matches wanted, at most 20.
        precision: Share of right ones among the answers that are given; less sure ones are "no match".
        places: Which photos of the map come into question.
    """

    photo: Path
    top_k: int = 5
    precision: float = PRECISION
    places: PlaceFilter = field(default_factory=PlaceFilter)


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
    """

    top_k: float = 5
    precision: float = PRECISION
    near: str | None = None
    heading: str | None = None
    since: str | None = None
    until: str | None = None

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
        return Question(photo, int(self.top_k), float(self.precision), places)


@dataclass(frozen=True)
class Answer:
    """What was found for a question.

    Attributes:
        localization: Where it was taken, or that there is no match, or why nobody can say.
        matches: The photos that look most like it, the nearest first.
        guess: The position that the matches agree on most, sure or not; `None` without positions.
        truth: Where it was really taken, by its name or EXIF, or `None`.
    """

    localization: Localization
    matches: list[Match]
    guess: Place | None = None
    truth: Place | None = None

    @property
    def error(self) -> str | None:
        """Why there is no answer, or `None`."""
        return self.localization.error

    def distance(self, match: Match) -> float | None:
        """Return the metres from a match to the truth, or else to the estimate; `None` if neither is known."""
        reference = self.truth or self.guess
        return None if reference is None else distance_in_metres(reference, match.place)

    def to_dict(self) -> dict[str, Any]:
        """Return the form that the Space's `/localize` answers with; positions of the visitor's photo are not in it."""
        known = {name: value for name, value in self.localization.to_dict().items() if name != "query"}
        return known | {"matches": [_match_to_dict(match) for match in self.matches]}


class PhotoMap:
    """An index with its encoder and calibration, ready to answer. Several threads may ask.

    Args:
        index: The map.
        encoder: Of the index's model.
        tiles: Where tiles for drawings of the map come from, or `None`.

    Raises:
        ValueError: If the encoder's model is not the index's.
    """

    def __init__(self, index: PlaceIndex, encoder: PlaceEncoder, tiles: TileSource | None = None) -> None:
        check_encoder(index, encoder)
        self.index, self.encoder = index, encoder
        self.calibration: Calibration | None = load_calibration(index)
        self.places = list(index.places)
        self.drawing = BaseMap(self.places, tiles)

    def answer_requests(self, photos: Sequence[str], options: Sequence[SearchOptions]) -> list[Answer]:
        """Answer a request for each photo; an option that is wrong becomes the answer's error."""
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
        """Answer questions, in order; photos that share their filters go through the network together."""
        answers: dict[int, Answer] = {}
        groups: dict[PlaceFilter, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            try:
                check_photo(question.photo)
                groups[question.places].append(number)
            except (UploadError, OSError) as error:
                answers[number] = _refusal(error)
        for places, numbers in groups.items():
            answers |= dict(zip(numbers, self._answer_alike(places, [questions[number] for number in numbers]), strict=True))
        return [answers[number] for number in range(len(questions))]

    def _answer_alike(self, places: PlaceFilter, questions: list[Question]) -> list[Answer]:
        try:
            allowed = places.allowed(self.places)
        except ValueError as error:
            return [_refusal(error)] * len(questions)
        wanted = max(min(question.top_k, MAX_MATCHES) for question in questions)
        num_matches = NUM_MATCHES if self.calibration is None else self.calibration.num_matches
        photos = [question.photo for question in questions]
        results = search_photos(self.index, photos, self.encoder, top_k=max(wanted, num_matches), allowed=allowed)
        return [self._judge(question, result) for question, result in zip(questions, results, strict=True)]

    def _judge(self, question: Question, result: SearchResult) -> Answer:
        if result.error is not None:
            return _refusal(UploadError(f"This photo cannot be used: {result.error}."))
        found = localize(result.matches, self.calibration, question.photo.name, question.precision)
        guess = found.place or localize(result.matches, None).place
        return Answer(found, result.matches[: min(question.top_k, MAX_MATCHES)], guess, truth_of(question.photo))


def _typed(text: str | None) -> str | None:
    return (text or "").strip() or None


def truth_of(photo: Path) -> Place | None:
    """Read where a photo was taken from its name or its EXIF; `None` if they do not say."""
    try:
        place = read_place(photo)
    except ValueError:  # a name that begins with @ by chance
        return None
    return place if place.has_position else None


def _refusal(error: Exception) -> Answer:
    text = str(error) if isinstance(error, ValueError) else "This photo is no longer here. Upload it again."
    return Answer(Localization("", error=text), [])


def _match_to_dict(match: Match) -> dict[str, Any]:
    """Describe a match without the server's folders; Gradio's clients would take a field called `path` for a file to fetch."""
    fields = ("latitude", "longitude", "utm_east", "utm_north", "heading")
    local = ("x", "y", "z", "frame") if match.place.is_local else ()
    known = {"rank": match.rank, "photo": match.place.path, "score": match.similarity}
    return known | match.place.to_dict(*fields, *local)
