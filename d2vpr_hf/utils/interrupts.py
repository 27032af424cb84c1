"""SIGINT (Ctrl-C) and SIGTERM: programs end in one line with status 128 + signal, and no change is stored by halves."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAUNCHER_SECONDS = 5.0  # in which a launcher sends a signal again to processes that the terminal has signalled


class InterruptedBySignalError(KeyboardInterrupt):
    """SIGINT or SIGTERM interrupted a program; what handles Ctrl-C also handles SIGTERM.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal_name(number))
        self.number = number


def signal_name(number: int) -> str:
    """Return the name of a signal in messages."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def exit_status(number: int) -> int:
    """Return the exit status of a program that a signal ended."""
    return 128 + number


class SignalHandler:
    """Handle SIGINT and SIGTERM while this context is open, in the main thread: the first one by a function.

    A second signal ends the process at once. torchrun and `accelerate launch` pass a Ctrl-C on to processes that have received
    it from the terminal too; in a process that they started, a signal counts as the second one only some seconds later.

    Args:
        receive: Called with the number of the first signal.
        clock: Returns seconds.
        end: Ends the process with a status.

    Attributes:
        received: The number of the first signal; `None` before it.
    """

    def __init__(
        self,
        receive: Callable[[int], None] = lambda number: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self.received: int | None = None
        self._receive = receive
        self._clock, self._end = clock, end
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        _restore(self._previous)

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        if self.received is None:
            self.received, self._received_at = number, self._clock()
            self._receive(number)
        elif not _is_launched() or self._clock() - self._received_at > _LAUNCHER_SECONDS:
            self._end(exit_status(number))


def raise_interrupted(number: int) -> None:
    """Raise [`InterruptedBySignalError`]."""
    raise InterruptedBySignalError(number)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Defer the first SIGINT or SIGTERM to the end of the block, which must be short; a second one is not deferred.

    A signal that Python does not handle ends the process as usual.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def record(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 2 and isinstance(handlers[number], SignalHandler):
            handlers[number](received[0], frame)

    if threading.current_thread() is threading.main_thread():
        handlers = {number: handler for number in SIGNALS if _is_deferrable(handler := signal.getsignal(number))}
        for number in handlers:
            signal.signal(number, record)
    try:
        yield
    finally:
        _restore(handlers)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM until the end of the block. Processes that are started inside inherit this and keep it."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _is_deferrable(handler: Any) -> bool:
    """Return whether Python handles a signal, and does not end the process at once, as for a second signal."""
    return callable(handler) and not (isinstance(handler, SignalHandler) and handler.received is not None)


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _is_launched() -> bool:
    """Return whether torchrun or `accelerate launch` started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
