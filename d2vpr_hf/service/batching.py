"""Dynamic batches: one thread processes the jobs of several requests together.

While a batch is processed, the jobs of other requests wait, and become the next batch. A job that finds the thread idle waits
a few milliseconds for others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

_NEW_SHARE = 0.2  # weight of the latest batch in the time of a job


class BatchWorker(Generic[Job, Result]):
    """A thread that processes jobs in batches, in the order in which they come.

    If a batch fails, each of its jobs is processed alone, so that one client's photo does not fail the others.

    Args:
        process: Returns the results of at most `batch_size` jobs with equal keys, in order.
        batch_size: Largest number of jobs in a batch.
        wait_seconds: Time for which the first job of a batch waits for others.
        key: Returns a job's key; jobs with different keys are in different batches.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Job]], Sequence[Result]],
        batch_size: int,
        wait_seconds: float = 0.0,
        key: Callable[[Job], Hashable] = lambda job: None,
    ) -> None:
        self._process, self._key = process, key
        self._batch_size, self._wait_seconds = batch_size, wait_seconds
        self._waiting: deque[tuple[Job, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_job = 0.0
        self._thread = threading.Thread(target=self._run, name="d2vpr-batches", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> list[Future[Result]]:
        """Add jobs, and return their future results. A future that is cancelled before its batch begins costs nothing.

        Raises:
            RuntimeError: If the worker is closed.
        """
        futures: list[Future[Result]] = [Future() for _ in jobs]
        with self._changed:
            if self._closed:
                raise RuntimeError("The worker is closed.")
            self._waiting.extend(zip(jobs, futures, strict=True))
            self._changed.notify()
        return futures

    def seconds_for(self, count: int) -> float:
        """Return an estimate of the time that a number of jobs takes, from the latest batches."""
        return count * self._seconds_per_job

    def close(self) -> None:
        """End the thread when all jobs are processed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            running = [(job, future) for job, future in batch if future.set_running_or_notify_cancel()]
            if not running:
                continue
            start = time.monotonic()
            self._answer([job for job, _ in running], [future for _, future in running])
            per_job = (time.monotonic() - start) / len(running)
            share = _NEW_SHARE if self._seconds_per_job else 1.0
            self._seconds_per_job += share * (per_job - self._seconds_per_job)

    def _next_batch(self) -> list[tuple[Job, Future[Result]]]:
        """Wait for the next batch and take it; an empty one ends the thread."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            until = time.monotonic() + self._wait_seconds
            while len(self._waiting) < self._batch_size and not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            key = self._key(self._waiting[0][0])
            batch: list[tuple[Job, Future[Result]]] = []
            while self._waiting and len(batch) < self._batch_size and self._key(self._waiting[0][0]) == key:
                batch.append(self._waiting.popleft())
            return batch

    def _answer(self, jobs: list[Job], futures: list[Future[Any]]) -> None:
        try:
            results = self._process(jobs)
        except Exception as error:
            if len(jobs) == 1:
                futures[0].set_exception(error)
                return
            logger.warning("A batch of %d photos failed (%s). Each is processed alone.", len(jobs), type(error).__name__)
            for job, future in zip(jobs, futures, strict=True):
                self._answer([job], [future])
            return
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)
