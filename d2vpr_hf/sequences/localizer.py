"""Localization of a sequence of frames, frame by frame or with all frames at once.

A hidden Markov model with a state for "not in the map", as in Xu et al., "Probabilistic appearance-invariant topometric
localization with new place awareness", IEEE RA-L 2021 (arXiv 2107.07707), but over the matches of each frame instead of all
places of the map, and with the confidences of a calibration as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from d2vpr_hf.evaluation.indexed_photos import IndexColumns
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.localization.calibration import Calibration, radius_of
from d2vpr_hf.localization.consensus import mean_place
from d2vpr_hf.localization.localize import NO_MATCHES, NO_POSITIONS, NOT_CALIBRATED, PRECISION, Localization, localize
from d2vpr_hf.places import distance_in_metres
from d2vpr_hf.places.geometry import frame_points
from d2vpr_hf.sequences.evidence import LEAST_CONFIDENCE, Evidence, frame_evidence, repeated_share
from d2vpr_hf.sequences.hidden_markov import Logs, best_path, forward_step, normalise, smooth
from d2vpr_hf.sequences.map_density import Density, MapDensity
from d2vpr_hf.sequences.motion import Motion, Step
from d2vpr_hf.sequences.states import States, state_distances

_WIDEST = 4.0  # spread, in spacings of the map, beyond which a position without matches is given up
_NEIGHBOURS = 20  # frames before and after a frame whose confidences alone count for its answer
_LEAST_STAY = 0.02  # probability that a movement ends at a photo that is not among the matches


@dataclass(frozen=True)
class SequenceSettings:
    """Settings of the hidden Markov model.

    Attributes:
        motion: Limits of the movement.
        frame_interval: Seconds between frames whose times are not known.
        outside_share: Share of frames that are expected outside the map.
        stretch: Metres of travel after which half of the stretches inside or outside the map have ended.
        jump: Probability that the next frame is anywhere in the map, such as after a cut in a video.
        evidence: Exponent of the new share of a frame's evidence; frames near each other repeat evidence.
        least_evidence: Smallest weight of a frame's evidence.
        num_matches: Number of matches of each frame that are states.
        num_carried: Number of positions that are followed without a match.
        slope, agreement, bias: Recalibration of the confidence, from [`fit_recalibration`]: its log odds are `slope` times
            those of the model, plus `agreement` times the mean log odds of its neighbours' confidences alone, plus `bias`.
            Errors of frames of one street depend on each other, so that the model is too sure. A single frame is not
            recalibrated.
    """

    motion: Motion = Motion()
    frame_interval: float = 1.0
    outside_share: float = 0.3
    stretch: float = 200.0
    jump: float = 1e-3
    evidence: float = 1.0
    least_evidence: float = 0.05
    num_matches: int = 20
    num_carried: int = 10
    slope: float = 0.33
    agreement: float = 0.98
    bias: float = 0.04

    def __post_init__(self) -> None:
        for name in ("outside_share", "jump"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` between 0 and 1, got {getattr(self, name)}.")
        for name in ("frame_interval", "stretch", "evidence", "num_matches"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Expected `{name}` above 0, got {getattr(self, name)}.")


@dataclass(frozen=True)
class SequenceAnswer(Localization):
    """The answer for one frame of a sequence: a [`Localization`] with the share that the sequence has in it.

    Attributes:
        seconds: Time of the frame, in seconds since 1970 or since the first frame; `None` for a frame that was skipped.
        confidence_alone: Confidence of the frame's own estimate; `None` without a calibration.
        changed: Whether the answer differs from that of the frame alone: another position (by more than 25 m), a position
            instead of no match, or the reverse. `None` for a frame that was skipped.
    """

    columns: ClassVar[tuple[str, ...]] = (*Localization.columns, "seconds", "confidence_alone", "changed")

    seconds: float | None = None
    confidence_alone: float | None = None
    changed: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        values = {"seconds": self.seconds, "confidence_alone": self.confidence_alone, "changed": self.changed}
        return super().to_dict() | values

    @classmethod
    def of_frame(cls, localization: Localization, **values: Any) -> SequenceAnswer:
        """Make the answer of a sequence from one of a frame, with other values."""
        own = {field.name: getattr(localization, field.name) for field in fields(Localization)}
        return cls(**(own | values))


@dataclass(frozen=True)
class _Frame:
    """A frame with its states: those of its matches, then those that are carried on, then "not in the map".

    Attributes:
        query: Path of the photo.
        matches: Its matches.
        seconds: Its time.
        alone: The answer for the frame alone.
        confidence_alone: Confidence of this answer.
        states: The S positions.
        log_emission: (S + 1,) logarithms.
        log_transition: (R + 1, S + 1) from the states of the frame before; `None` for the first.
        belief: (S + 1,) logarithm of the probabilities, given the frames up to this one.
    """

    query: str
    matches: tuple[Match, ...]
    seconds: float
    alone: Localization
    confidence_alone: float | None
    states: States
    log_emission: Logs
    log_transition: Logs | None
    belief: Logs


class SequenceFilter:
    """The hidden Markov model over the matches of frames, from any map. Frames are added in the order of their times.

    Args:
        density: The positions of the map.
        calibration: As for [`SequenceLocalizer`].
        settings: As for [`SequenceLocalizer`].
        precision: As for [`SequenceLocalizer`].
    """

    def __init__(
        self,
        density: Density,
        calibration: Calibration | None = None,
        settings: SequenceSettings = SequenceSettings(),
        precision: float = PRECISION,
    ) -> None:
        self.density, self.calibration = density, calibration
        self.settings, self.precision = settings, precision
        self._frames: list[_Frame | SequenceAnswer] = []  # an answer for each frame that was skipped
        self._pending: Step | None = None  # movement since the last frame with states, over frames that were skipped
        self._seconds: float | None = None

    @property
    def radius(self) -> float:
        """Metres within which a position is correct."""
        return radius_of(self.calibration)

    def add_matches(
        self,
        matches: Sequence[Match],
        seconds: float | None = None,
        *,
        metres: float | None = None,
        turn: float | None = None,
        query: str = "",
    ) -> SequenceAnswer:
        """Add a frame by its matches, and return its answer, given the frames up to this one.

        Args:
            matches: Matches of the frame, the most similar first.
            seconds: Time of the frame; `None` for `frame_interval` after the last one.
            metres: Metres from the last frame to this one, by odometry.
            turn: Change of the heading from the last frame to this one in degrees, clockwise.
            query: Path of the photo.

        Raises:
            ValueError: If a time is before that of the last frame, or a number is not finite.
        """
        seconds = self._move_on(seconds, metres, turn)
        settings = self.settings
        evidence = frame_evidence(
            matches, self.calibration, self.density.num_photos, settings.outside_share, settings.num_matches
        )
        if evidence is None:
            answer = SequenceAnswer(query, note=NO_POSITIONS if matches else NO_MATCHES, matches=tuple(matches))
            self._frames.append(answer)
            return answer
        frame = self._make_frame(query, tuple(matches), seconds, evidence)
        self._frames.append(frame)
        self._pending = None
        return self._answer(frame, frame.belief, self._recent_log_odds())

    def skip(
        self,
        error: str,
        seconds: float | None = None,
        *,
        metres: float | None = None,
        turn: float | None = None,
        query: str = "",
    ) -> SequenceAnswer:
        """Add a frame without a usable photo: time and odometry continue over it.

        Args:
            error: Reason why the photo is not usable.
            seconds: As for [`add_matches`].
            metres: As for [`add_matches`].
            turn: As for [`add_matches`].
            query: As for [`add_matches`].
        """
        self._move_on(seconds, metres, turn)
        answer = SequenceAnswer(query, error=error)
        self._frames.append(answer)
        return answer

    def smooth(self) -> list[SequenceAnswer]:
        """Return the answers for all frames, each given all frames (forward-backward)."""
        placed = self._placed
        if not placed:
            return [frame for frame in self._frames if isinstance(frame, SequenceAnswer)]
        log_odds = iter(_local_means([_log_odds(frame) for frame in placed]))
        beliefs, emissions = [frame.belief for frame in placed], [frame.log_emission for frame in placed]
        posteriors = iter(smooth(beliefs, _transitions(placed), emissions))
        return [
            self._answer(frame, next(posteriors), next(log_odds)) if isinstance(frame, _Frame) else frame
            for frame in self._frames
        ]

    def best_path(self) -> list[Match | None]:
        """Return the match of each usable frame on the most probable path of all (Viterbi); `None` without one there."""
        placed = self._placed
        if not placed:
            return []
        later = [frame.log_emission for frame in placed[1:]]
        path = best_path(placed[0].belief, _transitions(placed), later)
        count = self.settings.num_matches
        matched = [[match for match in frame.matches if match.place.has_position][:count] for frame in placed]
        return [matches[state] if state < len(matches) else None for matches, state in zip(matched, path, strict=True)]

    @property
    def num_searched(self) -> int:
        """The number of matches that each frame needs."""
        return num_searched(self.settings, self.calibration)

    def forget(self) -> None:
        """Drop all frames but the last usable ones, which the next frame needs: for a robot that never smooths."""
        self._frames = list(self._placed[-_NEIGHBOURS:])

    @property
    def _placed(self) -> list[_Frame]:
        """The frames with states."""
        return [frame for frame in self._frames if isinstance(frame, _Frame)]

    # ---- adding a frame

    def _move_on(self, seconds: float | None, metres: float | None, turn: float | None) -> float:
        """Record the movement to a frame, and return its time."""
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError(f"Expected the time of a frame as a finite number of seconds, got {seconds}.")
        if self._seconds is None:
            self._seconds = 0.0 if seconds is None else seconds
            return self._seconds
        now = self._seconds + self.settings.frame_interval if seconds is None else seconds
        step = Step(now - self._seconds, metres, turn)
        self._pending = step if self._pending is None else self._pending.then(step)
        self._seconds = now
        return now

    def _make_frame(self, query: str, matches: tuple[Match, ...], seconds: float, evidence: Evidence) -> _Frame:
        last = next((frame for frame in reversed(self._frames) if isinstance(frame, _Frame)), None)
        states, emission = evidence.states, evidence.log_emission
        if last is None:
            emission = np.append(emission, evidence.log_nowhere)
            prior, transition = self._prior(len(states)), None
            belief = normalise(prior + emission)
        else:
            step = self._pending or Step(0.0)
            rows, carried = self._carry(last, step)
            weight = self._weight(matches, last)
            transition = self._transition(last, rows, states, carried, step, weight)
            unseen = np.full(len(carried), evidence.log_unseen)
            emission = weight * np.concatenate([emission, unseen, [evidence.log_nowhere]])
            states = states.join(carried)
            belief = forward_step(last.belief, transition, emission)
        alone = localize(matches, self.calibration, query, self.precision)
        confidence = None if self.calibration is None else evidence.confidence
        return _Frame(query, matches, seconds, alone, confidence, states, emission, transition, belief)

    def _weight(self, matches: Sequence[Match], last: _Frame) -> float:
        """Return the exponent of the evidence of a frame: the smaller, the more of it repeats the frame before."""
        repeated = repeated_share(matches, last.matches)
        return max(self.settings.least_evidence, (1 - repeated) ** self.settings.evidence)

    def _prior(self, count: int) -> Logs:
        """Return the logarithms (count + 1,) of the probabilities before the first frame."""
        outside = self.settings.outside_share
        photos = np.full(count, math.log((1 - outside) / self.density.num_photos))
        return np.append(photos, math.log(outside))

    def _carry(self, last: _Frame, step: Step) -> tuple[NDArray[np.int64], States]:
        """Return rows of the last frame's states that are followed, and these states after the movement."""
        order = np.argsort(-last.belief[:-1], kind="stable")[: self.settings.num_carried]
        chosen = last.states.take(order)
        motion = self.settings.motion
        if step.metres is not None and motion.camera_direction is not None:
            moved = chosen.move(step.metres, step.turn or 0.0, motion.camera_direction)
            moved = moved.widen(motion.scale_error * abs(step.metres))
        else:
            moved = chosen.widen(motion.reach(step))
        rows = np.flatnonzero(moved.spreads <= _WIDEST * self.density.spacing)
        return order[rows], moved.take(rows)

    def _transition(
        self, last: _Frame, rows: NDArray[np.int64], states: States, carried: States, step: Step, weight: float
    ) -> Logs:
        """Return the logarithms (R + 1, S + 1) of the probabilities of movements from the states of the last frame.

        The number of photos that share a movement has the weight of the frame's evidence: a frame that repeats the one before
        shows neither where the camera is nor where it moved.
        """
        leave, enter = self._crossings(step)
        fits, log_counts = self.settings.motion.log_moves(last.states, states, step, self.density)
        jump, num_photos = self.settings.jump, self.density.num_photos
        inside = (1 - leave) * ((1 - jump) * np.exp(fits - weight * log_counts[:, None]) + jump / num_photos)
        stays = np.zeros((len(last.states), len(carried)))
        unmatched = np.maximum(_LEAST_STAY, 1 - np.exp(fits[rows] - log_counts[rows, None]).sum(axis=1))
        stays[rows, np.arange(len(rows))] = (1 - leave) * (1 - jump) * unmatched
        top = np.concatenate([inside, stays, np.full((len(last.states), 1), leave)], axis=1)
        bottom = np.concatenate([np.full(len(states), enter / num_photos), np.zeros(len(carried)), [1 - enter]])
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.vstack([top, bottom])))

    def _crossings(self, step: Step) -> tuple[float, float]:
        """Return the probabilities to leave and to enter the map during a movement."""
        metres = max(self.settings.motion.reach(step), 1.0)
        crossed = 1 - 0.5 ** (metres / self.settings.stretch)
        outside = self.settings.outside_share
        return crossed * outside, crossed * (1 - outside)

    # ---- answers

    def _recent_log_odds(self) -> float | None:
        """Return the mean log odds of the confidences alone of the latest frames; `None` for a single one."""
        latest = [frame for frame in self._frames[-_NEIGHBOURS:] if isinstance(frame, _Frame)]
        return float(np.mean([_log_odds(frame) for frame in latest])) if len(latest) > 1 else None

    def _answer(self, frame: _Frame, logs: Logs, log_odds: float | None) -> SequenceAnswer:
        """Return the answer for a frame from the probabilities of its states, and the mean log odds of its neighbours."""
        probabilities = np.exp(logs[:-1]) * np.minimum(1.0, self.radius / np.maximum(frame.states.spreads, 1e-9))
        is_near = state_distances(frame.states, frame.states) <= self.radius
        support = is_near @ probabilities
        best = int(np.argmax(support))
        near = np.flatnonzero(is_near[best] & (probabilities > 0))
        places = [frame.states.places[row] for row in near.tolist()]
        values: dict[str, Any] = {
            "matches": frame.matches,
            "seconds": frame.seconds,
            "confidence_alone": frame.confidence_alone,
        }
        if not len(near):
            return SequenceAnswer(frame.query, confidence=0.0, no_match=True, changed=not frame.alone.no_match, **values)
        place = mean_place(places, frame_points(places), np.arange(len(near)), probabilities[near])
        if self.calibration is None:
            answer = Localization(frame.query, place, note=NOT_CALIBRATED)
        else:
            confidence = self._recalibrate(float(support[best]), log_odds)
            if confidence < min(self.calibration.threshold(self.precision), self.precision):
                answer = Localization(frame.query, confidence=confidence, no_match=True)
            else:
                radius = self.calibration.radius_90(confidence)
                answer = Localization(frame.query, place, radius, confidence, no_match=False)
        return SequenceAnswer.of_frame(answer, changed=self._has_changed(answer, frame.alone), **values)

    def _recalibrate(self, confidence: float, log_odds: float | None) -> float:
        """Return the confidence with other log odds; see [`SequenceSettings`]."""
        if log_odds is None:
            return min(confidence, 1.0)
        settings = self.settings
        own = float(logit(np.clip(confidence, LEAST_CONFIDENCE, 1 - LEAST_CONFIDENCE)))
        return float(expit(settings.slope * own + settings.agreement * log_odds + settings.bias))

    def _has_changed(self, answer: Localization, alone: Localization) -> bool:
        """Return whether an answer differs from another one: no match, or a position elsewhere."""
        if answer.place is None or alone.place is None:
            return (answer.place is None) != (alone.place is None)
        distance = distance_in_metres(answer.place, alone.place)
        return distance is None or distance > self.radius


class SequenceLocalizer(SequenceFilter):
    """Localizes the frames of a sequence. Frames are added one by one, in the order of their times.

    Args:
        index: The map.
        calibration: Calibration of the index; without one, answers have neither confidence nor radius, and "not in the map" is
            never an answer.
        settings: Settings of the model.
        precision: As for [`localize`]: a position whose confidence is below both this share and the calibration's threshold
            for it is not an answer.

    Example:
    ```python
    localizer = SequenceLocalizer(index, load_calibration(index, encoder))
    for photo, seconds in robot:
        descriptor = encoder.encode([photo]).descriptors[0]
        answer = localizer.add(descriptor, seconds)  # what is known now
    answers = localizer.smooth()  # with all frames, also later ones
    ```
    """

    def __init__(
        self,
        index: PlaceIndex,
        calibration: Calibration | None = None,
        settings: SequenceSettings = SequenceSettings(),
        precision: float = PRECISION,
    ) -> None:
        super().__init__(MapDensity(IndexColumns(index.places)), calibration, settings, precision)
        self.index = index

    def add(
        self,
        descriptor: NDArray[np.floating],
        seconds: float | None = None,
        *,
        metres: float | None = None,
        turn: float | None = None,
        query: str = "",
    ) -> SequenceAnswer:
        """Search the map with the descriptor of a frame, and add the frame; arguments as for [`add_matches`]."""
        matches = self.index.search(descriptor, self.num_searched)[0]
        return self.add_matches(matches, seconds, metres=metres, turn=turn, query=query)


def _transitions(frames: Sequence[_Frame]) -> list[Logs]:
    """Return the transitions between frames; that from a forgotten frame is not among them."""
    return [frame.log_transition for frame in frames[1:] if frame.log_transition is not None]


def _log_odds(frame: _Frame) -> float:
    """Return the log odds of the confidence of a frame alone; 0 without a calibration."""
    return 0.0 if frame.confidence_alone is None else float(logit(frame.confidence_alone))


def _local_means(values: Sequence[float]) -> list[float | None]:
    """Return the mean of each value and its neighbours on both sides; `None` for a single value."""
    if len(values) < 2:
        return [None] * len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    numbers = np.arange(len(values))
    starts, stops = np.maximum(numbers - _NEIGHBOURS, 0), np.minimum(numbers + _NEIGHBOURS + 1, len(values))
    return ((sums[stops] - sums[starts]) / (stops - starts)).tolist()


def num_searched(settings: SequenceSettings, calibration: Calibration | None) -> int:
    """Return the number of matches that each frame of a sequence needs."""
    return max(settings.num_matches, 0 if calibration is None else calibration.num_matches)
