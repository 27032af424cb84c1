"""Run modules of this package in processes that are forked from one that has imported it, because the imports take seconds.

Use a new interpreter (`subprocess`) where the test is about its start.
"""

import contextlib
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.index.workers", "d2vpr_hf.training.distill", "d2vpr_hf.training.finetune"])


def start_module(module, arguments, log: Path, environment=None, threads=None):
    """Start `python -m module arguments` in a process group of its own, which writes stdout and stderr to a log.

    Args:
        threads: Number of torch's threads; `None` means as many as this process has.

    Returns:
        The process, as `multiprocessing` gives it: `pid`, `join(seconds)`, `exitcode` (negative: the signal that ended it).
    """
    words, threads = list(map(str, arguments)), threads or torch.get_num_threads()
    process = CONTEXT.Process(target=_run, args=(module, words, log, environment or {}, threads))
    process.start()
    return process


def _run(module, arguments, log, environment, threads):
    os.setsid()
    torch.set_num_threads(threads)
    os.environ.update(environment)
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def distributed(count, module, arguments, log: Path):
    """Start a module in several processes as torchrun does, and yield them; they find each other through a store here."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count)}
    meeting |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "ACCELERATE_USE_CPU": "true"}
    processes = [
        start_module(module, arguments, log, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, threads=1)
        for rank in range(count)
    ]
    yield processes
    for process in processes:
        process.join()


def run_distributed(count, module, arguments, log: Path):
    """Run a module in several processes as torchrun does, to its end."""
    with distributed(count, module, arguments, log) as processes:
        pass
    assert [process.exitcode for process in processes] == [0] * count, log.read_text()[-4000:]
