"""Run `child.py` in a process of its own, with a small environment and a time limit, and check the files that it writes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.utils.atomic_files import file_checksum
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.printable import printable_line, printable_text
from d2vpr_hf.utils.threads import num_cores

# The child is run by its path. Importing it would be harmless, but so the parent imports no torch either.
_CHILD = Path(__file__).with_name("child.py")
_OUTCOME = "outcome.json"  # these names are those of child.py
_DESCRIPTORS, _GRAPH = "descriptors.npy", "graph"
_LOG = "child.log"

_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".tar", ".torch", ".zip")
_MAX_OUTCOME = 1 << 20
_MAX_GRAPH = 16 << 30
_MAX_NAME = 100  # characters of an output's name
_MAX_OUTPUTS = 100
_MAX_ERROR = 1000  # characters
_LOG_TAIL = 3000  # characters of the child's prints in an error


@dataclass(frozen=True)
class ChildTask:
    """The work of the child.

    Attributes:
        code: Folder of the repository.
        entry: Function of `hubconf.py`.
        arguments: Its arguments.
        repositories: Folders of other repositories that the code may load, by their names in small letters.
        output: Name or position of the network's output with descriptors; `None` for the first that has a row for each image.
        pixel_values: (B, 3, height, width) float32, images to run the network on.
    """

    code: Path
    entry: str
    arguments: Mapping[str, Any]
    repositories: Mapping[str, Path]
    output: str | None
    pixel_values: NDArray[np.float32]


@dataclass(frozen=True)
class ChildResult:
    """Files and facts that the child handed back, after checks of their form.

    Attributes:
        graph: Path of the ONNX file.
        together: (B, D) float32, descriptors of the network for all images in one batch.
        alone: (B, D) float32, descriptors of the network for batches of one image.
        outputs: Shapes of the network's outputs, by name.
        output: Name of the exported one.
        num_parameters: Number of weights; `None` for a network without any.
        exporter: `"torch.export"` or `"tracing"`.
        weights: SHA-256 of the files that the code downloaded, by name.
    """

    graph: Path
    together: NDArray[np.float32]
    alone: NDArray[np.float32]
    outputs: dict[str, list[int]]
    output: str
    num_parameters: int | None
    exporter: str
    weights: dict[str, str]


class HubCodeError(ValueError):
    """Code of a repository failed, or what it handed back is refused."""


def child_environment(scratch: Path, cache: Path) -> dict[str, str]:
    """Return the environment of the child: no token, key or agent of the user, and a home folder that is empty.

    Args:
        scratch: Folder for the home folder and temporary files.
        cache: Folder for downloads of weights.
    """
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    for name in (*_PROXY_VARIABLES, *(name.upper() for name in _PROXY_VARIABLES)):
        address = os.environ.get(name)
        if address is not None and not _has_password(address):
            environment[name] = address
    for folder in (scratch / "home", scratch / "tmp", cache):
        folder.mkdir(parents=True, exist_ok=True)
    return environment | {
        "HOME": str(scratch / "home"),
        "USERPROFILE": str(scratch / "home"),
        "TMPDIR": str(scratch / "tmp"),
        "TORCH_HOME": str(cache / "torch"),
        "HF_HOME": str(cache / "huggingface"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run_child(task: ChildTask, scratch: Path, cache: Path, timeout: float) -> ChildResult:
    """Run the child and check its files.

    Args:
        task: The work.
        scratch: A folder for all files of the child, which is created.
        cache: Folder for downloads of weights.
        timeout: Seconds until the child is ended.

    Raises:
        HubCodeError: If the code fails, takes too long, or hands back something else than a graph and descriptors.
    """
    out = scratch / "out"
    out.mkdir(parents=True)
    np.save(scratch / "pixel_values.npy", task.pixel_values)
    description = {
        "code": str(task.code),
        "entry": task.entry,
        "arguments": dict(task.arguments),
        "repositories": {name: str(folder) for name, folder in task.repositories.items()},
        "output": task.output,
        "pixel_values": str(scratch / "pixel_values.npy"),
        "out": str(out),
        "threads": num_cores(),
    }
    (scratch / "task.json").write_text(json.dumps(description))
    environment = child_environment(scratch, cache)
    _run(scratch, environment, timeout)
    outcome = _read_outcome(out, scratch)
    if "error" in outcome:
        raise HubCodeError(_error_text(printable_line(str(outcome["error"])[:_MAX_ERROR]), scratch))
    together, alone = _read_descriptors(out, len(task.pixel_values))
    try:
        shapes = {
            printable_line(name)[:_MAX_NAME]: [int(side) for side in shape]
            for name, shape in islice(outcome["outputs"].items(), _MAX_OUTPUTS)
        }
        return ChildResult(
            _checked_graph(out / _GRAPH),
            together,
            alone,
            shapes,
            printable_line(outcome["output"])[:_MAX_NAME],
            int(outcome["num_parameters"]) or None,
            "tracing" if outcome["exporter"] == "tracing" else "torch.export",
            _hash_downloads(cache),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, HubCodeError):
            raise
        raise HubCodeError(f"The process that ran the code wrote a result that is not valid: {error!r}.") from error


def _has_password(address: str) -> bool:
    try:
        return "@" in urlsplit(address if "//" in address else f"//{address}").netloc
    except ValueError:
        return True


def _run(scratch: Path, environment: Mapping[str, str], timeout: float) -> None:
    """Run the child to its end; its process group is ended with it, or when this process is interrupted."""
    command = [sys.executable, "-I", str(_CHILD), str(scratch / "task.json")]
    with (scratch / _LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise HubCodeError(
                f"The code did not finish within {timeout:.0f} seconds and was ended. `timeout` gives it longer."
                + _log_text(scratch)
            ) from error
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the child and all processes that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its group has its number, by `start_new_session`
    else:
        process.kill()
    process.wait()


def _read_outcome(out: Path, scratch: Path) -> dict[str, Any]:
    path = out / _OUTCOME
    if not _is_plain_file(path) or path.stat().st_size > _MAX_OUTCOME:
        raise HubCodeError("The process that ran the code ended without a result." + _log_text(scratch))
    try:
        outcome = parse_json(path.read_text())
    except ValueError:
        outcome = None
    if not isinstance(outcome, dict):
        raise HubCodeError("The process that ran the code wrote a result that is not valid.")
    return outcome


def _error_text(error: str, scratch: Path) -> str:
    kind, _, rest = error.partition(" ")
    if kind == "pickle":
        return (
            "The code loads weights that are a pickle with more than tensors and plain values, and unpickling them could "
            f"execute anything. They were refused: {rest} Ask the authors for safetensors or a plain state dict, or convert "
            "them yourself where you accept the risk."
        )
    if kind == "other-repository":
        return (
            f"The code loads another repository by torch.hub, {rest}, whose branch may change. Pin it too: "
            f'`also=["{rest}@COMMIT"]`.'
        )
    return f"The code failed: {error}{_log_text(scratch)}"


def _log_text(scratch: Path) -> str:
    """Return the last lines that the child printed, without characters that steer terminals."""
    with (scratch / _LOG).open("rb") as file:
        file.seek(max(0, (scratch / _LOG).stat().st_size - 4 * _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    text = printable_text(text)[-_LOG_TAIL:].strip()
    return f"\nIt printed at last:\n{text}" if text else ""


def _read_descriptors(out: Path, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    path = out / _DESCRIPTORS
    if not _is_plain_file(path):
        raise HubCodeError("The process that ran the code wrote no descriptors.")
    try:
        both = np.load(path, mmap_mode="r", allow_pickle=False)  # a header could state any size
    except (ValueError, TypeError, OverflowError, EOFError, OSError) as error:
        raise HubCodeError(f"The process that ran the code wrote descriptors that cannot be read: {error}") from error
    if not isinstance(both, np.ndarray):
        raise HubCodeError("The process that ran the code wrote an archive in place of descriptors.")
    if both.ndim != 3 or both.shape[:2] != (2, count) or both.dtype != np.float32 or not np.isfinite(both).all():
        raise HubCodeError(f"Expected finite descriptors (2, {count}, D) in float32, got {both.shape} in {both.dtype}.")
    return np.array(both[0]), np.array(both[1])


def _checked_graph(folder: Path) -> Path:
    """Return the path of the graph, after checking that its folder has plain files only."""
    files = list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    if folder / "model.onnx" not in files or not all(map(_is_plain_file, files)):
        raise HubCodeError("The process that ran the code wrote no graph, or more than its files.")
    if sum(path.stat().st_size for path in files) > _MAX_GRAPH:
        raise HubCodeError(f"The graph is larger than {_MAX_GRAPH >> 30} GiB.")
    return folder / "model.onnx"


def _is_plain_file(path: Path) -> bool:
    return path.exists() and stat.S_ISREG(path.lstat().st_mode)


def _hash_downloads(cache: Path) -> dict[str, str]:
    """Return the SHA-256 of weights that the code downloaded, by their names; the Hub's cache has links to its files."""
    hashes, folder = {}, cache.resolve()
    for path in sorted(cache.rglob("*")):
        if path.suffix in _WEIGHTS and path.is_file() and path.resolve().is_relative_to(folder):
            hashes[printable_line(path.name)] = file_checksum(path)
    return hashes
