"""Random numbers that depend on what they are for, and on nothing that happened before."""

from enum import IntEnum

import numpy as np
from numpy.random import Generator


class Purpose(IntEnum):
    """What is drawn."""

    ORDER = 0
    LEFT_OUT = 1
    BATCH_ORDER = 2
    HELD_OUT = 3
    WHICH_PHOTOS = 4
    AUGMENTATION = 5
    TEACHER_GROUPS = 6


def make_rng(purpose: Purpose, seed: int, *numbers: int) -> Generator:
    """Return the generator of a purpose, a run's seed and what else tells draws apart, such as epoch and photo."""
    return np.random.default_rng([purpose, seed, *numbers])
