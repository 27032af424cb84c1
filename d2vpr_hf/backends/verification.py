"""Check that a graph gives the descriptors of its model: when it is exported, and again on another kind of processor."""

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.cpu_kind import cpu_kind
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.utils.bounded_files import check_entry

logger = logging.getLogger(__name__)

REFERENCES_FILE = "references.npz"
QUANTILE = 0.9  # of the relative differences of single images: the bound holds for nine of ten images
# Default bounds. int8: a tenth of the distance between photos of different places, which is about 1.41 (the square root of 2)
# of a descriptor's norm; the embedded model has 0.09. bf16 and fp32: several times the change by rounding, and less than the
# difference of a wrong graph.
MAX_DIFFERENCES = {"fp32": 1e-3, "bf16": 0.1, "int8": 0.15}
_NOTABLE_RATIO = 2  # a median difference that grows this many times on another processor is worth a warning


@dataclass(frozen=True)
class Reference:
    """Images and the descriptors that the model gives for them.

    Attributes:
        pixel_values: (B, 3, height, width), as the graph takes them.
        descriptors: (B, D), of the model in float32.
    """

    pixel_values: NDArray[np.float32]
    descriptors: NDArray[np.float32]


@dataclass(frozen=True)
class Verification:
    """A comparison of descriptors of a graph and its model, by relative differences: norm of the difference / model's norm.

    Attributes:
        runtime: Backend and precision that ran the graph, in the written form of [`Runtime`].
        cpu: The kind of processor, see [`cpu_kind`].
        images: Number of images that were compared.
        median: Median of the relative differences.
        quantile: Their 0.9 quantile ([`QUANTILE`]).
        largest: The largest of them.
        max_difference: The bound on the quantile.
    """

    runtime: str
    cpu: str
    images: int
    median: float
    quantile: float
    largest: float
    max_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `export.json` holds."""
        return asdict(self)


def verify_graph(backend: Backend, references: Sequence[Reference], max_difference: float) -> Verification:
    """Compare the descriptors of a graph with those of its model; a difference that is not finite counts as infinite."""
    parts = []
    for reference in references:
        changes = np.linalg.norm(backend.encode(reference.pixel_values) - reference.descriptors, axis=1)
        parts.append(changes / np.linalg.norm(reference.descriptors, axis=1))
    differences = np.nan_to_num(np.concatenate(parts).astype(float), nan=np.inf)
    return Verification(
        runtime=str(Runtime(backend.name, backend.precision)),
        cpu=cpu_kind(),
        images=len(differences),
        median=float(np.quantile(differences, 0.5, method="higher")),
        quantile=float(np.quantile(differences, QUANTILE, method="higher")),
        largest=float(differences.max()),
        max_difference=max_difference,
    )


def check_exported(verification: Verification) -> None:
    """Raise ValueError if an export differs from its model by more than its bound."""
    precision = Runtime.parse(verification.runtime).precision
    if not verification.quantile <= verification.max_difference:
        raise ValueError(
            f"The exported graph, run by {verification.runtime}, differs from the model by {verification.quantile:.2g} of a "
            f"descriptor's norm at the {QUANTILE} quantile of {verification.images} images (median {verification.median:.2g}, "
            f"largest {verification.largest:.2g}), more than max_difference={verification.max_difference:g}; nothing was "
            f"written. {_REMEDIES[precision]}"
        )


def check_on_this_cpu(backend: Backend, folder: Path, record: dict[str, Any]) -> None:
    """Compare a graph with its model again, unless it was verified with this backend on this kind of processor.

    If the descriptors are much less exact than at the export, a warning with the figures is logged.

    Args:
        backend: The opened graph.
        folder: The folder of the graph, which holds references.
        record: The entry `verification` of its `export.json`.

    Raises:
        ValueError: If the median difference is larger than the bound. The references are too few for the quantile.
    """
    exported = Verification(**record)
    runtime, cpu = Runtime(backend.name, backend.precision), cpu_kind()
    if (exported.runtime, exported.cpu) == (str(runtime), cpu):
        return
    same_precision = Runtime.parse(exported.runtime).precision == runtime.precision
    bound = exported.max_difference if same_precision else MAX_DIFFERENCES[runtime.precision]
    here = verify_graph(backend, load_references(folder / REFERENCES_FILE), bound)
    figures = (
        f"The graph {folder} was verified with {exported.runtime} on {exported.cpu}: a median relative difference of "
        f"{exported.median:.2g} from its model. With {runtime} on this processor ({cpu}) it is {here.median:.2g}"
    )
    remedy = "Export the model again on a processor of this kind, or in fp32."
    if not here.median <= bound:
        raise ValueError(f"{figures}, more than the {bound:g} that was accepted. {remedy}")
    if same_precision and here.median > max(_NOTABLE_RATIO * exported.median, MAX_DIFFERENCES["fp32"]):
        logger.warning("%s, within the accepted %g, but much less exact. %s", figures, bound, remedy)


def save_references(path: Path, references: Sequence[Reference]) -> None:
    """Write references to an `.npz` file, images in float16: half the size, and exact for images that were rounded to it."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, reference in enumerate(references):
        arrays[f"pixel_values_{number}"] = reference.pixel_values.astype(np.float16)
        arrays[f"descriptors_{number}"] = reference.descriptors
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type] # its signature has a flag among the arrays


def load_references(path: Path) -> list[Reference]:
    """Read the references of a folder.

    Raises:
        ValueError: If the file is damaged, or states more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                check_entry(entry)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Export the model again.") from error
    with np.load(path, allow_pickle=False) as arrays:
        return [
            Reference(arrays[f"pixel_values_{number}"].astype(np.float32), arrays[f"descriptors_{number}"])
            for number in range(len(arrays.files) // 2)
        ]


_REMEDIES = {
    "fp32": "This is an error of the runtime or of this package: please report it.",
    "bf16": "Export in fp32, or accept more with a larger max_difference after measuring recall.",
    "int8": (
        "Calibrate on other photos, more like those to come (at most 64 are used, so that more photos do not help), export in "
        "bf16 or fp32, or accept more with a larger max_difference after measuring recall on labelled photos."
    ),
}
