"""Time and memory of finding the positives of 1,000 queries among 2.8 million database photos, the number in SF-XL's test set.

    python benchmarks/positives.py [--database 2800000] [--queries 1000] [--heading-tolerance 45]

Positions are drawn: twelve photos with different headings at each of many random points of 170 square kilometres, and queries
within 20 m of such points. A sample of queries is checked against distances to all photos.
"""

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray
from peak_memory import peak_gigabytes

from d2vpr_hf import PhotoSet, PositiveRule

SIDE = 13_000  # metres
PER_POINT = 12


def draw_world(num_database: int, num_queries: int) -> tuple[PhotoSet, PhotoSet]:
    """Draw database and queries from a fixed seed."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, SIDE, (math.ceil(num_database / PER_POINT), 2))
    headings = np.tile(np.arange(PER_POINT) * 360.0 / PER_POINT, len(points))[:num_database]
    database = PhotoSet(np.repeat(points, PER_POINT, axis=0)[:num_database], headings)
    near = points[rng.integers(len(points), size=num_queries)] + rng.uniform(-14, 14, (num_queries, 2))
    return database, PhotoSet(near, rng.uniform(0, 360, num_queries))


def check(database: PhotoSet, queries: PhotoSet, rule: PositiveRule, rows_of: list[NDArray[np.int64]]) -> None:
    """Compare the positives of the first 20 queries with their definition."""
    for query, rows in enumerate(rows_of[:20]):
        is_positive = np.hypot(*(database.positions - queries.positions[query]).T) <= rule.positive_dist_threshold
        if rule.heading_tolerance is not None:
            turn = np.abs((database.headings - queries.headings[query] + 180) % 360 - 180)
            is_positive &= turn <= rule.heading_tolerance
        assert np.array_equal(np.sort(rows), np.flatnonzero(is_positive))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=int, default=2_800_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--heading-tolerance", type=float)
    arguments = parser.parse_args()
    database, queries = draw_world(arguments.database, arguments.queries)
    before, start = peak_gigabytes(), time.perf_counter()
    rule = PositiveRule(heading_tolerance=arguments.heading_tolerance)
    positives = rule.find(database, queries)
    built = time.perf_counter()
    rows_of = [positives[query] for query in range(len(positives))]
    done, peak = time.perf_counter(), peak_gigabytes()
    check(database, queries, rule, rows_of)
    print(f"{arguments.queries:,} queries, {arguments.database:,} database photos, positives {rule}")
    print(f"{done - start:.2f} s ({built - start:.2f} s of them for the tree), {sum(map(len, rows_of)):,} positives")
    print(f"peak memory {peak:.2f} GB, {before:.2f} GB of it before the search for positives")


if __name__ == "__main__":
    main()
