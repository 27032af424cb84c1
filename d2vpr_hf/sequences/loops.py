"""Loop closure: earlier frames of a trajectory that show the place of the present one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.localization.calibration import Calibration
from d2vpr_hf.localization.localize import PRECISION
from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.geometry import EARTH
from d2vpr_hf.sequences.localizer import SequenceAnswer, SequenceFilter, SequenceSettings
from d2vpr_hf.sequences.map_density import SPACING
from d2vpr_hf.sequences.states import Floats, States
from d2vpr_hf.stores.exact import exact_search, similarity

_FIRST_ROWS = 1024  # rows that are reserved; they double when they are full


@dataclass(frozen=True)
class Loop:
    """A place that was visited before.

    Attributes:
        frame: Number of the present frame, from 0.
        earlier_frame: Number of the earlier frame.
        seconds, earlier_seconds: Their times.
        similarity: Cosine similarity of their descriptors.
        confidence: Probability that the present camera is within the calibration's distance of the earlier one; `None` without
            a calibration.
        num_supporting: Number of frames in a row, this one included, whose loops lead to one stretch of the trajectory.
        verified: Whether these frames are enough.
    """

    frame: int
    earlier_frame: int
    seconds: float
    earlier_seconds: float
    similarity: float
    confidence: float | None
    num_supporting: int
    verified: bool


class LoopDetector:
    """Finds loops frame by frame, among the frames that are old enough.

    Earlier frames are the states of the model of [`SequenceFilter`], by their poses, and "not in the map" is a new place.

    Args:
        exclude_last_seconds: Minimum age of an earlier frame.
        exclude_last_frames: Minimum number of frames between an earlier frame and the present one.
        calibration: Calibration of an index with the same model: it makes confidences of similarities. Without one,
            `min_similarity` decides.
        min_similarity: Without a calibration, the smallest similarity of a loop.
        min_supporting: Number of frames in a row that verify a loop.
        settings: Settings of the model.
        precision: As for [`SequenceLocalizer`].

    Example:
    ```python
    detector = LoopDetector(exclude_last_seconds=30, calibration=load_calibration(index))
    for photo, seconds, x, y in robot:
        loop = detector.add(encoder.encode([photo]).descriptors[0], Place("", x=x, y=y), seconds)
        if loop is not None and loop.verified:
            graph.add_edge(loop.frame, loop.earlier_frame, loop.confidence)
    ```

    Raises:
        ValueError: If a number is out of its range, or there is neither a calibration nor `min_similarity`.
    """

    def __init__(
        self,
        *,
        exclude_last_seconds: float = 30.0,
        exclude_last_frames: int = 0,
        calibration: Calibration | None = None,
        min_similarity: float | None = None,
        min_supporting: int = 3,
        settings: SequenceSettings = SequenceSettings(),  # noqa: B008 - the default is immutable
        precision: float = PRECISION,
    ) -> None:
        if not 0 <= exclude_last_seconds < np.inf or exclude_last_frames < 0 or min_supporting < 1:
            raise ValueError(
                "Expected `exclude_last_seconds` and `exclude_last_frames` of at least 0 and `min_supporting` of at least 1, "
                f"got {exclude_last_seconds}, {exclude_last_frames} and {min_supporting}."
            )
        if (calibration is None) == (min_similarity is None):
            raise ValueError("Give either `calibration`, for confidences, or `min_similarity`.")
        self.exclude_last_seconds, self.exclude_last_frames = exclude_last_seconds, exclude_last_frames
        self.min_similarity, self.min_supporting = min_similarity, min_supporting
        self._trajectory = _Trajectory()
        self._filter = SequenceFilter(self._trajectory, calibration, settings, precision)
        self._last: Loop | None = None

    def add(
        self,
        descriptor: NDArray[np.floating],
        pose: Place,
        seconds: float,
        *,
        metres: float | None = None,
        turn: float | None = None,
    ) -> Loop | None:
        """Add a frame, and return its loop; `None` if the place is new or unsure.

        Args:
            descriptor: (D,) of unit length.
            pose: Position of the camera as the robot knows it, with the drift of its odometry.
            seconds: Time of the frame.
            metres: Metres from the last frame, by odometry.
            turn: Change of the heading from the last frame in degrees, clockwise.

        Raises:
            ValueError: If the pose has no position, or the frame is before the last one.
        """
        if not pose.has_position:
            raise ValueError(f"Frame {len(self._trajectory)} has no position. Give its pose as x and y, or in degrees.")
        matches = self._search(descriptor, seconds)
        top = matches[0].similarity if matches else -np.inf
        if self.min_similarity is not None and top < self.min_similarity:
            matches = []
        answer = self._filter.add_matches(matches, seconds, metres=metres, turn=turn)
        loop = self._loop(answer, matches, seconds)
        self._filter.forget()
        self._trajectory.append(descriptor, pose, seconds)
        self._last = loop
        return loop

    def _search(self, descriptor: NDArray[np.floating], seconds: float) -> list[Match]:
        """Return the most similar frames that are old enough."""
        trajectory = self._trajectory
        count = int(np.searchsorted(trajectory.seconds, seconds - self.exclude_last_seconds, "right"))
        count = min(count, len(trajectory) - self.exclude_last_frames)
        trajectory.num_photos = max(count, 0)
        if count <= 0:
            return []
        distances, rows = exact_search(np.asarray(descriptor)[None], trajectory.descriptors[:count], self._filter.num_searched)
        pairs = zip(rows[0].tolist(), similarity(distances[0]).tolist(), strict=True)
        return [
            Match(rank, row, trajectory.poses[row], Path(), value) for rank, (row, value) in enumerate(pairs, 1) if row >= 0
        ]

    def _loop(self, answer: SequenceAnswer, matches: Sequence[Match], seconds: float) -> Loop | None:
        """Return the loop of an answer: the most similar frame at its position."""
        if answer.place is None:
            return None
        radius = self._filter.radius
        distances = [distance_in_metres(match.place, answer.place) for match in matches]
        near = [match for match, metres in zip(matches, distances, strict=True) if metres is not None and metres <= radius]
        if not near:
            return None
        best = near[0]
        supporting = 1
        if self._last is not None and self._last.frame == len(self._trajectory) - 1:
            earlier = self._trajectory.poses[self._last.earlier_frame]
            moved = distance_in_metres(earlier, best.place)
            reach = self._filter.settings.motion.max_speed * (seconds - self._last.seconds) + radius
            supporting += self._last.num_supporting if moved is not None and moved <= reach else 0
        return Loop(
            frame=len(self._trajectory),
            earlier_frame=best.row,
            seconds=seconds,
            earlier_seconds=float(self._trajectory.seconds[best.row]),
            similarity=best.similarity,
            confidence=answer.confidence,
            num_supporting=supporting,
            verified=supporting >= self.min_supporting,
        )


class _Trajectory:
    """The frames so far, as a map that grows; the first `num_photos` of them are old enough."""

    def __init__(self) -> None:
        self.poses: list[Place] = []
        self.num_photos = 0
        self._descriptors = np.empty((0, 0), np.float32)
        self._seconds, self._points = np.empty(0), np.empty((0, 3))
        self._frames = np.empty(0, object)

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def spacing(self) -> float:
        """Usual distance between positions; frames of a robot are close."""
        return SPACING[0]

    @property
    def descriptors(self) -> NDArray[np.float32]:
        """The descriptors (N, D)."""
        return self._descriptors[: len(self)]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The times (N,)."""
        return self._seconds[: len(self)]

    def count(self, states: States, radii: NDArray[np.float64]) -> Floats:
        """Return the number of frames within a radius (S,) of each state, at least 1."""
        steps = states.points[:, None] - self._points[None, : self.num_photos]
        steps[states.frames != EARTH, :, 2] = 0.0  # flat frames: heights may not be known
        is_near = np.linalg.norm(steps, axis=-1) <= radii[:, None]
        is_near &= states.frames[:, None] == self._frames[None, : self.num_photos]
        return np.maximum(is_near.sum(axis=1), 1.0)

    def append(self, descriptor: NDArray[np.floating], pose: Place, seconds: float) -> None:
        """Add a frame."""
        number, state = len(self), States.of_places([pose])
        if number == len(self._seconds):
            count = max(_FIRST_ROWS, 2 * number)
            self._descriptors = _grow(self._descriptors, (count, len(descriptor)))
            self._seconds, self._points = _grow(self._seconds, (count,)), _grow(self._points, (count, 3))
            self._frames = _grow(self._frames, (count,))
        self._descriptors[number], self._seconds[number] = descriptor, seconds
        self._points[number], self._frames[number] = state.points[0], state.frames[0]
        self.poses.append(pose)


def _grow(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array of a larger shape that begins with the rows."""
    grown = np.zeros(shape, rows.dtype)
    if len(rows):
        grown[: len(rows)] = rows
    return grown
