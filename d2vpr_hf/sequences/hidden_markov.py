"""Forward-backward and Viterbi for a hidden Markov model whose states differ from frame to frame.

All numbers are natural logarithms. A transition (S, T) leads from the S states of a frame to the T states of the next one; its
rows need not sum to 1, and neither need the emissions of a frame: a factor that all states share changes no result.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.float64]


def normalise(logs: Logs) -> Logs:
    """Return logarithms (S,) of probabilities that sum to 1.

    Raises:
        ValueError: If all of them are -inf.
    """
    largest = logs.max()
    if not np.isfinite(largest):
        raise ValueError("No state is possible: all of its probabilities are 0.")
    return np.asarray(logs - largest - np.log(np.exp(logs - largest).sum()))


def forward_step(belief: Logs, transition: Logs, emission: Logs) -> Logs:
    """Return the belief (T,) after a frame, from that before it (S,), the transition (S, T) and the emission (T,)."""
    return normalise(_sum_rows(belief[:, None] + transition) + emission)


def smooth(beliefs: Sequence[Logs], transitions: Sequence[Logs], emissions: Sequence[Logs]) -> list[Logs]:
    """Return the posterior of the states of each frame, given all frames (forward-backward).

    Args:
        beliefs: The belief of each of F frames, from [`forward_step`].
        transitions: The transitions between them, F - 1.
        emissions: The emission of each frame.
    """
    posteriors: list[Logs] = []
    later = np.zeros_like(beliefs[-1])
    for number in reversed(range(len(beliefs))):
        if number < len(transitions):
            message = _sum_rows((transitions[number] + (emissions[number + 1] + later)).T)
            later = message - message.max()
        posteriors.append(normalise(beliefs[number] + later))
    return posteriors[::-1]


def best_path(belief: Logs, transitions: Sequence[Logs], emissions: Sequence[Logs]) -> list[int]:
    """Return the most probable sequence of states, as the number of the state of each frame (Viterbi).

    Args:
        belief: The belief (S,) of the first frame.
        transitions: The transitions between the F frames, F - 1.
        emissions: The emission of each frame after the first, F - 1.
    """
    scores = belief
    origins: list[NDArray[np.intp]] = []
    for transition, emission in zip(transitions, emissions, strict=True):
        paths = scores[:, None] + transition
        origins.append(paths.argmax(axis=0))
        scores = paths.max(axis=0) + emission
    path = [int(scores.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return path[::-1]


def _sum_rows(logs: Logs) -> Logs:
    """Return the logarithm of the sum over the first axis, (S, T) -> (T,)."""
    largest = logs.max(axis=0)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(logs - shift).sum(axis=0)) + shift)
