"""What the tests of durability run, here or in a process that is killed: an encoder of bytes, and jobs that change an index."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoder import PlaceEncoder
from d2vpr_hf.index import IndexSettings, PlaceIndex
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import read_manifest
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.index_photos import index_photos

DIM = 16
SHARD = 5


class BytesEncoder(PlaceEncoder):
    """Descriptors from the files' bytes. As with a cross-image encoder, each depends on the others of its batch."""

    fingerprint, runtime = "bytes", Runtime("bytes", "fp32")

    def __init__(self, batch_size: int = 2) -> None:
        config = SimpleNamespace(descriptor_dim=DIM, projection_dim=None, use_cross_image_encoder=True)
        self._model = SimpleNamespace(config=config)
        self.model_name = None
        self.batch_size, self.num_workers = batch_size, 1
        self.seen: list[str] = []

    def _preprocess(self, photo):
        path = photo() if callable(photo) else photo
        self.seen.append(path.name)
        content = path.read_bytes() if path.is_file() else b"bad"
        if content.startswith(b"bad"):
            return "not an image"
        return torch.tensor([list(hashlib.sha256(content).digest()[:DIM])])

    def _open_backend(self):
        return SimpleNamespace(encode=self._encode)

    def _encode(self, pixels):
        mixed = pixels.float() - 128 + 0.1 * pixels.float().mean(0)
        return torch.nn.functional.normalize(mixed).numpy()


def write_photos(folder: Path, count: int, bad: tuple[int, ...] = ()) -> PlaceTable:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:02d}.jpg").write_bytes(b"bad" if i in bad else f"photo {i}".encode())
    return PlaceTable(folder, [Place(f"{i:02d}.jpg", 1.0, i / 10) for i in range(count)], "csv")


def frame(number: int) -> tuple[np.ndarray, Place]:
    """A descriptor of unit length and a place in a local frame, as a robot has them."""
    vector = np.random.default_rng(number).standard_normal(DIM)
    return vector / np.linalg.norm(vector), Place(f"/frames/{number}", x=float(number), y=0.0, timestamp=str(number))


def begin(folder: Path, overwrite: bool = False, **changes) -> PlaceIndex:
    settings = IndexSettings(None, "bytes", DIM, batch_size=2, shard_size=SHARD)
    return PlaceIndex.create(folder, dataclasses.replace(settings, **changes), overwrite=overwrite)


# ---- jobs: each ends in the same state however often it was interrupted and begun again


def build(out: Path, photos: Path) -> None:
    """A new index of 17 photos, four of which cannot be read."""
    index_photos(table_of(photos), out, BytesEncoder(), shard_size=SHARD)


def update(out: Path, photos: Path) -> None:
    """Bring what `build` made in line: photos are gone, new, changed, and one is said to be elsewhere."""
    places = table_of(photos).places
    moved = [*places[:3], Place(places[3].path, 5.0, 5.0), *places[6:]]
    more = [Place(f"more/{i}.jpg") for i in range(7)]
    index_photos(PlaceTable(photos, [*moved, *more], "csv"), out, BytesEncoder())


def replace(out: Path, photos: Path) -> None:
    """Build anew what is there; if that was done already, only tidy up what it left."""
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
        known = set(index.places.column("path"))
        for first, last in ((0, 0), (1, 1), (2, 3), (4, 8), (9, 11)):
            if f"/frames/{last}" not in known:
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
    """The photos of the jobs; those in `more` are what `update` finds new."""
    write_photos(folder, 17, bad=(1, 4, 9, 16))
    write_photos(folder / "more", 0)
    for i in range(7):
        (folder / "more" / f"{i}.jpg").write_bytes(b"bad" if i == 2 else f"more {i}".encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an index; there must be no others than those it names."""
    names = {file.name for file in read_manifest(folder).files}
    assert {path.name for path in folder.iterdir()} == {".lock", "manifest.json", *names}
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_logged(job: str, out: Path, photos: Path, log: Path) -> None:
    """Run a job and write down every manifest that is known to be stored, before going on."""
    store, file = IndexFolder.commit, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def logged(self, stored, manifest, waiting=0):
        store(self, stored, manifest, waiting)
        os.write(file, f"{hashlib.sha256(manifest.to_text().encode()).hexdigest()}\n".encode())

    IndexFolder.commit = logged
    try:
        JOBS[job](out, photos)
    finally:
        IndexFolder.commit = store
        os.close(file)
