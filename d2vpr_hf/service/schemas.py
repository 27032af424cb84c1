"""The bodies of requests and answers as pydantic models, from which FastAPI makes the OpenAPI description.

Answers have the keys of [`Match.to_dict`], [`SearchResult.to_dict`] and [`Localization.to_dict`]; keys that these gain later
are passed on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from d2vpr_hf.localization.localize import PRECISION
from d2vpr_hf.places.filters import PlaceFilter, parse_numbers

_FORMS = {"near": "near=LAT,LON,METRES", "box": "box=SOUTH,WEST,NORTH,EAST", "heading": "heading=DEGREES,TOLERANCE"}


class PlaceValues(BaseModel):
    """A position, heading and time; null for values that are not known."""

    model_config = ConfigDict(extra="allow")

    latitude: float | None = Field(None, description="WGS 84, degrees.", examples=[48.8583])
    longitude: float | None = Field(None, description="WGS 84, degrees.", examples=[2.2945])
    utm_east: float | None = Field(None, description="Metres.")
    utm_north: float | None = Field(None, description="Metres.")
    utm_zone: str | None = Field(None, examples=["31U"])
    heading: float | None = Field(None, description="Degrees clockwise from north.", examples=[90.0])
    timestamp: str | None = Field(None, examples=["2024-05-01T12:30:00"])
    condition: str | None = Field(None, examples=["night"])
    yaw: float | None = Field(None, description="Degrees, in a local frame.")
    frame: str | None = Field(None, description="Name of the local frame.")
    x: float | None = Field(None, description="Metres in the local frame; absent for other positions, as y and z.")
    y: float | None = None
    z: float | None = None


class MatchValues(PlaceValues):
    """A photo of the index that is similar to a query."""

    rank: int = Field(description="1 for the most similar photo.", examples=[1])
    path: str = Field(description="Name of the photo in the index.", examples=["street/0042.jpg"])
    similarity: float = Field(description="Cosine similarity of the descriptors, at most 1.", examples=[0.8214])
    score: float = Field(description="The similarity, under its earlier name.", examples=[0.8214])
    reranked: bool = Field(False, description="False: the service does not re-rank matches.")
    region_similarity: float | None = Field(None, description="Null without re-ranking.")
    fused_similarity: float | None = Field(None, description="Null without re-ranking.")


class SearchValues(BaseModel):
    """The matches of a query."""

    model_config = ConfigDict(extra="allow")

    query: str = Field(description="The client's name for the photo.", examples=["query.jpg"])
    matches: list[MatchValues] = Field(description="The most similar photo first; empty if the query could not be read.")
    error: str | None = Field(None, description="Reason why the query could not be read; absent if it could.")


class LocalizationValues(PlaceValues):
    """The position of a query, or no match."""

    query: str = Field(description="The client's name for the photo.", examples=["query.jpg"])
    radius_90: float | None = Field(None, description="Metres within which the position is in 90 % of such cases.")
    confidence: float | None = Field(None, description="Probability that the position is correct to 25 m.", examples=[0.97])
    no_match: bool | None = Field(None, description="Whether the confidence is too low for an answer.")
    reranked: bool = Field(False, description="False: the service does not re-rank matches.")
    matches: list[MatchValues] = Field(description="The matches that the answer was computed from.")
    note: str | None = Field(None, description="Reason why the answer is incomplete; absent if it is not.")
    error: str | None = Field(None, description="Reason why the query could not be read; absent if it could.")


class DescriptorValues(BaseModel):
    """The descriptor of a photo."""

    query: str = Field(description="The client's name for the photo.", examples=["query.jpg"])
    descriptor: list[float] | list[list[float]] | str | None = Field(
        description="Numbers, or the base64 text of little-endian float32 numbers; several rows for a model whose queries have "
        "several; null if the photo could not be read."
    )
    error: str | None = Field(None, description="Reason why the photo could not be read; absent if it could.")


class SearchAnswer(BaseModel):
    """The answer of /search: a result for each photo or descriptor, in their order."""

    results: list[SearchValues]


class LocalizeAnswer(BaseModel):
    """The answer of /localize: a result for each photo or descriptor, in their order."""

    results: list[LocalizationValues]


class EncodeAnswer(BaseModel):
    """The answer of /encode: a result for each photo, in their order."""

    descriptor_dim: int = Field(examples=[512])
    fingerprint: str = Field(description="Hash of everything that the descriptors depend on.")
    results: list[DescriptorValues]


class ErrorAnswer(BaseModel):
    """The answer to a request that is refused or fails."""

    error: str = Field(examples=["The service is busy with other requests. Try again later."])


class StateAnswer(BaseModel):
    """The state of the service."""

    status: Literal["ok", "ready", "ending"]
    photos: int | None = Field(None, description="Number of photos of the index.")
    generation: int | None = Field(None, description="Number of the state of the index, which grows when it is reloaded.")
    model: str | None = Field(None, description="Name of the model that encodes queries.")


class Photo(BaseModel):
    """A photo in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=200, description="Name for the answer.", examples=["query.jpg"])
    content: str = Field(description="The photo's file in base64.", examples=["/9j/4AAQSkZJRgABAQ..."])


class EncodeOptions(BaseModel):
    """Options of /encode."""

    model_config = ConfigDict(extra="forbid")

    encoding: Literal["float", "base64"] = Field("float", description="Form of the descriptors.")
    role: Literal["query", "database"] = Field(
        "query", description="Whether the photos are queries or photos of an index, which some models encode in another form."
    )

    def question_options(self) -> dict[str, Any]:
        """Return the options of a [`Question`]."""
        return {"as_query": self.role == "query"}


class FilterOptions(BaseModel):
    """Filters for the photos of the index; a match passes them all."""

    model_config = ConfigDict(extra="forbid")

    near: tuple[float, float, float] | None = Field(None, description="Latitude, longitude, radius in metres.")
    box: tuple[float, float, float, float] | None = Field(None, description="South, west, north, east in degrees.")
    heading: tuple[float, float] | None = Field(None, description="Heading and tolerance in degrees.")
    since: str | None = Field(None, max_length=40, description="First time of photos.", examples=["2024-05-01"])
    until: str | None = Field(None, max_length=40, description="Last time of photos.")

    @field_validator("near", "box", "heading", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: Any) -> Any:
        """Read the numbers of a form's field, which are separated by commas."""
        return parse_numbers(value, _FORMS[info.field_name]) if isinstance(value, str) else value

    def question_options(self) -> dict[str, Any]:
        """Return the options of a [`Question`]."""
        return {"places": PlaceFilter(self.near, self.box, self.heading, self.since, self.until)}


class SearchOptions(FilterOptions):
    """Options of /search."""

    top_k: int = Field(5, ge=1, description="Number of matches of each query.")

    def question_options(self) -> dict[str, Any]:
        """Return the options of a [`Question`]."""
        return super().question_options() | {"top_k": self.top_k}


class LocalizeOptions(FilterOptions):
    """Options of /localize."""

    precision: float = Field(
        PRECISION, ge=0, le=1, description="Smallest share of correct answers; less sure ones are reported as no match."
    )

    def question_options(self) -> dict[str, Any]:
        """Return the options of a [`Question`]."""
        return super().question_options() | {"precision": self.precision}


Descriptors = Annotated[
    list[list[float]],
    Field(description="Descriptors of unit length, by the model of the index, in place of photos."),
]


class EncodeBody(EncodeOptions):
    """The JSON body of /encode."""

    photos: list[Photo] = Field(min_length=1)


class SearchBody(SearchOptions):
    """The JSON body of /search: photos or descriptors."""

    photos: list[Photo] | None = Field(None, min_length=1)
    descriptors: Descriptors | None = Field(None, min_length=1)


class LocalizeBody(LocalizeOptions):
    """The JSON body of /localize: photos or descriptors."""

    photos: list[Photo] | None = Field(None, min_length=1)
    descriptors: Descriptors | None = Field(None, min_length=1)
