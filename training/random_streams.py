"""Random numbers that depend only on their purpose, the run's seed and given numbers, not on earlier draws."""

from enum import IntEnum

import numpy as np
from numpy.random import Generator


class Purpose(IntEnum):
    """The decision that random numbers are drawn for. The values are part of every run's random numbers."""

    ORDER = 0
    SKIPPED_PLACES = 1
    BATCH_ORDER = 2
    HELD_OUT = 3
    WHICH_PHOTOS = 4
    AUGMENTATION = 5
    TEACHER_GROUPS = 6
    PLACE_GEOMETRY = 7
    PHOTO_GEOMETRY = 8
    START_DIRECTION = 9
    SOURCE = 10
    IMAGE_SIZE = 11


def make_rng(purpose: Purpose, seed: int, *numbers: int) -> Generator:
    """Return a generator for a purpose.

    Args:
        purpose: The decision to draw for.
        seed: Seed of the run.
        numbers: Further numbers that distinguish the draws of a purpose, such as epoch and photo.
    """
    return np.random.default_rng([purpose, seed, *numbers])
