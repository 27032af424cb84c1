"""Parallel work in threads that stay on one core each.

The threads of torch and FAISS wait for each other after every small product, and keep their cores busy while they wait. If
another thread or process uses a core at that moment, a search takes many times as long. The threads here wait only once, at the
end.
torch and FAISS are limited where the program has imported them: they take seconds to load, and not every program needs both.
"""

import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from d2vpr_hf.utils.light_imports import loaded_torch

Part = TypeVar("Part")
Result = TypeVar("Result")
_Parameters = ParamSpec("_Parameters")

_this_thread = threading.local()  # `libraries`: names of the libraries that stay on one core in this thread
_LIMITING_TORCH = threading.Lock()


def num_cores() -> int:
    """Return the number of threads to use, which the user can limit: torch's number, or the same number without torch.

    In a thread that stays on one core it is 1.
    """
    if hasattr(_this_thread, "libraries"):
        return 1
    torch = loaded_torch()
    return _usable_cores() if torch is None else torch.get_num_threads()


def _usable_cores() -> int:
    """Return the number of this process's cores, or a smaller one in `OMP_NUM_THREADS` or `MKL_NUM_THREADS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        limit = re.match(r"\s*\+?0*([1-9]\d*)", os.environ.get(name, ""))  # of `OMP_NUM_THREADS=4,2` the first counts
        if limit is not None:
            return min(int(limit[1]), cores)
    return cores


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
    """Return threads that stay on one core each, also if the program imports torch or FAISS after they have started."""
    return _SingleCoreThreads(number, "d2vpr")


class _SingleCoreThreads(ThreadPoolExecutor):
    """Threads that limit the libraries before each call, as far as these were imported since the last one."""

    def submit(
        self, function: Callable[_Parameters, Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> Future[Result]:
        """Call a function in a thread; `map` uses this method too."""
        return super().submit(functools.partial(_call_on_one_core, function, *args, **kwargs))


def _call_on_one_core(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Call a function while the libraries start no threads of their own in this thread."""
    if not hasattr(_this_thread, "libraries"):
        _this_thread.libraries = set()
    for name, limit in (("faiss", _limit_faiss), ("torch", _limit_torch)):
        if name not in _this_thread.libraries and sys.modules.get(name) is not None:
            limit()
            _this_thread.libraries.add(name)
    return function(*args, **kwargs)


def _limit_faiss() -> None:
    import faiss

    faiss.omp_set_num_threads(1)


def _limit_torch() -> None:
    """Keep torch on one core in this thread, and leave its number for threads that start later unchanged.

    A new thread reads and sets that number, as this one may share its own with FAISS.
    """
    torch = loaded_torch()
    with _LIMITING_TORCH:
        usual_threads = _in_new_thread(torch.get_num_threads)
        torch.get_num_threads()  # torch resets a thread's number at its first use in the thread: this is the first use
        torch.set_num_threads(1)
        _in_new_thread(functools.partial(torch.set_num_threads, usual_threads))


def _in_new_thread(function: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
