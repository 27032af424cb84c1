"""Peak memory of a process, for several benchmarks."""

import resource


def peak_gigabytes() -> float:
    """Return the largest resident set of this process so far, in GB (1e9 bytes). Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
