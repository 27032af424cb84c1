"""Thumbnails of the photos of an index: small JPEGs without metadata, in the table of its places on the Hub."""

import base64
import contextlib
import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from d2vpr_hf.index.hub import TABLE_FILES
from d2vpr_hf.readers import PhotoSource, open_photo
from d2vpr_hf.stores.descriptors import map_file
from d2vpr_hf.utils.parquet_sizes import check_pages, check_texts

IMAGE_COLUMN = "image"
PATH_COLUMN = "path"

_QUALITY = 80
_CACHED_GROUPS = 8  # groups of rows that stay in memory


class Thumbnails(Mapping[str, bytes]):
    """The JPEG of each photo that has a thumbnail, by the photo's path in the index.

    Only paths are kept in memory; a thumbnail is read when it is used. Threads may share the object.

    Args:
        files: The Parquet files of the table of places; files without a column of images are ignored.
    """

    def __init__(self, files: list[Path]) -> None:
        self._rows: dict[str, tuple[Path, int, int]] = {}  # file, group of rows, row in the group
        self._read_cached = functools.lru_cache(_CACHED_GROUPS)(_read_group)
        for file in files:
            self._rows.update(_list_rows(file))

    def __getitem__(self, path: str) -> bytes:
        file, group, row = self._rows[path]
        content: bytes = self._read_cached(file, group)[row]
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def read_thumbnails(folder: str | Path) -> Thumbnails:
    """Return the thumbnails of an index from the Hub; none for an index that was pushed without, or was never pushed.

    Args:
        folder: The folder of an index that [`PlaceIndex.from_pretrained`] opened with `thumbnails=True`.
    """
    return Thumbnails(sorted(Path(folder).glob(TABLE_FILES)))


def make_thumbnail(photo: PhotoSource, side: int) -> bytes:
    """Return a JPEG of a photo, upright and with a longer side of at most `side` pixels, without metadata of the photo.

    Raises:
        UnreadablePhotoError: If the photo cannot be decoded.
    """
    image = open_photo(photo, (side, side)).convert("RGB")
    image.thumbnail((side, side))
    plain = Image.new("RGB", image.size)  # Pillow would write the photo's comment, profile and other metadata again
    plain.paste(image)
    file = io.BytesIO()
    plain.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def inline_thumbnail(photo: PhotoSource, side: int) -> str:
    """Return a thumbnail as a `data:` URL, for pages that need no other file; errors as for [`make_thumbnail`]."""
    return f"data:image/jpeg;base64,{base64.b64encode(make_thumbnail(photo, side)).decode()}"


def _list_rows(file: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """Yield the path of each row that has a thumbnail, and the position of the row in its file.

    Raises:
        ValueError: If the file is damaged, or states more content than it can hold.
    """
    with _opened(file) as table:
        if IMAGE_COLUMN not in table.schema_arrow.names:
            return
        for group in range(table.num_row_groups):
            columns = table.read_row_group(group, columns=[PATH_COLUMN, f"{IMAGE_COLUMN}.path"])
            check_texts(columns, file.stat().st_size)
            has_image = columns.column(IMAGE_COLUMN).is_valid().to_pylist()
            for row, path in enumerate(columns.column(PATH_COLUMN).to_pylist()):
                if has_image[row]:
                    yield path, (file, group, row)


def _read_group(file: Path, group: int) -> list[bytes]:
    """Return the thumbnails of a group of rows; empty bytes for a row without one."""
    with _opened(file) as table:
        images = table.read_row_group(group, columns=[IMAGE_COLUMN]).column(IMAGE_COLUMN)
        check_texts(pa.table({"bytes": pc.struct_field(images, "bytes")}), file.stat().st_size)
    return [b"" if image is None else image["bytes"] for image in images.to_pylist()]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a file of the table; its texts and images are read as places in dictionaries, which are small.

    Raises:
        ValueError: If the file is damaged, or states more content than it can hold, here or where it is read.
    """
    try:
        content = map_file(file)
        check_pages(content)
        metadata = pq.read_metadata(pa.BufferReader(content))
        names = {metadata.schema.column(number).path for number in range(metadata.num_columns)}
        texts = sorted(names & {PATH_COLUMN, f"{IMAGE_COLUMN}.bytes"})
        with pq.ParquetFile(pa.BufferReader(content), metadata=metadata, read_dictionary=texts) as table:
            yield table
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}. Download the index again.") from error
