"""The motion prior: probabilities of movements between positions, from time, odometry and directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2vpr_hf.sequences.map_density import Density
from d2vpr_hf.sequences.states import Floats, States, bearings, state_distances

_TURN_SPREAD = 45.0  # degrees; maps often have four views of a position
_LEAST_AGREEMENT = 0.05  # of headings: the best match may have another view of the same position


@dataclass(frozen=True)
class Step:
    """The movement between two frames.

    Attributes:
        seconds: Time between them.
        metres: Distance of the odometry; `None` if it is not known.
        turn: Change of the heading in degrees, clockwise; `None` if it is not known.
    """

    seconds: float
    metres: float | None = None
    turn: float | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "metres", "turn"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise ValueError(f"Expected `{name}` of a step as a finite number, got {value}.")
        if self.seconds < 0:
            raise ValueError(f"Frames must be in the order of their times; a frame is {-self.seconds} seconds before the last.")

    def then(self, later: Step) -> Step:
        """Return both movements as one; odometry that one of them lacks is not known."""
        metres = None if self.metres is None or later.metres is None else self.metres + later.metres
        turn = None if self.turn is None or later.turn is None else self.turn + later.turn
        return Step(self.seconds + later.seconds, metres, turn)


@dataclass(frozen=True)
class Motion:
    """Limits of the movement of the camera.

    Attributes:
        max_speed: Metres a second.
        scale_error: Usual error of the odometry's metres, as a share of them.
        camera_direction: Degrees from the direction of travel to that of the camera, clockwise: 0 for a camera that looks
            forward; `None` if it is not known, or changes.
    """

    max_speed: float = 20.0
    scale_error: float = 0.2
    camera_direction: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.max_speed < np.inf:
            raise ValueError(f"Expected `max_speed` above 0 metres a second, got {self.max_speed}.")
        if not 0 <= self.scale_error <= 1:
            raise ValueError(f"Expected `scale_error` within 0 and 1, got {self.scale_error}.")
        if self.camera_direction is not None and not -360 <= self.camera_direction <= 360:
            raise ValueError(f"Expected `camera_direction` in degrees within -360 and 360, got {self.camera_direction}.")

    def reach(self, step: Step) -> float:
        """Return the largest distance in metres of a movement."""
        return self.max_speed * step.seconds if step.metres is None else abs(step.metres)

    def log_moves(self, first: States, second: States, step: Step, density: Density) -> tuple[Floats, Floats]:
        """Return how well movements fit, and the number of photos that share them, both as logarithms.

        Args:
            first: S states.
            second: T states of the next frame.
            step: The movement between the frames.
            density: The positions of the map.

        Returns:
            (S, T), at most 0, for the movement from each state to each state of the next frame; and (S,), for the number of
            photos of the map that the movement may reach. The difference is the probability of the movement.
        """
        distances = state_distances(first, second)
        slack = np.hypot(density.spacing, first.spreads)
        reach = self.reach(step)
        if step.metres is None:
            misses = np.maximum(0.0, distances - reach)
            counts = density.count(first, reach + slack)
        else:
            slack = np.hypot(slack, self.scale_error * reach)
            misses = distances - reach
            inner = reach - slack
            counts = density.count(first, reach + slack)
            counts -= np.where(inner > 0, density.count(first, np.maximum(inner, 0.0)), 0.0)
        fits = -0.5 * (misses / slack[:, None]) ** 2
        fits += self._log_directions(first, second, step, distances, density.spacing)
        return fits, np.log(np.maximum(counts, 1.0))

    def _log_directions(self, first: States, second: States, step: Step, distances: Floats, spacing: float) -> Floats:
        """Return the logarithm (S, T) of the agreement of headings with the turn, and of movements with the camera."""
        logs = np.zeros(distances.shape)
        if step.turn is not None:
            logs += _log_agreement(second.headings[None] - first.headings[:, None] - step.turn)
        if self.camera_direction is not None:
            angles = bearings(first, second) + self.camera_direction - first.directions[:, None]
            angles[distances < 2 * spacing] = np.nan  # the bearing of neighbouring photos is not that of the movement
            logs += _log_agreement(angles)
        return logs


def _log_agreement(angles: Floats) -> Floats:
    """Return the logarithm of the agreement of two directions, from the angle between them; 0 for unknown ones."""
    wrapped = np.nan_to_num((angles + 180.0) % 360.0 - 180.0, nan=0.0)
    agreement = np.exp(-0.5 * (wrapped / _TURN_SPREAD) ** 2)
    return np.log((1 - _LEAST_AGREEMENT) * agreement + _LEAST_AGREEMENT)
