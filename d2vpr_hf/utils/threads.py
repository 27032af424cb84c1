"""Work in parallel by threads that stay on one core each.

The libraries' own threads wait for each other after every small product, and spin while they wait. Where another library's
threads, or another process, hold a core at that moment, a search takes many times as long. Here threads meet once, at the end.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import faiss
import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def num_cores() -> int:
    """Return how many threads to use: as many as torch does, which the user may have limited."""
    return torch.get_num_threads()


def map_on_cores(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Call a function for each part, in threads that stay on one core, and return what came, in order.

    A single part goes to such a thread too: it takes 30 µs, and the libraries' threads would meet for it. The function must not
    call `map_on_cores` itself.
    """
    return list(_pool(os.getpid(), num_cores()).map(function, parts))


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Start threads once for a process: a fork has its parent's memory, not its threads."""
    return single_core_threads(threads)


def single_core_threads(number: int) -> ThreadPoolExecutor:
    """Start threads that stay on one core each."""
    usual = num_cores()
    pool = ThreadPoolExecutor(number, "d2vpr", initializer=_stay_on_one_core)
    started = threading.Barrier(number)
    list(pool.map(lambda _: started.wait(), range(number)))
    torch.set_num_threads(usual)  # for threads that start later; the caller's number never changed
    return pool


def _stay_on_one_core() -> None:
    """Keep the libraries from starting threads of their own in this thread."""
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread's first use of torch resets its number: let it be over
