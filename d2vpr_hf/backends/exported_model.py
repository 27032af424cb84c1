"""A folder that `d2vpr export` wrote: a graph, and the information of `export.json` about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2vpr_hf.backends.executorch_backend import ExecuTorchBackend
from d2vpr_hf.backends.formats.export_format import ExportFormat
from d2vpr_hf.backends.formats.registry import FORMATS
from d2vpr_hf.backends.onnx_file import read_outline
from d2vpr_hf.backends.onnxruntime_backend import OnnxRuntimeBackend
from d2vpr_hf.backends.openvino_backend import OpenVinoBackend
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.verification import check_on_this_cpu
from d2vpr_hf.model_info.encoder_card import locate_file
from d2vpr_hf.pretrained.model_files import fetch_file
from d2vpr_hf.utils.atomic_files import checksum, file_checksum, folder_checksums
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.regular_files import stays_inside

if TYPE_CHECKING:
    from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig

logger = logging.getLogger(__name__)

INFO_FILE = "export.json"
FORMAT_VERSION = 1
_CHECKSUMS, _CHECKSUM = "sha256", "checksum"  # entries of `export.json`: of the other files, and of its own values
ATTRIBUTES_FILE = ".gitattributes"
ATTRIBUTES = "* -text\n"  # git on Windows would write texts with other line ends, which have other checksums
_UNCHECKED = (INFO_FILE, ATTRIBUTES_FILE, "README.md")  # the card is for readers, who may edit it
_BACKENDS: dict[str, Callable[[Path, str], Backend]] = {
    "executorch": ExecuTorchBackend,
    "onnxruntime": OnnxRuntimeBackend,
    "openvino": OpenVinoBackend,
}


@dataclass(frozen=True)
class ExportedModel:
    """An exported model: the graph in a folder, and the information about it.

    Attributes:
        folder: The folder of the graph.
        info: The content of `export.json`.
    """

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> ExportedModel:
        """Read the information about an exported model.

        Raises:
            ValueError: If the file is damaged or of a format version that this version cannot read.
        """
        path = Path(folder) / INFO_FILE
        try:
            info = parse_json(path.read_text(encoding="utf-8"))
            if info["format_version"] != FORMAT_VERSION or info["format"] not in FORMATS:
                raise ValueError(f"its format is {info['format_version']}, {info['format']!r}")
            if not isinstance(info["precision"], str):
                raise ValueError(f"its precision is {info['precision']!r}")
            if info.get(_CHECKSUM, _own_checksum(info)) != _own_checksum(info):
                raise ValueError("its checksum is wrong: it is damaged, or was edited")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read ({error}). Export the model again.") from error
        return cls(Path(folder), info)

    def check_files(self) -> None:
        """Compare the files of the export with their checksums; exports of earlier versions have none, which is logged.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file has changed.
        """
        stated = self.info.get(_CHECKSUMS)
        if stated is None:
            logger.warning(
                "%s was exported by an earlier version, without checksums: damage of its files would not be noticed. Export "
                "the model again.",
                self.folder,
            )
            return
        if not isinstance(stated, dict) or not all(map(stays_inside, stated)):
            raise ValueError(f"{self.folder / INFO_FILE} names files outside of its folder. Export the model again.")
        for name, expected in stated.items():
            path = self.folder / name
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing. Export the model again, or copy the whole folder again.")
            if file_checksum(path) != expected:
                raise ValueError(f"{path} has changed since it was exported: it is damaged. Export the model again.")

    @property
    def format(self) -> ExportFormat:
        """The format of the export."""
        return FORMATS[self.info["format"]]

    def graph(self, precision: str) -> Path:
        """Return the path of the graph for a precision: that of the export, if there is no other."""
        exported_precision: str = self.info["precision"]
        graphs = self.format.graphs(exported_precision)
        return self.folder / graphs.get(precision, graphs[exported_precision])

    def config(self) -> VPRConfig:
        """Load the configuration of the model that was exported."""
        from transformers import AutoConfig

        import d2vpr_hf.modeling  # noqa: F401 - registers the types of this package

        config: VPRConfig = AutoConfig.from_pretrained(self.folder / self.format.config_file, trust_remote_code=False)
        return config

    def processor(self) -> D2VPRImageProcessor:
        """Load the image processor for the steps that the graph does not contain."""
        from d2vpr_hf.modeling import D2VPRImageProcessor

        processor: D2VPRImageProcessor = D2VPRImageProcessor.from_pretrained(self.folder)
        return processor

    def settle_backend(self, name: str, precision: str | None) -> Runtime:
        """Return the runtime of the graph: a backend that runs its format.

        Args:
            name: Name of the backend; `"auto"` and `"torch"`, the encoder's default, select the first backend of the format.
            precision: Number type of the products; `None` for that of the export. OpenVINO can also run an fp32 graph in bf16.

        Raises:
            ValueError: If the backend cannot run the graph.
        """
        backends, exported_precision = self.format.backends, self.info["precision"]
        if not backends:
            raise ValueError(f"{self.folder} holds a graph in the format {self.format.name}, which this package cannot run.")
        name = backends[0] if name in ("auto", "torch") else name
        precision = precision or exported_precision
        if name not in backends:
            raise ValueError(f"{self.folder} holds a graph for {' and '.join(backends)}; the backend {name} cannot run it.")
        convertible = exported_precision in ("fp32", "bf16") and name == "openvino" and precision in ("fp32", "bf16")
        if precision not in self.format.graphs(exported_precision) and not convertible:
            raise ValueError(f"{self.folder} was exported in {exported_precision}; for {precision} export the model again.")
        return Runtime(name, precision)

    def open_backend(self, name: str, precision: str | None) -> Backend:
        """Open the graph with the runtime of [`settle_backend`].

        A graph is compared with its model again if it was verified with another runtime or on another kind of processor.

        Raises:
            ImportError: If the backend is not installed.
            ValueError: If the backend cannot run the graph, or its descriptors differ too much from the model's here.
        """
        backend = self.run(self.settle_backend(name, precision))
        record = self.info.get("verification")
        if record is not None:
            check_on_this_cpu(backend, self.folder, record)
        elif backend.precision == "int8":
            logger.warning(
                "The graph %s was exported by a version whose int8 is less exact on some processors: without VNNI its "
                "descriptors may differ three times as much from the model's. Export the model again.",
                self.folder,
            )
        return backend

    def run(self, runtime: Runtime) -> Backend:
        """Open the graph with a runtime that can run it, without comparing it with its model.

        Raises:
            FileNotFoundError: If a file with weights of an ONNX graph is missing.
            ValueError: If it is outside of the graph's folder: a graph from the Hub could name any file of this machine.
        """
        path = self.graph(runtime.precision)
        if path.suffix == ".onnx" and path.is_file():
            for name in sorted(read_outline(path).external_files):
                locate_file(path.parent, name)
        return _BACKENDS[runtime.backend](path, runtime.precision)


def info_text(info: dict[str, Any]) -> str:
    """Return the content of `export.json`, which ends with a checksum of all values before it."""
    values = {key: value for key, value in info.items() if key != _CHECKSUM}
    return json.dumps(values | {_CHECKSUM: _own_checksum(values)}, indent=1) + "\n"


def with_checksums(info: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the information with the checksums of all files of an export, but the card for readers and code."""

    def is_checked(name: str) -> bool:
        return name not in _UNCHECKED and not name.endswith(".py")  # a graph needs no code

    return info | {_CHECKSUMS: folder_checksums(folder, is_checked)}


def with_contents(info: dict[str, Any], contents: dict[str, bytes | Path]) -> dict[str, Any]:
    """Return the information with the checksums of some files, of which those given as bytes have new contents."""
    if _CHECKSUMS not in info:
        return info
    new = {name: content for name, content in contents.items() if isinstance(content, bytes)}
    kept = {name: digest for name, digest in info[_CHECKSUMS].items() if name in contents}
    return info | {_CHECKSUMS: {name: checksum(new[name]) if name in new else digest for name, digest in kept.items()}}


def _own_checksum(info: dict[str, Any]) -> str:
    values = {key: value for key, value in info.items() if key != _CHECKSUM}
    return checksum(json.dumps(values, sort_keys=True).encode())


def find_exported(name: str, revision: str | None = None) -> ExportedModel | None:
    """Return the graph in a folder that `d2vpr export` wrote, or download one from the Hub unless it is in the cache.

    Args:
        name: A folder, or Hub id of a model.
        revision: Commit of a model on the Hub; `None` for a folder.

    Returns:
        The graph; `None` if the model is not a graph.
    """
    if revision is None:
        return ExportedModel.open(name) if (Path(name) / INFO_FILE).is_file() else None
    if fetch_file(name, INFO_FILE, revision) is None:
        return None
    from huggingface_hub import snapshot_download

    return ExportedModel.open(snapshot_download(name, revision=revision))
