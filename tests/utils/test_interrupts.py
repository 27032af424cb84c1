"""Signals: the first is handled, the second ends the process, and a change is never interrupted in its middle."""

import signal
import subprocess
import sys
import threading

import pytest

from d2vpr_hf.utils.interrupts import (
    InterruptedBySignalError,
    SignalHandler,
    blocked_signals,
    deferred_interrupts,
    raise_interrupted,
)


def send(number=signal.SIGINT):
    """Send a signal to the main thread: one to the process may reach a thread that an earlier test left, and so come later."""
    signal.pthread_kill(threading.main_thread().ident, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_an_interrupt_and_the_second_ends_the_process(number):
    ended, before = [], signal.getsignal(number)
    with SignalHandler(raise_interrupted, end=ended.append) as handler:
        with pytest.raises(KeyboardInterrupt) as interrupt:
            send(number)
        assert interrupt.value.number == handler.received == number and ended == []
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert ended == [143, 130]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("seconds", "ended"), [(0.5, []), (6, [130])])
def test_a_signal_that_a_launcher_passes_on_is_not_the_second_one(monkeypatch, seconds, ended):
    """The terminal signals all processes, and torchrun signals its own again: that would end a run without a checkpoint."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    times, statuses = iter([10.0, 10.0 + seconds]), []
    with SignalHandler(clock=lambda: next(times), end=statuses.append):
        send()
        send()
    assert statuses == ended


def test_an_interrupt_waits_for_the_end_of_a_change():
    """An interrupt between storing rows and counting them would store them twice."""
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        send()
        done.append("stored")
    assert done == ["stored"]
    with SignalHandler(raise_interrupted), pytest.raises(InterruptedBySignalError) as interrupt, deferred_interrupts():
        send(signal.SIGTERM)
        done.append("stored")
    assert interrupt.value.number == signal.SIGTERM and len(done) == 2


def test_an_error_of_a_change_does_not_lose_the_interrupt():
    with pytest.raises(KeyboardInterrupt) as interrupt, deferred_interrupts():
        send()
        raise OSError("the disk is full")
    assert isinstance(interrupt.value.__context__, OSError)


def test_a_second_signal_is_not_deferred():
    """A user who presses Ctrl-C twice while a slow disk is written to must not wait for it."""
    ended = []
    with SignalHandler(raise_interrupted, end=ended.append):
        with pytest.raises(KeyboardInterrupt):
            send()
        with deferred_interrupts():
            send()
            assert ended == [130]


def test_other_threads_leave_signals_alone():
    """Only the main thread may set handlers: Python raises ValueError elsewhere."""
    before, errors = signal.getsignal(signal.SIGINT), []

    def work():
        try:
            with SignalHandler(raise_interrupted), deferred_interrupts():
                assert signal.getsignal(signal.SIGINT) is before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_processes_that_start_in_a_block_receive_no_signal():
    """A terminal's Ctrl-C reaches workers too: one that imports torch would print a traceback, or end the run."""
    code = "import time; print(1, flush=True); time.sleep(0.2)"
    with pytest.raises(KeyboardInterrupt), blocked_signals():
        worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        worker.stdout.read(1)
        worker.send_signal(signal.SIGINT)
        worker.communicate()
        assert worker.returncode == 0
        send()
