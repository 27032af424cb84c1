"""An encoder of bytes, and jobs that change an index: tests run them in their own process, or in one that is killed."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders import EncodedPhotos
from d2vpr_hf.index import IndexSettings, PlaceIndex
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import read_manifest
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.index_photos import index_photos

DIM = 16
SHARD = 5


class BytesEncoder:
    """An encoder of the bytes of files. As with a cross-image encoder, a descriptor depends on the others of its batch."""

    model_name, fingerprint = None, "bytes"
    descriptor_dim, projection_dim = DIM, None
    depends_on_batch, runtime = True, Runtime("bytes", "fp32")

    def __init__(self, batch_size: int = 2) -> None:
        self.batch_size = batch_size
        self.seen: list[str] = []

    def encode(self, photos, progress=None, *, order=None):
        numbered = enumerate(photos) if order is None else ((row, photos[row]) for row in order)
        descriptors, skipped = {}, {}
        while batch := list(islice(numbered, self.batch_size)):
            contents = {row: self._read(photo() if callable(photo) else photo) for row, photo in batch}
            skipped |= {row: "not an image" for row, content in contents.items() if content.startswith(b"bad")}
            readable = [row for row in contents if row not in skipped]
            if readable:
                pixels = np.array([list(hashlib.sha256(contents[row]).digest()[:DIM]) for row in readable])
                descriptors |= dict(zip(readable, self.encode_batch(pixels), strict=True))
            if progress is not None:
                progress(len(batch))
        rows = sorted(descriptors)
        stacked = np.array([descriptors[row] for row in rows], np.float32).reshape(-1, DIM)
        return EncodedPhotos(stacked, np.array(rows, np.int64), dict(sorted(skipped.items())))

    def encode_batch(self, pixels):
        mixed = torch.from_numpy(pixels).float() - 128
        mixed += 0.1 * (mixed + 128).mean(0)
        return torch.nn.functional.normalize(mixed).numpy()

    def _read(self, path: Path) -> bytes:
        self.seen.append(path.name)
        return path.read_bytes() if path.is_file() else b"bad"


def write_photos(folder: Path, count: int, bad: tuple[int, ...] = ()) -> PlaceTable:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:02d}.jpg").write_bytes(b"bad" if i in bad else f"photo {i}".encode())
    return PlaceTable(folder, [Place(f"{i:02d}.jpg", 1.0, i / 10) for i in range(count)], "csv")


def frame(number: int) -> tuple[np.ndarray, Place]:
    """Return a descriptor of unit length and a place in a local frame, like those of a robot's camera."""
    vector = np.random.default_rng(number).standard_normal(DIM)
    return vector / np.linalg.norm(vector), Place(f"/frames/{number}", x=float(number), y=0.0, timestamp=str(number))


def begin(folder: Path, overwrite: bool = False, **changes) -> PlaceIndex:
    settings = IndexSettings(None, "bytes", DIM, batch_size=2, shard_size=SHARD)
    return PlaceIndex.create(folder, dataclasses.replace(settings, **changes), overwrite=overwrite)


# ---- jobs: each ends in the same state, even if it is interrupted and started again many times


def build(out: Path, photos: Path) -> None:
    """Build an index of 17 photos, four of which cannot be read."""
    index_photos(table_of(photos), out, BytesEncoder(), shard_size=SHARD)


def update(out: Path, photos: Path) -> None:
    """Update the index that `build` made: some photos are missing, some are new, and one has another position."""
    places = table_of(photos).places
    moved = [*places[:3], Place(places[3].path, 5.0, 5.0), *places[6:]]
    more = [Place(f"more/{i}.jpg") for i in range(7)]
    index_photos(PlaceTable(photos, [*moved, *more], "csv"), out, BytesEncoder())


def replace(out: Path, photos: Path) -> None:
    """Replace the index; if an earlier run replaced it, only remove files that are no longer needed."""
    if len(PlaceIndex.open(out)) == 4:
        with PlaceIndex.open(out):
            return
    few = PlaceTable(photos, table_of(photos).places[:6], "csv")
    index_photos(few, out, BytesEncoder(), overwrite=True, shard_size=2)


def drive(out: Path, photos: Path) -> None:
    """Add frames, store them now and then, remove some, compact."""
    if not (out / "manifest.json").exists():
        begin(out).close()
    with PlaceIndex.open(out) as index:
        stored = set(index.places.column("path"))
        for first, last in ((0, 0), (1, 1), (2, 3), (4, 8), (9, 11)):
            if f"/frames/{last}" not in stored:
                for number in range(first, last + 1):
                    index.add(*frame(number))
                index.flush()
        if "/frames/2" in index.places.column("path"):
            index.remove(["/frames/2", "/frames/9", "/frames/4"])
        index.compact()


JOBS: dict[str, Callable[[Path, Path], None]] = {"build": build, "update": update, "replace": replace, "drive": drive}


def table_of(photos: Path) -> PlaceTable:
    return PlaceTable(photos, [Place(f"{i:02d}.jpg", 1.0, i / 10) for i in range(17)], "csv")


def prepare_photos(folder: Path) -> Path:
    """Write the photos of the jobs; the photos in `more` are new for `update`."""
    write_photos(folder, 17, bad=(1, 4, 9, 16))
    write_photos(folder / "more", 0)
    for i in range(7):
        (folder / "more" / f"{i}.jpg").write_bytes(b"bad" if i == 2 else f"more {i}".encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of an index by name; there must be no files that the manifest does not name."""
    names = {file.name for file in read_manifest(folder).files}
    assert {path.name for path in folder.iterdir()} == {".lock", "manifest.json", *names}
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_logged(job: str, out: Path, photos: Path, log: Path) -> None:
    """Run a job, and append the hash of each manifest to a log as soon as the manifest is stored."""
    store, file = IndexFolder.commit, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def logged(self, stored, manifest, pending=0):
        store(self, stored, manifest, pending)
        os.write(file, f"{hashlib.sha256(manifest.to_text().encode()).hexdigest()}\n".encode())

    IndexFolder.commit = logged
    try:
        JOBS[job](out, photos)
    finally:
        IndexFolder.commit = store
        os.close(file)
