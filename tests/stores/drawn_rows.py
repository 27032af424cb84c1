"""Drawn descriptors, also such that many are equally near."""

import math

import numpy as np


def draw(count, width, seed=0):
    rng = np.random.default_rng(seed)
    places = np.repeat(rng.standard_normal((math.ceil(count / 10), width)), 10, axis=0)[:count]
    values = places + 0.6 * rng.standard_normal((count, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def equal_rows(count, scattered=False):
    """Return 600 descriptors (600, 32), of which `count` are equal: black frames, bursts, copies."""
    rng = np.random.default_rng(2)
    rows = unit(rng.standard_normal((600, 32)))
    rows[rng.permutation(600)[:count] if scattered else np.arange(50, 50 + count)] = rows[50]
    return rows


def rows_of_few_values(values, width):
    """Return 600 descriptors of whole numbers, which are equally far from many rows that are not equal to each other."""
    return unit(np.random.default_rng(3).choice(values, (600, width)).astype(np.float32))


TIES = {
    "40 copies": lambda: equal_rows(40),
    "300 copies among others": lambda: equal_rows(300, scattered=True),
    "almost copies": lambda: unit(equal_rows(300) + 1e-6 * np.random.default_rng(4).standard_normal((600, 32))),
    "one photo": lambda: np.repeat(equal_rows(1)[:1], 600, axis=0),
    "signs": lambda: rows_of_few_values([-1, 1], 6),
    "axes": lambda: np.eye(32, dtype=np.float32)[np.arange(600) % 32],
    "half precision": lambda: equal_rows(300, scattered=True).astype(np.float16),
    "long": lambda: 100 * equal_rows(300),
}
