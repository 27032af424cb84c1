"""The table of an index's places as Parquet files, which `datasets` and the Hub's viewer show."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from os import cpu_count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from d2vpr_hf.encoders.protocol import Progress
from d2vpr_hf.hub.thumbnails import IMAGE_COLUMN, PATH_COLUMN, make_thumbnail
from d2vpr_hf.index.hub import THUMBNAIL_SIZE
from d2vpr_hf.readers import PhotoSource, UnreadablePhotoError
from d2vpr_hf.readers.photos import is_url

_ROWS_OF_FILE = 500_000
_ROWS_WITH_IMAGES = 20_000  # about 200 MB
_ROWS_OF_GROUP = 100  # of rows with images, which a reader of one image reads together
_ROWS_AT_ONCE = 1000  # whose thumbnails are in memory
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # `datasets` knows it by the metadata below
_IMAGE_METADATA = {"huggingface": json.dumps({"info": {"features": {IMAGE_COLUMN: {"_type": "Image"}}}})}


def write_place_table(table: pa.Table, folder: Path) -> list[Path]:
    """Write a table of places into Parquet files with the names of the split `train`, and return the files."""
    files = []
    for file, rows in _divide(table, folder, _ROWS_OF_FILE):
        pq.write_table(rows, file, compression="zstd")
        files.append(file)
    return files


def write_thumbnail_table(
    table: pa.Table, folder: Path, photo_folder: Path, size: int = THUMBNAIL_SIZE, progress: Progress | None = None
) -> tuple[list[Path], dict[str, str]]:
    """Write a table of places as [`write_place_table`] does, with thumbnails in the column `image`.

    Args:
        table: The places.
        folder: Folder to write into.
        photo_folder: The folder that the paths of photos are relative to.
        size: Longer side of the thumbnails in pixels.
        progress: Called with the number of photos just finished.

    Returns:
        The files, and the reason for each photo that could not be read, by its path. Its row has no image.
    """
    schema = table.schema.insert(0, pa.field(IMAGE_COLUMN, _IMAGE_TYPE)).with_metadata(_IMAGE_METADATA)
    files: list[Path] = []
    skipped: dict[str, str] = {}
    with ThreadPoolExecutor(cpu_count(), "d2vpr-thumbnails") as pool:
        for file, rows in _divide(table, folder, _ROWS_WITH_IMAGES):
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
                    part = rows.slice(start, _ROWS_AT_ONCE)
                    paths = part.column(PATH_COLUMN).to_pylist()
                    results = list(pool.map(_try_thumbnail, repeat(photo_folder), paths, repeat(size)))
                    skipped |= {path: result for path, result in zip(paths, results, strict=True) if isinstance(result, str)}
                    images = [None if isinstance(result, str) else {"bytes": result, "path": None} for result in results]
                    part = part.add_column(0, schema.field(0), pa.array(images, _IMAGE_TYPE)).cast(schema)
                    writer.write_table(part, row_group_size=_ROWS_OF_GROUP)
                    if progress is not None:
                        progress(len(paths))
            files.append(file)
    return files, skipped


def _divide(table: pa.Table, folder: Path, size: int) -> Iterator[tuple[Path, pa.Table]]:
    """Yield each file to write and its rows; one file for a table without rows."""
    count = max(1, -(-table.num_rows // size))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        yield folder / f"train-{number:05d}-of-{count:05d}.parquet", table.slice(number * size, size)


def _try_thumbnail(photo_folder: Path, path: str, size: int) -> bytes | str:
    """Return a photo's thumbnail, or the reason why it cannot be read."""
    photo: PhotoSource = path if is_url(path) else photo_folder / path
    try:
        return make_thumbnail(photo, size)
    except UnreadablePhotoError as error:
        return str(error)
