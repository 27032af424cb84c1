"""The report of a checked map: as text, JSON and GeoJSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from d2vpr_hf.places import Place, position_text
from d2vpr_hf.places.geometry import EARTH
from d2vpr_hf.places.place import with_degrees
from d2vpr_hf.utils.printable import printable_line

_LISTED = 10  # of each kind in the text


@dataclass(frozen=True)
class MisplacedPhoto:
    """A photo whose neighbours agree with each other on another position than the photo's own, as by a wrong GPS position.

    Attributes:
        row: Its row in the index.
        place: Its place, with the stated position.
        suggested: The position of the agreeing neighbours; `path` is empty.
        distance: Metres between both positions.
        confidence: Probability that the photo was taken near the suggested position, in [0, 1].
        agreeing: Places of the agreeing neighbours, the most similar first.
    """

    row: int
    place: Place
    suggested: Place
    distance: float
    confidence: float
    agreeing: tuple[Place, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the photo as JSON values."""
        return {
            "row": self.row,
            "path": self.place.path,
            **self.place.to_dict(),
            "suggested": self.suggested.to_dict(),
            "distance": self.distance,
            "confidence": self.confidence,
            "agreeing": [place.path for place in self.agreeing],
        }


@dataclass(frozen=True)
class AliasPair:
    """Two photos that look like one place and were taken far apart.

    Attributes:
        first, second: Their places.
        similarity: Cosine similarity of their descriptors.
        probability: Probability that two photos of this map that are so similar show one place, in [0, 1].
        distance: Metres between them.
        confuses: Whether one of the photos resembles the other one more than any photo near itself.
    """

    first: Place
    second: Place
    similarity: float
    probability: float
    distance: float
    confuses: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the pair as JSON values."""
        photos = {name: {"path": place.path, **place.to_dict()} for name, place in vars(self).items() if name in _ENDS}
        return photos | {name: value for name, value in asdict(self).items() if name not in _ENDS}


_ENDS = ("first", "second")


@dataclass(frozen=True)
class Area:
    """A square of the map.

    Attributes:
        frame: Name of the frame of its edges, as of `comparable_coordinates`.
        west, south, east, north: Its edges: degrees on the Earth, else metres of the frame.
        example: Place of one of its photos.
        photos: Number of its photos.
        with_second: Number of photos with another photo near by.
        confirmed: Number of photos with a similar photo near by.
        correct: Number of photos whose most similar other photo is near by.
        ambiguous: Number of photos with a similar photo far away.
        misplaced: Number of photos whose neighbours agree on another position.
    """

    frame: str
    west: float
    south: float
    east: float
    north: float
    example: Place
    photos: int
    with_second: int
    confirmed: int
    correct: int
    ambiguous: int
    misplaced: int

    @property
    def reliability(self) -> float | None:
        """Share of the photos with another photo near by whose most similar photo is near by; `None` if there are none."""
        return self.correct / self.with_second if self.with_second else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the reliability; `None` without photos that it is computed from."""
        return wilson_interval(self.correct, self.with_second) if self.with_second else None

    @property
    def is_sparse(self) -> bool:
        """Whether most photos have no other photo near by."""
        return 2 * self.with_second < self.photos

    def to_dict(self) -> dict[str, Any]:
        """Return the area as JSON values."""
        return {name: value for name, value in vars(self).items() if name != "example"} | {
            "reliability": self.reliability,
            "interval_95": None if self.interval is None else list(self.interval),
            "sparse": self.is_sparse,
        }


@dataclass(frozen=True)
class SimilarityCounts:
    """Numbers of pairs of a photo and one of its most similar photos, by similarity.

    Attributes:
        edges: (B + 1) bounds of the similarities of each bin.
        near: (B) pairs near each other.
        far: (B) pairs far apart.
    """

    edges: tuple[float, ...]
    near: tuple[int, ...]
    far: tuple[int, ...]


@dataclass(frozen=True)
class MapReport:
    """The findings of [`check_map`].

    Attributes:
        index: Folder of the index.
        photos: Number of photos of the map.
        unplaced: Number of photos without a position, which are not checked.
        checked: Number of photos that were checked; fewer than those with a position if only some areas were drawn.
        positive_dist_threshold: Metres within which two photos are near each other.
        far: Metres from which on two photos are far apart.
        area_side: Side of an area in metres.
        min_confidence: Least confidence of a misplaced photo.
        alone: Number of checked photos without another photo near by.
        confirmed: Number of checked photos with a similar photo near by.
        correct: Number of checked photos whose most similar other photo is near by.
        ambiguous: Number of checked photos with a similar photo far away.
        misplaced: Misplaced photos, the surest first.
        pairs: Pairs of similar photos that are far apart, the most similar first; at most 1,000.
        num_pairs: Number of all such pairs.
        areas: All areas, those with the lowest reliability first.
        similarities: Similarities of pairs near each other and far apart.
        not_judged: Reason why similarities of this map mean nothing, so that no photo is called confirmed, ambiguous or
            misplaced; `None` if they do.
    """

    index: str
    photos: int
    unplaced: int
    checked: int
    positive_dist_threshold: float
    far: float
    area_side: float
    min_confidence: float
    alone: int
    confirmed: int
    correct: int
    ambiguous: int
    misplaced: tuple[MisplacedPhoto, ...]
    pairs: tuple[AliasPair, ...]
    num_pairs: int
    areas: tuple[Area, ...]
    similarities: SimilarityCounts
    not_judged: str | None = None

    @property
    def reliability(self) -> float | None:
        """Share of the photos with another photo near by whose most similar photo is near by; `None` if there are none."""
        with_second = self.checked - self.alone
        return self.correct / with_second if with_second else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        names = ("index", "photos", "unplaced", "checked", "positive_dist_threshold", "far", "area_side", "min_confidence")
        counts = ("alone", "confirmed", "correct", "ambiguous", "reliability", "not_judged")
        return {
            **{name: getattr(self, name) for name in (*names, *counts)},
            "misplaced": [photo.to_dict() for photo in self.misplaced],
            "num_pairs": self.num_pairs,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "areas": [area.to_dict() for area in self.areas],
            "similarities": {name: list(values) for name, values in asdict(self.similarities).items()},
        }

    def to_text(self) -> str:
        """Return the counts, and the first findings of each kind, as lines."""
        lines = [self._head(), *self._counts()]
        if self.not_judged is not None:
            lines.append(f"Not judged: {self.not_judged}.")
        lines += _section("Misplaced", len(self.misplaced), [_misplaced_line(photo) for photo in self.misplaced[:_LISTED]])
        lines += _section("Similar and far apart", self.num_pairs, [_pair_line(pair) for pair in self.pairs[:_LISTED]])
        weak = [area for area in self.areas if area.reliability is not None and area.reliability < 1]
        lines += _section("Areas that are not always recognised", len(weak), [_area_line(area) for area in weak[:_LISTED]])
        sparse = [area for area in self.areas if area.is_sparse]
        lines += _section("Sparse areas", len(sparse), [_area_line(area) for area in sparse[:_LISTED]])
        return "\n".join(lines)

    def _head(self) -> str:
        text = f"{self.checked} of {self.photos} photos checked"
        if self.unplaced:
            text += f"; {self.unplaced} have no position"
        drawn = self.photos - self.unplaced - self.checked
        if drawn:
            text += f"; {drawn} are in areas that were not drawn"
        return f"{text}. Near: up to {self.positive_dist_threshold:g} m, far: from {self.far:g} m on."

    def _counts(self) -> list[str]:
        second = self.checked - self.alone
        reliability = "" if self.reliability is None else f" ({100 * self.reliability:.1f} %)"
        lines = [
            f"{self.alone} photos have no other photo near by.",
            f"The most similar other photo is near by for {self.correct} of the {second} others{reliability}.",
        ]
        if self.not_judged is None:
            lines.append(f"{self.confirmed} have a similar photo near by, {self.ambiguous} have a similar photo far away.")
        return lines

    def to_geojson(self) -> str:
        """Return the findings as GeoJSON (RFC 7946).

        Areas are polygons, pairs and misplaced photos are lines, of two parts across the date line; the property `kind` is
        `"area"`, `"pair"` or `"misplaced"`. Findings in a local frame have no geometry.
        """
        features = [_feature("area", _square(area), area.to_dict()) for area in self.areas]
        features += [_feature("pair", _line(pair.first, pair.second), pair.to_dict()) for pair in self.pairs]
        features += [_feature("misplaced", _line(photo.place, photo.suggested), photo.to_dict()) for photo in self.misplaced]
        return json.dumps({"type": "FeatureCollection", "features": features}, indent=2, allow_nan=False)


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, from `count` of `total` (Wilson, 1927); (0, 1) of nothing."""
    if not total:
        return 0.0, 1.0
    z = 1.959964
    share, scale = count / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def _section(title: str, count: int, lines: Sequence[str]) -> list[str]:
    if not count:
        return []
    rest = [f"  and {count - len(lines)} more"] if count > len(lines) else []
    return [f"{title}: {count}", *(f"  {line}" for line in lines), *rest]


def _misplaced_line(photo: MisplacedPhoto) -> str:
    path = printable_line(photo.place.path)
    where = printable_line(position_text(photo.suggested))
    certainty = f"{photo.distance:.0f} m away (confidence {photo.confidence:.3f})"
    return f"{path}: {len(photo.agreeing)} photos agree on {where}, {certainty}"


def _pair_line(pair: AliasPair) -> str:
    paths = f"{printable_line(pair.first.path)} and {printable_line(pair.second.path)}"
    return f"{paths}: similarity {pair.similarity:.3f}, {pair.distance:.0f} m apart"


def _area_line(area: Area) -> str:
    edges = f"{corner_text(area)} to {corner_text(area, is_north_east=True)}"
    if area.frame != EARTH:
        edges += f" in {printable_line(area.frame)}"
    if area.interval is None or area.reliability is None:
        return f"{edges}: {area.photos} photos, none with another photo near by"
    low, high = (100 * edge for edge in area.interval)
    return (
        f"{edges}: {area.correct} of {area.with_second} recognised ({100 * area.reliability:.0f} %, {low:.0f} to {high:.0f}), "
        f"{area.photos - area.with_second} alone, {area.ambiguous} ambiguous, {area.misplaced} misplaced"
    )


def corner_text(area: Area, *, is_north_east: bool = False) -> str:
    """Return the south-west corner of an area, or the other one: degrees with latitude first, or east and north in metres."""
    x, y = (area.east, area.north) if is_north_east else (area.west, area.south)
    return f"{y:.5f}, {x:.5f}" if area.frame == EARTH else f"x {x:g} m, y {y:g} m"


def _feature(kind: str, geometry: dict[str, Any] | None, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"kind": kind, **properties}}


def _line(first: Place, second: Place) -> dict[str, Any] | None:
    ends = [with_degrees(place) for place in (first, second)]
    if any(end.latitude is None or end.longitude is None for end in ends):
        return None
    start, stop = ([end.longitude or 0.0, end.latitude or 0.0] for end in ends)
    if abs(stop[0] - start[0]) <= 180:
        return {"type": "LineString", "coordinates": [start, stop]}
    edge = math.copysign(180.0, start[0])
    to_edge, from_edge = 180 - abs(start[0]), 180 - abs(stop[0])
    latitude = start[1] + (stop[1] - start[1]) * to_edge / max(to_edge + from_edge, 1e-12)
    return {"type": "MultiLineString", "coordinates": [[start, [edge, latitude]], [[-edge, latitude], stop]]}


def _square(area: Area) -> dict[str, Any] | None:
    if area.frame != EARTH:
        return None
    corners = [(area.west, area.south), (area.east, area.south), (area.east, area.north), (area.west, area.north)]
    return {"type": "Polygon", "coordinates": [[list(corner) for corner in (*corners, corners[0])]]}
