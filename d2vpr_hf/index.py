"""PlaceIndex: descriptors and places in a folder that can be inspected and searched."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from d2vpr_hf.readers import PLACE_SCHEMA, Place
from d2vpr_hf.search import exact_search, similarity

FORMAT_VERSION = 1
_MANIFEST, _DESCRIPTORS, _PLACES = "manifest.json", "descriptors.safetensors", "places.parquet"
_MANIFEST_KEYS: dict[str, Any] = {
    "model": str | None,
    "fingerprint": str,
    "metric": str,
    "count": int,
    "descriptor_dim": int,
    "photos": str,
}


@dataclass(frozen=True)
class Match:
    """One database photo found for a query.

    Attributes:
        rank: 1 for the nearest.
        row: Its row in the index.
        place: Its place; `photo` is its file.
        score: Cosine similarity of the descriptors, at most 1 (1 - d² / 2 of the L2 distance d for projected ones).
    """

    rank: int
    row: int
    place: Place
    photo: Path
    score: float


@dataclass(frozen=True)
class PlaceIndex:
    """Places and their descriptors, and what made them.

    Attributes:
        folder: The folder that the places' paths are relative to.
        places: One a row.
        descriptors: (N, D) float32.
        model: The model's folder or Hub id; `None` for the one that comes with this package.
        fingerprint: The hash of the model and its preprocessing, which queries must have too.
    """

    folder: Path
    places: list[Place]
    descriptors: NDArray[np.float32]
    model: str | None
    fingerprint: str

    def __post_init__(self) -> None:
        if len(self.places) != len(self.descriptors):
            raise ValueError(f"Expected one descriptor a place, got {len(self.descriptors)} for {len(self.places)}.")

    def __len__(self) -> int:
        return len(self.places)

    def search(self, descriptors: NDArray[np.float32], top_k: int) -> list[list[Match]]:
        """Find the nearest places of each descriptor (Q, D), the nearest first: Q lists of min(top_k, N) matches."""
        distances, rows = exact_search(descriptors, self.descriptors, top_k)
        scores = similarity(distances)
        return [
            [self._match(rank, row, score) for rank, (row, score) in enumerate(zip(*pair, strict=True), 1)]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _match(self, rank: int, row: int, score: float) -> Match:
        place = self.places[row]
        return Match(rank, row, place, self.folder / place.path, score)

    def save(self, out: str | Path, overwrite: bool = False) -> None:
        """Write the index as a folder that appears whole or not at all.

        Raises:
            FileExistsError: If `out` exists, unless `overwrite` is set and it is an index.
        """
        out = check_free(Path(out), overwrite)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            whole, old = Path(scratch) / "new", Path(scratch) / "old"
            whole.mkdir()
            self._write(whole)
            _swap(whole, out, old)

    def _write(self, folder: Path) -> None:
        safetensors.numpy.save_file({"descriptors": self.descriptors}, folder / _DESCRIPTORS)
        pq.write_table(pa.Table.from_pylist([asdict(place) for place in self.places], PLACE_SCHEMA), folder / _PLACES)
        (folder / _MANIFEST).write_text(json.dumps(self._manifest(), indent=2) + "\n", encoding="utf-8")

    def _manifest(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "metric": "l2",
            "count": len(self),
            "descriptor_dim": int(self.descriptors.shape[1]),
            "photos": str(self.folder),
        }

    @classmethod
    def open(cls, folder: str | Path) -> "PlaceIndex":
        """Open an index.

        Raises:
            FileNotFoundError: If `folder` is no index, or a part of it is missing.
            ValueError: If its parts do not fit each other, or a newer version of this package wrote it.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        places, descriptors = _read_rows(folder)
        expected = (manifest["count"], manifest["descriptor_dim"])
        if descriptors.shape != expected or len(places) != manifest["count"]:
            raise ValueError(
                f"The parts of the index {folder} do not fit: the manifest says {expected}, the descriptors are "
                f"{descriptors.shape} and there are {len(places)} places. Build it anew with `d2vpr index`."
            )
        return cls(Path(manifest["photos"]), places, descriptors, manifest["model"], manifest["fingerprint"])


def _swap(new: Path, place: Path, old: Path) -> None:
    """Move a folder to its place and what was there away; back, if that fails."""
    if not place.exists():
        new.rename(place)
        return
    place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise


def check_free(out: Path, overwrite: bool) -> Path:
    """Return where an index to be written to `out` will really lie, links followed.

    Raises:
        FileExistsError: If something is there already, unless `overwrite` is set and it is an index and nothing else.
        PermissionError: If its parent folder cannot be written to.
    """
    try:
        place = out.resolve()
    except RuntimeError as error:  # Python's word for links in a circle
        raise FileExistsError(f"{out} is a link that leads nowhere. Give another folder.") from error
    if place.exists() and not overwrite:
        raise FileExistsError(f"{out} exists already. Give another folder, or `--overwrite` to replace an index there.")
    if place.exists() and not _is_index_alone(place):
        raise FileExistsError(
            f"{out} is not an index of this format, or holds other files too; it is not replaced. Give another folder, or "
            "remove it yourself."
        )
    check_writable(out)
    return place


def check_writable(out: Path) -> None:
    """Raise NotADirectoryError or PermissionError if the folder that a path would lie in cannot be written to."""
    parent = next(folder for folder in out.resolve().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is a file, so that {out} cannot lie in it. Give another path.")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"No permission to write into {parent}, where {out} would lie.")


def _is_index_alone(folder: Path) -> bool:
    """Tell whether a folder holds an index and nothing that would be lost with it."""
    try:
        _read_manifest(folder)
    except (OSError, ValueError):
        return False
    return all(path.name in (_MANIFEST, _DESCRIPTORS, _PLACES) and path.is_file() for path in folder.iterdir())


def _read_rows(folder: Path) -> tuple[list[Place], NDArray[np.float32]]:
    """Read an index's places and descriptors."""
    missing = [name for name in (_DESCRIPTORS, _PLACES) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"The index {folder} lacks {', '.join(missing)}. Build it anew with `d2vpr index`.")
    try:
        places = [Place(**row) for row in pq.read_table(folder / _PLACES).to_pylist()]
        descriptors = safetensors.numpy.load_file(folder / _DESCRIPTORS)["descriptors"]
    except (SafetensorError, pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise ValueError(f"The index {folder} is damaged ({error}). Build it anew with `d2vpr index`.") from error
    if descriptors.dtype != np.float32 or not np.isfinite(descriptors).all():
        raise ValueError(f"The index {folder} is damaged: its descriptors are not finite float32 numbers. Build it anew.")
    return places, descriptors


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no index: it has no {_MANIFEST}. `d2vpr index` makes one.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
        wrong = [key for key, kind in _MANIFEST_KEYS.items() if key not in manifest or not isinstance(manifest[key], kind)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Build the index anew with `d2vpr index`.") from error
    if version == FORMAT_VERSION and wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} missing or wrong. Build the index anew with `d2vpr index`.")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"The index {folder} has format {version}, this package reads format {FORMAT_VERSION}. "
            "Build it anew with `d2vpr index`, or use the version of this package that wrote it."
        )
    return manifest


__all__ = ["FORMAT_VERSION", "Match", "PlaceIndex", "check_free", "check_writable"]
