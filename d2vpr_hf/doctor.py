"""A look at this installation: versions, processor, backends, GPU, Hub cache, and a test that runs the main job once.

Importing this module loads neither torch nor transformers, and [`examine`] works without them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2vpr_hf import __version__
from d2vpr_hf.utils.optional_imports import import_without_reports

_LIBRARIES = {  # distributions by the extra that installs them; an empty text for those of every installation
    "": ("numpy", "pillow", "pillow-heif", "pyarrow", "faiss-cpu", "scipy", "safetensors", "huggingface-hub", "typer"),
    "models": ("torch", "transformers"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "export": ("onnx", "onnxscript"),
    "datasets": ("datasets",),
    "plots": ("matplotlib",),
    "train": ("accelerate", "pytorch-metric-learning"),
    "demo": ("gradio",),
    "serve": ("fastapi", "uvicorn", "python-multipart"),
    "hdf5": ("h5py",),
    "milvus": ("pymilvus", "milvus-lite"),
    "pgvector": ("psycopg",),
    "lancedb": ("lancedb",),
    "qdrant": ("qdrant-client",),
}
_BACKENDS = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino", "executorch": "executorch.runtime"}
_GIGA = 1e9
_LEAST_FREE = 1 * _GIGA  # bytes of disk
_NUM_PHOTOS = 4


@dataclass(frozen=True)
class Finding:
    """A line of the examination.

    Attributes:
        section: Its group, such as `"libraries"`.
        name: Its subject.
        value: A text, a number, a truth value or a list; `None` for something that is not installed or not known.
        problem: The fault, with the way to remove it; `None` if there is none.
    """

    section: str
    name: str
    value: Any
    problem: str | None = None


@dataclass(frozen=True)
class Examination:
    """The findings, in their order."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """The findings with a problem."""
        return [finding for finding in self.findings if finding.problem is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values: `sections` by name, and the list of `problems`."""
        sections: dict[str, dict[str, Any]] = {}
        for finding in self.findings:
            sections.setdefault(finding.section, {})[finding.name] = finding.value
        return {"sections": sections, "problems": [asdict(finding) for finding in self.problems]}

    def to_text(self) -> str:
        """Return a line for each finding, in groups, and the problems at the end."""
        width = max(len(finding.name) for finding in self.findings)
        lines: list[str] = []
        section = None
        for finding in self.findings:
            if finding.section != section:
                section = finding.section
                lines += ["", f"{section[:1].upper()}{section[1:]}:"]
            lines.append(f"  {finding.name:{width}}  {_value_text(finding.value)}")
        lines.append("")
        lines += [f"Problem with {finding.name}: {finding.problem}" for finding in self.problems] or ["No problem."]
        return "\n".join(lines[1:])


def examine() -> Examination:
    """Examine this installation; no network is used, and nothing is written outside a temporary folder."""
    parts = (_program, _processor, _libraries, _backends, _gpu, _hub, _disk, _self_test)
    return Examination(tuple(finding for part in parts for finding in part()))


def _program() -> list[Finding]:
    return [
        Finding("program", "d2vpr-hf", __version__),
        Finding("program", "python", platform.python_version()),
        Finding("program", "system", platform.platform()),
        Finding("program", "folder", str(Path(__file__).parent)),
    ]


def _processor() -> list[Finding]:
    from d2vpr_hf.backends.cpu_kind import cpu_kind
    from d2vpr_hf.utils.threads import num_cores

    return [
        Finding("processor", "instruction sets", cpu_kind()),
        Finding("processor", "cores in use", num_cores()),
        Finding("processor", "OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")),
    ]


def _libraries() -> list[Finding]:
    findings = []
    for extra, names in _LIBRARIES.items():
        for name in names:
            try:
                version: str | None = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                version = None
            missing = version is None and not extra
            problem = f"{name} is missing, which every installation needs. Install d2vpr-hf again." if missing else None
            label = f"{name} [{extra}]" if extra else name
            findings.append(Finding("libraries", label, version, problem))
    return findings


def _backends() -> list[Finding]:
    findings = []
    for name, module in _BACKENDS.items():
        works, problem = _try_import(module)
        findings.append(Finding("backends", name, works, problem))
    return findings


def _try_import(module: str) -> tuple[bool | None, str | None]:
    """Return whether a module can be imported, `None` if it is not installed, and the problem with one that cannot."""
    try:
        import_without_reports(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            return None, None
        return False, f"it cannot be imported ({error}). Install it again."
    except Exception as error:  # libraries with wrong binaries raise errors of many kinds
        return False, f"it cannot be imported ({type(error).__name__}: {error}). Install it again."
    return True, None


def _gpu() -> list[Finding]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return [Finding("GPU", "cuda", None)]
    with contextlib.suppress(Exception):  # a driver that does not answer
        if torch.cuda.is_available():
            devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
            texts = [f"{device.name}, {device.total_memory / _GIGA:.0f} GB" for device in devices]
            return [Finding("GPU", "cuda", texts), Finding("GPU", "cuda version", torch.version.cuda)]
    if torch.version.cuda is None or shutil.which("nvidia-smi") is None:
        return [Finding("GPU", "cuda", None)]
    problem = "torch is built for CUDA and finds no GPU that it can use. `nvidia-smi` shows whether the driver answers."
    return [Finding("GPU", "cuda", None, problem)]


def _hub() -> list[Finding]:
    from huggingface_hub import constants, get_token

    from d2vpr_hf.encoders.hub_cache import is_usable_offline
    from d2vpr_hf.model_info.known_models import KNOWN_MODELS

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    problem = None if os.access(existing, os.W_OK) else f"{existing} cannot be written to. Set HF_HOME to another folder."
    return [
        Finding("hub", "cache", str(cache), problem),
        Finding("hub", "usable offline", [model.name for model in KNOWN_MODELS if is_usable_offline(model)]),
        Finding("hub", "offline by setting", bool(constants.HF_HUB_OFFLINE)),
        Finding("hub", "logged in", get_token() is not None),
    ]


def _disk() -> list[Finding]:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    problem = None if free >= _LEAST_FREE else f"{folder} has little space. Free some, or set TMPDIR to another folder."
    return [Finding("disk", "temporary folder", str(folder)), Finding("disk", "free GB", round(free / _GIGA, 1), problem)]


def _self_test() -> list[Finding]:
    """Index drawn pictures and find each of them; without torch, do the same with drawn descriptors."""
    has_model = sys.modules.get("torch") is not None and _try_import("transformers")[0]
    subject = "embedded model, index, search" if has_model else "index, search (the embedded model needs torch)"
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder, _silence():
            problem = (_test_photos if has_model else _test_descriptors)(Path(folder))
    except Exception as error:  # whichever part fails is the finding
        problem = f"it fails ({type(error).__name__}: {error}). Install d2vpr-hf again with `pip install -c constraints.txt`."
    seconds = round(time.perf_counter() - start, 2)
    return [
        Finding("self-test", "subject", subject),
        Finding("self-test", "passed", problem is None, problem),
        Finding("self-test", "seconds", seconds),
    ]


def _test_photos(folder: Path) -> str | None:
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.retrieval.index_photos import index_photos
    from d2vpr_hf.retrieval.search_photos import search_photos
    from d2vpr_hf.utils.atomic_files import write_file

    photos = [folder / "photos" / f"{number}.png" for number in range(_NUM_PHOTOS)]
    photos[0].parent.mkdir()
    for number, photo in enumerate(photos):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((210, 150), Image.Resampling.BICUBIC).save(file, "PNG")
        write_file(photo, file.getvalue())
    encoder = PlaceEncoder()
    index, _ = index_photos(folder / "photos", folder / "index", encoder)
    results = search_photos(index, photos, encoder, top_k=1)
    found_all = all(result.matches and result.matches[0].place.path == result.query.name for result in results)
    return None if found_all else "pictures of an index are not found again. The weights or a library are damaged."


def _test_descriptors(folder: Path) -> str | None:
    from d2vpr_hf.index import IndexSettings, PlaceIndex
    from d2vpr_hf.places import Place

    rows = np.eye(_NUM_PHOTOS, 8, dtype=np.float32)
    with PlaceIndex.create(folder / "index", IndexSettings(None, "self-test", 8)) as index:
        index.add(rows, [Place(f"{number}.png") for number in range(_NUM_PHOTOS)])
    matches = PlaceIndex.open(folder / "index").search(rows, 1)
    found_all = [match.row for (match,) in matches] == list(range(_NUM_PHOTOS))
    return None if found_all else "rows of an index are not found again. A library is damaged."


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the log quiet, such as the notice that the embedded model is small."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)
