"""The photos of fused places: each row of such an index stands for the photos of one place."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from d2vpr_hf.index.manifest import DamagedIndexError, Fusion
from d2vpr_hf.utils.atomic_files import checksum

_SCHEMA = pa.schema([("path", pa.string()), ("photos", pa.list_(pa.string()))])
REMEDY = "build it again with `d2vpr index PHOTOS --out INDEX --fuse-places METHOD`"


class FusedPhotos:
    """The paths of the photos of each row, by the path of the row. The file is read at the first use.

    Args:
        folder: Folder of the index.
        fusion: The entry of the manifest.
    """

    def __init__(self, folder: Path, fusion: Fusion) -> None:
        self._folder, self._fusion = folder, fusion

    def of(self, path: str) -> tuple[str, ...]:
        """Return the paths of the photos of a row.

        Raises:
            DamagedIndexError: If the file is missing or damaged.
        """
        if path not in self._photos:
            raise self._damaged(f"it does not list the photos of {path}")
        return tuple(self._photos[path])

    @functools.cached_property
    def _photos(self) -> dict[str, list[str]]:
        file = self._fusion.file
        try:
            content = (self._folder / file.name).read_bytes()
            if checksum(content) != file.sha256:
                raise ValueError("its checksum has changed since it was stored")
            table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            if table.schema != _SCHEMA:
                raise ValueError(f"expected the columns {_SCHEMA}")
            table.validate(full=True)
        except FileNotFoundError as error:
            raise self._damaged("it is missing") from error
        except (pa.ArrowException, ValueError) as error:
            raise self._damaged(error) from error
        return dict(zip(table.column("path").to_pylist(), table.column("photos").to_pylist(), strict=True))

    def _damaged(self, problem: object) -> DamagedIndexError:
        line = " ".join(str(problem).split())
        name = self._fusion.file.name
        return DamagedIndexError(
            f"The index {self._folder} is damaged: {name}: {line}. The file lists the photos of places; {REMEDY}."
        )


def fused_photos_to_bytes(paths: Sequence[str], photos: Sequence[Sequence[str]]) -> bytes:
    """Return the content of a file with the photos of each row."""
    table = pa.table({"path": list(paths), "photos": [list(row) for row in photos]}, schema=_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
