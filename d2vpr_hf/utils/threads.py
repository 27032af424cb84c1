"""Parallel work in threads that stay on one core each.

The threads of torch and FAISS wait for each other after every small product, and keep their cores busy while they wait. If
another thread or process uses a core at that moment, a search takes many times as long. The threads here wait only once, at the
end.
torch and FAISS are imported when the first threads start, as they take seconds to load.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def num_cores() -> int:
    """Return the number of threads to use: torch's number, which the user can limit."""
    import torch

    return torch.get_num_threads()


def map_on_cores(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Call a function for each part in threads that stay on one core, and return the results in order.

    A single part is also sent to such a thread, which costs 30 µs: in the calling thread torch would use all its threads. The
    function must not call `map_on_cores` itself.
    """
    return list(_pool(os.getpid(), num_cores()).map(function, parts))


def on_one_core(function: Callable[[], Result]) -> Result:
    """Call a function in a thread that stays on one core; in such a thread, call it at once.

    Use it for many small operations: where other processes kept the cores busy, two threads took six times the CPU time of
    one to render photos (docs/gridtown.md).
    """
    return function() if num_cores() == 1 else _pool(os.getpid(), num_cores()).submit(function).result()


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Start threads once per process: a forked process has the memory of its parent, but not its threads."""
    return single_core_threads(threads)


def single_core_threads(number: int) -> ThreadPoolExecutor:
    """Start threads that stay on one core each."""
    import torch

    usual_threads = num_cores()
    pool = ThreadPoolExecutor(number, "d2vpr", initializer=_stay_on_one_core)
    started = threading.Barrier(number)
    list(pool.map(lambda _: started.wait(), range(number)))
    torch.set_num_threads(usual_threads)  # for threads that start later; the number of the calling thread did not change
    return pool


def _stay_on_one_core() -> None:
    """Keep the libraries from starting threads of their own in this thread."""
    import faiss
    import torch

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    torch.get_num_threads()  # torch resets a thread's number at its first use in the thread: this is the first use
