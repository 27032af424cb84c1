"""The manifest: what an index is, and which files hold its rows. It is replaced whole, so readers see one state or the next."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from d2vpr_hf.stores import COMPRESSIONS, Compression, check_compression
from d2vpr_hf.stores.descriptors import DTYPES
from d2vpr_hf.utils.atomic_files import TEMPORARY, checksum

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
REPLACEMENT = "manifest-next.json"  # of an index that is being built in the place of another
SHARD_SIZE = 4096  # rows of a shard at most, unless said otherwise

_OLD_FILES = ("descriptors.safetensors", "places.parquet")  # of format 1
_SHARD_FILE = re.compile(r"(?:descriptors|places)-(\d{6,})\.(?:safetensors|parquet)")
_CALIBRATION_FILE = re.compile(r"calibration-[0-9a-f]{16}\.json")
_STORE_FOLDER = re.compile(rf"derived-[0-9a-f]{{16}}\.({'|'.join(COMPRESSIONS)}|milvus-[0-9a-f]{{8}})")
_REBUILD = "`d2vpr index PHOTOS --out INDEX --overwrite` builds it anew"
_REPAIR = "`d2vpr repair INDEX` drops what is damaged, `d2vpr index PHOTOS --out INDEX` then encodes it again"


class DamagedIndexError(ValueError):
    """A file of an index is not as it was stored. The message names it and says how to repair the index."""


@dataclass(frozen=True)
class StoredFile:
    """A file of an index: its name, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "StoredFile":
        """Describe a file by its content."""
        return cls(name, len(content), checksum(content))


@dataclass(frozen=True)
class Shard:
    """Rows that were stored together.

    Attributes:
        rows: How many its files hold.
        removed: Which of them were removed since, ascending.
        descriptors, places: Its files.
    """

    rows: int
    removed: tuple[int, ...]
    descriptors: StoredFile
    places: StoredFile

    @property
    def count(self) -> int:
        """Rows that can be found."""
        return self.rows - len(self.removed)


@dataclass(frozen=True)
class Manifest:
    """Everything about an index that is not in its rows.

    Attributes:
        model: Folder or Hub id; `None` for the embedded model, or one that was never saved.
        fingerprint: The hash of model and preprocessing that queries must have too.
        descriptor_dim: Width of the descriptors.
        dtype: How their numbers are stored, `"float16"` or `"float32"`.
        photos: The folder that the places' paths are relative to; empty if there is none.
        projection_dim: Width that the model projects descriptors to; `None` if it does not, or nobody said.
        batch_size: Photos that the network saw at once; `None` if nobody said.
        metric: How descriptors are compared.
        shard_size: Rows of a shard at most.
        shards: Where the rows are, in their order.
        next_shard: The number that the next shard's files get; numbers are never used twice.
        left_out: Photos that could not be read when they were last tried, with the reason.
        complete: Whether the last build or update came to its end.
        compression: How the store that is derived from the rows compresses them for searching; `"none"` for exact search.
        calibration: The file of the calibration, or `None`.
        store_uri: Where the store is, if it is Milvus's; `None` for one in the folder. Written only where there is one.
        runtimes: The backends and precisions that made the rows, such as `"torch fp32"`, the latest last; empty, and not
            written, if nobody said.
    """

    model: str | None
    fingerprint: str
    descriptor_dim: int
    dtype: str = "float16"
    photos: str = ""
    projection_dim: int | None = None
    batch_size: int | None = None
    metric: str = "l2"
    shard_size: int = SHARD_SIZE
    shards: tuple[Shard, ...] = ()
    next_shard: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    compression: Compression = "none"
    calibration: StoredFile | None = None
    store_uri: str | None = None
    runtimes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_compression(self.compression)
        if self.dtype not in DTYPES:
            raise ValueError(f"Descriptors are stored as {' or '.join(DTYPES)}, got {self.dtype!r}.")
        if self.descriptor_dim < 1 or self.shard_size < 1:
            raise ValueError(f"descriptor_dim and shard_size must be at least 1, got {self.descriptor_dim}, {self.shard_size}.")

    @property
    def count(self) -> int:
        """Rows that can be found."""
        return sum(shard.count for shard in self.shards)

    @property
    def store_kind(self) -> str:
        """What is derived from the rows for searching: a compression, or a collection of the Milvus at a certain URI."""
        return self.compression if self.store_uri is None else f"milvus-{checksum(self.store_uri.encode())[:8]}"

    @property
    def rows_id(self) -> str:
        """A name for exactly these rows in this order."""
        rows = [(shard.descriptors.sha256, shard.places.sha256, shard.removed) for shard in self.shards]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    @property
    def files(self) -> list[StoredFile]:
        """The files that it names."""
        of_shards = [file for shard in self.shards for file in (shard.descriptors, shard.places)]
        return of_shards if self.calibration is None else [*of_shards, self.calibration]

    def to_text(self) -> str:
        """Return the content of the file, its own checksum included."""
        values = {"format_version": FORMAT_VERSION, "count": self.count, **asdict(self)}
        values["left_out"] = dict(sorted(self.left_out.items()))
        for name in ("store_uri", "runtimes"):  # which indexes had no word for at first: they keep their checksums
            if not values[name]:
                del values[name]
        return json.dumps(values | {"checksum": _checksum(values)}, indent=2) + "\n"


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """Read the manifest of an index.

    Raises:
        FileNotFoundError: If the folder is no index.
        DamagedIndexError: If it is damaged.
        ValueError: If it is of another version of the format.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no index: it has no {name}. `d2vpr index` makes one.")
    try:
        text = path.read_bytes().decode()
        values = json.loads(text)
        version = values["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    _check_version(folder, version)
    try:
        manifest = _from_values(values)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if manifest.to_text() != text:
        raise _damaged(path, "its checksum is wrong, or somebody edited it")
    return manifest


def damaged_file(folder: Path, name: str, reason: object) -> DamagedIndexError:
    """Make the error for a file of an index that is not as it was stored."""
    line = " ".join(str(reason).split())  # Parquet's have several
    return DamagedIndexError(f"The index {folder} is damaged: {name}: {line}. `d2vpr verify` names all damage; {_REPAIR}.")


def folder_text(photos: str | Path | None) -> str:
    """Return how a manifest names the photos' folder; no folder is the empty text."""
    return "" if photos is None or Path(photos) == Path() else str(photos)


def shard_files(number: int) -> tuple[str, str]:
    """Name the files of a shard: descriptors, places."""
    return f"descriptors-{number:06d}.safetensors", f"places-{number:06d}.parquet"


def store_folder(manifest: Manifest) -> str:
    """Name the folder of a vector store that is built of exactly these rows."""
    return f"derived-{manifest.rows_id}.{manifest.store_kind}"


def calibration_file(content: bytes) -> str:
    """Name a calibration's file by its content, so that a new one never overwrites one that is in force."""
    return f"calibration-{checksum(content)[:16]}.json"


def leftover_files(names: Sequence[str], manifest: Manifest, used: Sequence[str]) -> list[str]:
    """Pick the files that an index once wrote and no longer needs; files that it never writes are not among them.

    Args:
        names: What is in its folder.
        manifest: What is in force.
        used: What is needed beside the files that it names.
    """
    needed = {MANIFEST, *used, *(file.name for file in manifest.files)}
    return [name for name in names if is_own_file(name) and name not in needed]


def is_own_file(name: str) -> bool:
    """Tell whether an index writes files of such a name, apart from the lock."""
    name = name.removesuffix(TEMPORARY)
    patterns = (_SHARD_FILE, _CALIBRATION_FILE, _STORE_FOLDER)
    return name in (MANIFEST, REPLACEMENT, *_OLD_FILES) or any(pattern.fullmatch(name) for pattern in patterns)


def is_store_folder(name: str) -> bool:
    """Tell whether a folder of such a name is a vector store of an index, or was to become one."""
    return _STORE_FOLDER.fullmatch(name.removesuffix(TEMPORARY)) is not None


def free_number(names: Sequence[str]) -> int:
    """Return the first number above those of all shard files there are."""
    return 1 + max((int(match[1]) for match in map(_SHARD_FILE.match, names) if match), default=-1)


def _check_version(folder: Path, version: Any) -> None:
    if version == FORMAT_VERSION:
        return
    advice = "use the version of this package that wrote it" if version != 1 else f"build it anew: {_REBUILD}"
    raise ValueError(f"The index {folder} has format {version}, this package reads format {FORMAT_VERSION}; {advice}.")


def _damaged(path: Path, reason: object) -> DamagedIndexError:
    return DamagedIndexError(f"{path} is damaged ({reason}). {_REBUILD}.")


def _checksum(values: dict[str, Any]) -> str:
    return checksum(json.dumps(values, sort_keys=True).encode())


def _from_values(values: dict[str, Any]) -> Manifest:
    values = {"store_uri": None, "runtimes": [], **values}
    own = {key: values[key] for key in (field.name for field in fields(Manifest))}
    _check_types(own)
    calibration = None if own["calibration"] is None else _stored_file(own["calibration"], _CALIBRATION_FILE)
    shards, runtimes = map(_shard, own["shards"]), map(str, own["runtimes"])
    return Manifest(**own | {"shards": tuple(shards), "calibration": calibration, "runtimes": tuple(runtimes)})


_TYPES: dict[str, Any] = {
    "model": str | None,
    "fingerprint": str,
    "descriptor_dim": int,
    "dtype": str,
    "photos": str,
    "projection_dim": int | None,
    "batch_size": int | None,
    "metric": str,
    "shard_size": int,
    "shards": list,
    "next_shard": int,
    "left_out": dict,
    "complete": bool,
    "compression": str,
    "calibration": dict | None,
    "store_uri": str | None,
    "runtimes": list,
}


def _check_types(values: dict[str, Any]) -> None:
    wrong = [key for key, kind in _TYPES.items() if not isinstance(values[key], kind)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of a wrong type")


def _shard(values: dict[str, Any]) -> Shard:
    removed = tuple(int(row) for row in values["removed"])
    if list(removed) != sorted({row for row in removed if 0 <= row < values["rows"]}):
        raise ValueError("removed rows that do not exist")
    files = (_stored_file(values[kind], _SHARD_FILE) for kind in ("descriptors", "places"))
    return Shard(int(values["rows"]), removed, *files)


def _stored_file(values: dict[str, Any], pattern: re.Pattern[str]) -> StoredFile:
    """Read a file's entry; its name must not lead out of the folder, as the manifest may come from the Hub."""
    if not pattern.fullmatch(values["name"]):
        raise ValueError(f"a file named {values['name']!r}")
    return StoredFile(values["name"], int(values["size"]), str(values["sha256"]))
