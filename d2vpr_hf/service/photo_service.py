"""The service without HTTP: it admits requests, lets another process look at their photos, and answers them in batches."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from d2vpr_hf.service.answers import Answer, Question, answer_batch
from d2vpr_hf.service.batching import BatchWorker
from d2vpr_hf.service.generations import Generation, ServedIndex, small_picture, watch
from d2vpr_hf.service.limits import Admissions, RefusedError, ServiceLimits
from d2vpr_hf.service.metrics import Counter, Gauge, Histogram, exposition
from d2vpr_hf.utils.atomic_files import write_file
from d2vpr_hf.utils.threads import num_cores
from d2vpr_hf.web.photo_checks import PhotoChecks, find_problem

_DEFAULT_BATCH = 16  # of an index without an encoder
_BATCH_WAIT = 0.005  # seconds
_LONGEST_RETRY = 60  # seconds
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Reservation:
    """The room that a request has in the service. It has one photo from the beginning, so that slow bodies are counted too."""

    def __init__(self, service: PhotoService) -> None:
        self._service = service
        self._photos = self._num_bytes = 0
        self.add(photos=1)

    def add(self, photos: int = 0, num_bytes: int = 0) -> None:
        """Reserve more room.

        Raises:
            RefusedError: If the service is full.
        """
        if not self._service.admissions.add(photos, num_bytes):
            raise self._service.full()
        self._photos += photos
        self._num_bytes += num_bytes

    def release(self) -> None:
        """Release the room that is reserved at present."""
        self._service.admissions.remove(self._photos, self._num_bytes)
        self._photos = self._num_bytes = 0


class PhotoService:
    """Answers the requests of many clients.

    Args:
        served: The index.
        limits: Limits of requests.
        reload_seconds: Seconds between two looks for a changed index; 0 for none.
        batch_wait: Seconds for which the first photo of a batch waits for others.

    Attributes:
        draining: Whether the service ends: it answers the requests that it has, and is not ready for others.
        answered: Number of requests that were answered.
    """

    def __init__(
        self,
        served: ServedIndex,
        limits: ServiceLimits = ServiceLimits(),  # noqa: B008 - the default is immutable
        *,
        reload_seconds: float = 0.0,
        batch_wait: float = _BATCH_WAIT,
    ) -> None:
        self.served, self.limits = served, limits
        self.admissions = Admissions(limits.pending_photos, limits.pending_bytes)
        self.draining = False
        self.answered = 0
        encoder = served.current.encoder
        batch_size = _DEFAULT_BATCH if encoder is None else encoder.batch_size
        self._worker: BatchWorker[Question, Answer] = BatchWorker(
            self._answer, batch_size, batch_wait, lambda question: question.generation.number
        )
        processes = num_cores()
        self._checks = PhotoChecks(limits.pixels, processes)
        self._check_threads = ThreadPoolExecutor(processes, "d2vpr-checks")
        self._folder = Path(tempfile.mkdtemp(prefix="d2vpr-serve-"))  # the photos of requests
        self._started = time.monotonic()
        self._make_metrics()
        self._stop = threading.Event()
        if reload_seconds:
            arguments = (served, reload_seconds, self._stop, self._count_reload)
            threading.Thread(target=watch, args=arguments, name="d2vpr-reload", daemon=True).start()

    def _make_metrics(self) -> None:
        self.requests = Counter("d2vpr_requests_total", "Answered requests.")
        self.request_seconds = Histogram("d2vpr_request_seconds", "Time from the head of a request to its answer.")
        self.photos = Counter("d2vpr_photos_total", "Photos and descriptors by result.")
        self._batches = Histogram("d2vpr_batch_photos", "Photos and descriptors of a batch.", _BATCH_SIZES)
        self._step_seconds = Histogram("d2vpr_batch_seconds", "Time of a batch in the encoder and in the search.")
        self._reloads = Counter("d2vpr_reloads_total", "Changed indexes that were opened.")
        self._metrics = (
            *(self.requests, self.request_seconds, self.photos, self._batches, self._step_seconds, self._reloads),
            Gauge("d2vpr_reload_failures", "Failed attempts to open a changed index.", lambda: self.served.failed),
            Gauge("d2vpr_pending_photos", "Photos that are received or wait.", lambda: self.admissions.photos),
            Gauge("d2vpr_pending_photos_limit", "Most photos that may wait.", lambda: self.limits.pending_photos),
            Gauge("d2vpr_pending_bytes", "Size of the bodies of pending requests.", lambda: self.admissions.num_bytes),
            Gauge("d2vpr_index_photos", "Photos of the index.", lambda: len(self.served.current.index)),
            Gauge("d2vpr_index_generation", "Number of the state of the index.", lambda: self.served.current.number),
            Gauge("d2vpr_uptime_seconds", "Time since the start.", lambda: time.monotonic() - self._started),
        )

    def start_checks(self) -> None:
        """Start the processes that look at photos, so that the first requests need not wait for that."""
        for number in range(num_cores()):
            picture = self._folder / f"first-{number}"
            write_file(picture, small_picture())
            self._check_threads.submit(find_problem, picture, self._checks, self.limits.photo_bytes, self.limits.pixels)

    def metrics_text(self) -> str:
        """Return the metrics in the text format of Prometheus."""
        return exposition(self._metrics)

    @property
    def generation(self) -> Generation:
        """The present state of the index."""
        return self.served.current

    def full(self) -> RefusedError:
        """Return the error for a request that finds no room, with the time after which there is likely some."""
        seconds = self._worker.seconds_for(self.admissions.photos)
        retry_after = min(_LONGEST_RETRY, max(1, math.ceil(seconds)))
        return RefusedError(503, "The service is busy with other requests. Try again later.", retry_after)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Reservation]:
        """Reserve room for a request until the end of the block.

        Raises:
            RefusedError: If the service is full.
        """
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            reservation.release()

    @contextlib.contextmanager
    def photo_folder(self) -> Iterator[Path]:
        """Yield a folder for the photos of a request; it is deleted at the end of the block."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def find_problem(self, photo: Path) -> str | None:
        """Return the reason why a stranger's photo cannot be used, or `None`; another process reads it first."""
        limits = self.limits
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._check_threads, find_problem, photo, self._checks, limits.photo_bytes, limits.pixels
        )

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions, in order, in batches with those of other requests."""
        futures = self._worker.submit(questions)
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    def close(self) -> None:
        """Answer all questions, and release everything."""
        self._stop.set()
        self._worker.close()
        self._check_threads.shutdown()
        self._checks.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answer(self, questions: Sequence[Question]) -> list[Answer]:
        self._batches.observe(len(questions))
        return answer_batch(questions, lambda step, seconds: self._step_seconds.observe(seconds, step=step))

    def _count_reload(self, is_new: bool) -> None:
        if is_new:
            self._reloads.add()
