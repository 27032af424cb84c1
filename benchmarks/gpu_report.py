"""Measure everything that needs a GPU, in a few minutes, as a record that `benchmarks.gpu_tables` puts into the pages of docs/.

    python -m benchmarks.gpu_report [--minutes 8] [--parts parity,inference] [--out docs/gpu/CARD.json] [--wheels FOLDER]

Parts run in the order of their worth, each in a process of its own and up to a time limit. The record is written after each
part, and has the figures that a part noted before it failed or was ended. A part that is measured again replaces its earlier
figures; a record has one card only.

It runs from a bare checkout, where this package is not installed, on a machine without a network that has torch. Missing
libraries are carried as wheels in a folder, which are unpacked first; docs/speed.md lists them. `--device cpu --tiny` tests
that all parts run; such a record is refused by the pages.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.code_version import commit

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "gpu"
MINUTES = 8.0
MACHINE, MACHINE_SECONDS = "benchmarks.gpu.part", 60.0  # a part without figures, which describes the machine
LEAST_SECONDS = 20.0  # with less time left a part is not started: libraries alone take several seconds to load


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        module: Module with a function `measure`.
        seconds: Time limit of the part if the whole report has `MINUTES`.
        title: Subject of the part.
    """

    module: str
    seconds: float
    title: str


PARTS = {
    "parity": Part("benchmarks.gpu.parity", 60, "descriptors, gradients and rendered photos against the CPU's"),
    "inference": Part("benchmarks.gpu.inference", 200, "latency and throughput of the network"),
    "training": Part("benchmarks.gpu.training", 90, "training steps and loading"),
    "photos": Part("benchmarks.gpu.photos", 60, "photos a second from end to end"),
    "recipes": Part("benchmarks.gpu.recipes", 70, "short runs of both stages in half precision, resumed once"),
    "search": Part("benchmarks.gpu.search", 30, "exact search and bits of a million descriptors"),
    "runtimes": Part("benchmarks.gpu.runtimes", 30, "ONNX Runtime by CUDA and TensorRT"),
}


def run(
    parts: list[str], device: str, out: Path, *, tiny: bool = False, minutes: float = MINUTES, revision: str | None = None
) -> dict[str, Any]:
    """Measure parts, and write the record after each.

    Args:
        parts: Names of parts in their order.
        device: Device that is measured.
        out: File of the record; parts of an earlier record stay.
        tiny: Whether sizes are tiny.
        minutes: Time for all parts together.
        revision: Commit of the code; `None` if it is not known.

    Returns:
        The record.

    Raises:
        ValueError: If the earlier record is of another card, or one of the two is tiny.
    """
    record = _read(out)
    deadline = time.monotonic() + 60 * minutes
    if record["machine"] is not None:  # compared before minutes are spent on figures that this record cannot take
        machine = run_part(MACHINE, device, tiny=tiny, limit=MACHINE_SECONDS)["machine"]
        record = record if machine is None else _join(record, machine | {"tiny": tiny}, out)
    for name in parts:
        limit = min(PARTS[name].seconds * minutes / MINUTES, deadline - time.monotonic())
        print(f"{name}: {PARTS[name].title}, at most {limit:.0f} s", flush=True)
        if limit < LEAST_SECONDS * minutes / MINUTES:
            print(f"{name}: not started, because the time is over", flush=True)
            continue
        measured = run_part(PARTS[name].module, device, tiny=tiny, limit=limit)
        machine = measured.pop("machine")
        print(f"{name}: {measured['state']}, {measured['seconds']:.0f} s", flush=True)
        if machine is not None:
            record = _join(record, machine | {"tiny": tiny}, out)
        today = datetime.now(UTC).date().isoformat()
        earlier = record["parts"].get(name, {})
        if measured["figures"] or not earlier.get("figures"):
            record["parts"][name] = {"date": today, "commit": revision, **measured}
        _write(out, record)
    return record


def run_part(module: str, device: str, *, tiny: bool, limit: float) -> dict[str, Any]:
    """Measure a part in a process of its own, which is ended at the limit in seconds, with all processes that it started.

    Returns:
        `state` (`"done"`, or the reason why figures are missing), `seconds`, `figures`, and `machine`; without figures it is
        `None`.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-report-") as scratch:
        file, log = Path(scratch) / "figures.json", Path(scratch) / "log.txt"
        command = [sys.executable, "-m", "benchmarks.gpu.part", module, "--device", device]
        command += ["--figures", str(file), "--work", scratch, *(["--tiny"] if tiny else [])]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(Path(scratch)), stderr=errors, start_new_session=True
            )
            try:
                status = process.wait(limit)
                state = "done" if status == 0 else f"failed: {_last_line(log)}"
            except subprocess.TimeoutExpired:
                state = f"ended at its limit of {limit:.0f} s"
            finally:
                _end_all(process)
        measured = json.loads(file.read_text()) if file.exists() else {"machine": None, "figures": {}}
        if state.startswith("failed"):
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr, flush=True)
    return {"state": state, "seconds": round(time.monotonic() - start, 1), **measured}


def _environment(scratch: Path) -> dict[str, str]:
    """Return the environment of a part: without a network, and in a bare checkout with links for the mapped folders."""
    paths = [os.environ[name] for name in ("PYTHONPATH",) if os.environ.get(name)]
    if importlib.util.find_spec("d2vpr_hf.modeling") is None:
        links = scratch / "links" / "d2vpr_hf"
        links.mkdir(parents=True)
        (links / "__init__.py").touch()  # `d2vpr_hf` takes the folder for a part of itself
        for name in ("modeling", "training"):
            (links / name).symlink_to(ROOT / name)
        paths.append(str(links.parent))
    changes = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return os.environ | changes


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote no error"


def _end_all(process: "subprocess.Popen[bytes]") -> None:
    """End a process with all processes of its session, such as those that load photos."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _read(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"machine": None, "parts": {}}
    return record


def _join(record: dict[str, Any], machine: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return a record with the machine of its latest part.

    Raises:
        ValueError: If it is of another card.
    """
    earlier = record["machine"]
    names = ("device", "card", "tiny")
    if earlier is not None and any(earlier[name] != machine[name] for name in names):
        before, now = (", ".join(f"{name} {values[name]}" for name in names) for values in (earlier, machine))
        raise ValueError(f"{out} is a record of {before}, and this run is of {now}. Give `--out` another file.")
    return record | {"machine": machine}


def _write(out: Path, record: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_suffix(".part")
    scratch.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(out)


def unpack_wheels(folder: Path, target: Path) -> None:
    """Unpack all wheels of a folder, and put them before other libraries for the parts.

    Raises:
        FileNotFoundError: If there is no wheel.
    """
    wheels = sorted(map(str, folder.glob("*.whl")))
    if not wheels:
        raise FileNotFoundError(f"There is no wheel in {folder}.")
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))


def default_out(device: str, tiny: bool) -> Path:
    """Return the file of the record: one for each card, and outside of docs/ for a CPU or tiny sizes."""
    if device == "cpu" or tiny:
        return ROOT / "build" / "gpu" / f"{device}{'-tiny' if tiny else ''}.json"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    card = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return RECORDS / f"{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}.json"


def main() -> None:
    """Measure the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="names, separated by commas: %(default)s")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time of all parts together; limits scale with it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test that all parts run")
    parser.add_argument("--out", type=Path, help="file of the record; by default docs/gpu/CARD.json")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks")
    parser.add_argument("--commit", default=commit(), help="commit of the code, where it is not in a repository")
    arguments = parser.parse_args()
    names = list(filter(None, arguments.parts.split(",")))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; there are {', '.join(PARTS)}")
    out = arguments.out or default_out(arguments.device, arguments.tiny)
    with tempfile.TemporaryDirectory(prefix="gpu-report-site-") as site:
        if arguments.wheels is not None:
            unpack_wheels(arguments.wheels, Path(site))
        run(names, arguments.device, out, tiny=arguments.tiny, minutes=arguments.minutes, revision=arguments.commit)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
