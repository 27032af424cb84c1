"""The manifest: the settings and state of an index, and the files of its rows. It is replaced as a whole, in one step."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.stores import COMPRESSIONS, SERVICES, Compression, check_compression
from d2vpr_hf.stores.descriptors import DTYPES
from d2vpr_hf.utils.atomic_files import TEMPORARY, checksum
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.value_types import has_type

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
REPLACEMENT = "manifest-next.json"  # the manifest of an index that is being built and will replace another one
SHARD_SIZE = 4096  # default of the maximum number of rows in a shard

_KEYS = {
    "model_name": "model",
    "photo_folder": "photos",
    "skipped": "left_out",
    "service": "store_service",
}  # attributes with another key on disk
_JSON_TYPES: dict[str, Any] = {  # of keys whose values have another type in Python
    "photos": str,
    "runtimes": list,
    "model_options": dict,
    "shards": list,
    "compression": str,
    "left_out": dict,
    "calibration": dict | None,
    "unfinished": dict | None,
    "service_data": list,
    "fusion": dict | None,
}
_OLD_FILES = ("descriptors.safetensors", "places.parquet")  # of format 1
_SHARD_FILE = re.compile(r"(?:descriptors|places)-(\d{6,})(?P<interim>-\d{8,})?\.(?:safetensors|parquet)")
_CALIBRATION_FILE = re.compile(r"calibration-[0-9a-f]{16}\.json")
_FUSED_FILE = re.compile(r"fused-photos-[0-9a-f]{16}\.parquet")
_STORE_FOLDER = re.compile(
    rf"derived-[0-9a-f]{{16}}\.(?:{'|'.join(COMPRESSIONS)}|(?P<service>{'|'.join(SERVICES)})-[0-9a-f]{{8}})"
)
_PARSING_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_REBUILD = "`d2vpr index PHOTOS --out INDEX --overwrite` builds it again"
_REPAIR = "`d2vpr repair INDEX` removes the damaged parts, `d2vpr index PHOTOS --out INDEX` then encodes their photos again"


FusionMethod = Literal["mean", "hops"]
FUSION_METHODS: tuple[FusionMethod, ...] = get_args(FusionMethod)


class DamagedIndexError(ValueError):
    """A file of an index is missing or has changed. The message names the file and the commands that repair the index."""


@dataclass(frozen=True)
class StoredFile:
    """A file of an index: its name, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "StoredFile":
        """Return the entry of a file with this content."""
        return cls(name, len(content), checksum(content))


@dataclass(frozen=True)
class Shard:
    """Rows that were stored together.

    Attributes:
        rows: Number of rows in its files.
        removed: Numbers of the rows that were removed later, ascending.
        descriptors, places: Its files.
    """

    rows: int
    removed: tuple[int, ...]
    descriptors: StoredFile
    places: StoredFile

    @property
    def count(self) -> int:
        """The number of rows that were not removed."""
        return self.rows - len(self.removed)

    @property
    def is_interim(self) -> bool:
        """Whether its rows belong to an unfinished portion, and one shard of the whole portion will replace it."""
        match = _SHARD_FILE.fullmatch(self.descriptors.name)
        return match is not None and match["interim"] is not None


@dataclass(frozen=True)
class ServiceData:
    """The data of a vector store that this index sent to a service, recorded before they are sent.

    Attributes:
        folder: Name of the store's folder.
        service: Kind of the service.
        uri: Its address.
        name: Name of the data there.
        checksum: Checksum of the data, as of `RemoteStore.checksum`.
    """

    folder: str
    service: str
    uri: str
    name: str
    checksum: str

    def __post_init__(self) -> None:
        match = _STORE_FOLDER.fullmatch(self.folder)
        if match is None or match["service"] != self.service or not re.fullmatch(r"[0-9a-z_]{1,64}", self.name):
            raise ValueError(f"data of a service in {self.folder!r} under the name {self.name!r}")


@dataclass(frozen=True)
class Fusion:
    """The rule by which the descriptors of the photos of a place became one row.

    Attributes:
        method: `"mean"` or `"hops"`, see [`d2vpr_hf.retrieval.fuse_places.fuse_places`].
        cell, heading: Side of a grid cell in metres and width of a bin of directions in degrees, as of [`PlaceGrid`].
        photos: Number of photos.
        file: The file that lists the photos of each row.
    """

    method: FusionMethod
    cell: float
    heading: float
    photos: int
    file: StoredFile

    def __post_init__(self) -> None:
        if self.method not in FUSION_METHODS:
            raise ValueError(f"Expected a fusion of {', '.join(FUSION_METHODS)}, got {self.method!r}.")

    def __str__(self) -> str:
        directions = "any direction" if self.heading == 360 else f"directions of {self.heading:g}°"
        return f"{self.method} of {self.photos} photos, cells of {self.cell:g} m, {directions}"


@dataclass(frozen=True)
class UnfinishedPortion:
    """The portion of photos, of a shard's size, that a build is encoding; its rows so far are in the interim shards at the end.

    Attributes:
        photos: Number of its photos that were encoded or skipped.
        retried: Whether an earlier run skipped its photos, so that it is encoded after all others.
    """

    photos: int
    retried: bool = False


@dataclass(frozen=True)
class IndexSettings:
    """The settings that an index is built with: the encoder of its rows, and how they are stored.

    Attributes:
        model_name: Folder or Hub id of the model, or `"embedded"`; `None` for one that was never saved, and in indexes of
            earlier versions for the embedded one.
        fingerprint: Hash of the model and its preprocessing; queries must have the same one.
        descriptor_dim: Width of the descriptors.
        dtype: Type of the stored descriptors, `"float16"` or `"float32"`.
        photo_folder: The folder that the places' paths are relative to; `Path()` if the photos have no folder.
        projection_dim: Width that the model projects descriptors to; `None` without a projection, or if it is not known.
        batch_size: Photos that the network encodes at once; `None` if it is not known.
        metric: Distance between descriptors; `"l2"` is the only one.
        shard_size: Maximum number of rows in a shard.
        runtimes: Backends and precisions that made the rows, the latest last; empty if not known.
        model_revision: Commit of the model on the Hub; `None` for other models, and if it is not known.
        model_options: Options to load the model with, as of `ModelOptions.to_dict`; empty for models without options.
        descriptor_name: Name that a user gave descriptors of another program; `None` for rows that a model of this package's
            encoders made.
    """

    model_name: str | None
    fingerprint: str
    descriptor_dim: int
    dtype: str = "float16"
    photo_folder: Path = Path()
    projection_dim: int | None = None
    batch_size: int | None = None
    metric: str = "l2"
    shard_size: int = SHARD_SIZE
    runtimes: tuple[Runtime, ...] = ()
    model_revision: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    descriptor_name: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"Descriptors are stored as {' or '.join(DTYPES)}, got {self.dtype!r}.")
        if self.descriptor_dim < 1 or self.shard_size < 1:
            raise ValueError(f"descriptor_dim and shard_size must be at least 1, got {self.descriptor_dim}, {self.shard_size}.")

    @property
    def runtime(self) -> Runtime | None:
        """The backend and precision that made the latest rows; `None` if not known."""
        return self.runtimes[-1] if self.runtimes else None

    def check_has_model(self) -> None:
        """Raise ValueError if the rows are descriptors that another program made, so that no model is known for photos."""
        if self.descriptor_name is not None:
            raise ValueError(
                f"The index holds descriptors of {self.descriptor_dim} numbers that another program made, under the "
                f"name {self.descriptor_name!r}, and no model of photos is recorded. Search it with descriptors of the same "
                "program: `d2vpr search INDEX --descriptors FILE`."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, under the keys and in the order of the manifest."""
        values = {_KEYS.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        photo_folder = "" if self.photo_folder == Path() else str(self.photo_folder)
        return values | {"photos": photo_folder, "runtimes": [str(runtime) for runtime in self.runtimes]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "IndexSettings":
        """Read the settings from a manifest's values, whose types were checked."""
        attributes = {field.name: values[_KEYS.get(field.name, field.name)] for field in fields(cls)}
        return cls(
            **attributes | {"photo_folder": Path(values["photos"]), "runtimes": tuple(map(Runtime.parse, values["runtimes"]))}
        )


@dataclass(frozen=True)
class Manifest:
    """Everything about an index that is not in its rows.

    Attributes:
        settings: The settings that it is built with.
        shards: The shards, in the order of their rows.
        next_shard: The number of the next shard's files; no number is used twice.
        skipped: Photos that could not be read at the last attempt, with the reason.
        complete: Whether the last build or update was completed.
        compression: Compression of the vector store that is derived from the rows; `"none"` for exact search.
        calibration: The file of the calibration, or `None`.
        store_uri: Address of the service whose vector store searches the rows; `None` for a store in the folder.
        service: Kind of that service; `None` for a store in the folder.
        unfinished: The portion that a build was encoding, and the next run continues; `None` if there is none.
        service_data: The data that this index sent to services, and may remove from there.
        fusion: The fusion of photos that made the rows; `None` if each row is a photo.
    """

    settings: IndexSettings
    shards: tuple[Shard, ...] = ()
    next_shard: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    compression: Compression = "none"
    calibration: StoredFile | None = None
    store_uri: str | None = None
    service: str | None = None
    unfinished: UnfinishedPortion | None = None
    service_data: tuple[ServiceData, ...] = ()
    fusion: Fusion | None = None

    def __post_init__(self) -> None:
        check_compression(self.compression)
        if self.service not in (None, *SERVICES):
            raise ValueError(f"Expected a service of {', '.join(SERVICES)}, got {self.service!r}.")

    @property
    def count(self) -> int:
        """The number of rows that were not removed."""
        return sum(shard.count for shard in self.shards)

    @property
    def store_kind(self) -> str:
        """The end of the store's folder name: a compression, or a service with a hash of its address."""
        return self.compression if self.store_uri is None else f"{self.service}-{checksum(self.store_uri.encode())[:8]}"

    @property
    def rows_id(self) -> str:
        """Hash of exactly these rows in this order."""
        rows = [(shard.descriptors.sha256, shard.places.sha256, shard.removed) for shard in self.shards]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    @property
    def files(self) -> list[StoredFile]:
        """All files that the manifest names."""
        shard_files = [file for shard in self.shards for file in (shard.descriptors, shard.places)]
        others = (self.calibration, None if self.fusion is None else self.fusion.file)
        return [*shard_files, *(file for file in others if file is not None)]

    def to_text(self) -> str:
        """Return the content of the manifest's file, which ends with a checksum of all values before it."""
        settings = self.settings.to_dict()
        service = None if self.service == SERVICES[0] else self.service
        optional = {
            "store_uri": self.store_uri,
            "store_service": service,
            "runtimes": settings.pop("runtimes"),
            "model_revision": settings.pop("model_revision"),
            "model_options": settings.pop("model_options"),
            "descriptor_name": settings.pop("descriptor_name"),
            "unfinished": None if self.unfinished is None else asdict(self.unfinished),
            "service_data": [asdict(data) for data in self.service_data],
            "fusion": None if self.fusion is None else asdict(self.fusion),
        }
        values = {
            "format_version": FORMAT_VERSION,
            "count": self.count,
            **settings,
            "shards": [asdict(shard) for shard in self.shards],
            "next_shard": self.next_shard,
            "left_out": dict(sorted(self.skipped.items())),
            "complete": self.complete,
            "compression": self.compression,
            "calibration": None if self.calibration is None else asdict(self.calibration),
            # added after format 2 shipped; omitted when empty, or for the first service, so that old checksums still match
            **{key: value for key, value in optional.items() if value},
        }
        return json.dumps(values | {"checksum": _checksum(values)}, indent=2) + "\n"


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """Read the manifest of an index.

    Raises:
        FileNotFoundError: If the folder is not an index.
        DamagedIndexError: If the manifest is damaged.
        OSError: If it cannot be read at this moment, which is not damage.
        ValueError: If it has another version of the format.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not an index: it has no {name}. `d2vpr index` makes one.")
    try:
        text = path.read_bytes().decode()
        values = parse_json(text)
        version = values["format_version"]
    except _PARSING_ERRORS as error:
        raise _damaged(path, error) from error
    _check_version(folder, version)
    try:
        manifest = _from_values(values)
        _check_content(values, text, manifest)
    except _PARSING_ERRORS as error:
        raise _damaged(path, error) from error
    return manifest


def damaged_file(folder: Path, name: str, reason: object) -> DamagedIndexError:
    """Return the error for a file of an index that is missing or has changed."""
    line = " ".join(str(reason).split())  # errors of Parquet have several lines
    return DamagedIndexError(f"The index {folder} is damaged: {name}: {line}. `d2vpr verify` names all damage; {_REPAIR}.")


def shard_names(number: int, unfinished: UnfinishedPortion | None = None) -> tuple[str, str]:
    """Return the names of a shard's two files: descriptors, places.

    Those of an interim shard have the number of the shard that will hold the whole portion, and its number of photos so far.
    """
    end = "" if unfinished is None else f"-{unfinished.photos:08d}"
    return f"descriptors-{number:06d}{end}.safetensors", f"places-{number:06d}{end}.parquet"


def store_folder(manifest: Manifest) -> str:
    """Return the folder name of a vector store that is built of exactly these rows."""
    return f"derived-{manifest.rows_id}.{manifest.store_kind}"


def calibration_file(content: bytes) -> str:
    """Return the file name of a calibration: it has a hash of the content, so that a new file never overwrites the old one."""
    return f"calibration-{checksum(content)[:16]}.json"


def fused_photos_file(content: bytes) -> str:
    """Return the name of the file that lists the photos of fused places; it has a hash of the content."""
    return f"fused-photos-{checksum(content)[:16]}.parquet"


def leftover_files(names: Sequence[str], manifest: Manifest, used: Sequence[str]) -> list[str]:
    """Return the files that an index once wrote and no longer needs; files that it never writes are not among them.

    Args:
        names: All names in its folder.
        manifest: The current manifest.
        used: Names of stores that are needed in addition to the files in the manifest.
    """
    needed = {MANIFEST, *used, *(file.name for file in manifest.files)}
    return [name for name in names if is_index_file(name) and name not in needed]


def is_index_file(name: str) -> bool:
    """Return whether an index writes files of this name, apart from the lock."""
    name = name.removesuffix(TEMPORARY)
    patterns = (_SHARD_FILE, _CALIBRATION_FILE, _FUSED_FILE, _STORE_FOLDER)
    return name in (MANIFEST, REPLACEMENT, *_OLD_FILES) or any(pattern.fullmatch(name) for pattern in patterns)


def is_store_folder(name: str) -> bool:
    """Return whether a folder of this name holds a vector store of an index, complete or not."""
    return _STORE_FOLDER.fullmatch(name.removesuffix(TEMPORARY)) is not None


def store_service(name: str) -> str | None:
    """Return the service of the vector store in a folder of this name; `None` for a local store and for other folders."""
    match = _STORE_FOLDER.fullmatch(name.removesuffix(TEMPORARY))
    return None if match is None else match["service"]


def free_number(names: Sequence[str]) -> int:
    """Return the first number that is larger than the numbers of all shard files."""
    return 1 + max((int(match[1]) for match in map(_SHARD_FILE.match, names) if match), default=-1)


def _check_version(folder: Path, version: Any) -> None:
    if version == FORMAT_VERSION:
        return
    advice = "use the version of this package that wrote it" if version != 1 else _REBUILD
    raise ValueError(f"The index {folder} has format {version}, this package reads format {FORMAT_VERSION}; {advice}.")


def _damaged(path: Path, reason: object) -> DamagedIndexError:
    return DamagedIndexError(f"{path} is damaged ({reason}). {_REBUILD}.")


def _checksum(values: dict[str, Any]) -> str:
    return checksum(json.dumps(values, sort_keys=True).encode())


def _check_content(values: dict[str, Any], text: str, manifest: Manifest) -> None:
    """Raise ValueError unless this version writes exactly this text for a manifest, apart from the spelling of its folder."""
    content = {key: value for key, value in values.items() if key != "checksum"}
    written = parse_json(manifest.to_text()) | {key: values[key] for key in ("photos", "checksum")}
    if values != written or values["checksum"] != _checksum(content) or json.dumps(values, indent=2) + "\n" != text:
        raise ValueError("its checksum is wrong, or it was edited")


def _from_values(values: dict[str, Any]) -> Manifest:
    service = SERVICES[0] if values.get("store_uri") else None
    added: dict[str, Any] = {
        "store_uri": None,
        "store_service": service,
        "runtimes": [],
        "model_revision": None,
        "model_options": {},
        "descriptor_name": None,
    }
    values = {**added, "unfinished": None, "service_data": [], "fusion": None, **values}
    _check_types(values)
    calibration = None if values["calibration"] is None else _stored_file(values["calibration"], _CALIBRATION_FILE)
    shards = tuple(map(_shard, values["shards"]))
    if len({file.name for shard in shards for file in (shard.descriptors, shard.places)}) < 2 * len(shards):
        raise ValueError("a file of two shards")
    return Manifest(
        IndexSettings.from_dict(values),
        shards=shards,
        next_shard=values["next_shard"],
        skipped=values["left_out"],
        complete=values["complete"],
        compression=values["compression"],
        calibration=calibration,
        store_uri=values["store_uri"],
        service=values["store_service"],
        unfinished=None if values["unfinished"] is None else _unfinished(values["unfinished"]),
        service_data=tuple(ServiceData(**{key: str(value) for key, value in data.items()}) for data in values["service_data"]),
        fusion=None if values["fusion"] is None else _fusion(values["fusion"]),
    )


def _check_types(values: dict[str, Any]) -> None:
    attributes = [*fields(IndexSettings), *fields(Manifest)[1:]]
    types: dict[str, Any] = {_KEYS.get(field.name, field.name): field.type for field in attributes}
    wrong = [key for key, kind in (types | _JSON_TYPES).items() if not has_type(values[key], kind)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of a wrong type")


def _shard(values: dict[str, Any]) -> Shard:
    removed = tuple(int(row) for row in values["removed"])
    if list(removed) != sorted({row for row in removed if 0 <= row < values["rows"]}):
        raise ValueError("removed rows that do not exist")
    files = (_stored_file(values[kind], _SHARD_FILE) for kind in ("descriptors", "places"))
    return Shard(int(values["rows"]), removed, *files)


def _unfinished(values: dict[str, Any]) -> UnfinishedPortion:
    return UnfinishedPortion(int(values["photos"]), bool(values["retried"]))


def _fusion(values: dict[str, Any]) -> Fusion:
    file = _stored_file(values["file"], _FUSED_FILE)
    return Fusion(values["method"], float(values["cell"]), float(values["heading"]), int(values["photos"]), file)


def _stored_file(values: dict[str, Any], pattern: re.Pattern[str]) -> StoredFile:
    """Read a file's entry; its name must not lead out of the folder, as the manifest may come from the Hub."""
    if not pattern.fullmatch(values["name"]):
        raise ValueError(f"a file named {values['name']!r}")
    return StoredFile(values["name"], int(values["size"]), str(values["sha256"]))
