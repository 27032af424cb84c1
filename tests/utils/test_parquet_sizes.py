"""Parquet files that state more than they hold are refused before Arrow reserves memory for it."""

import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2vpr_hf.utils.parquet_sizes import _chunk_span, _Header, _pages, check_pages, check_texts


def written(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return pa.py_buffer(sink.getvalue())


def metadata_of(content):
    return pq.read_metadata(pa.BufferReader(content))


PLAIN = pa.table(
    {
        "path": [f"photo {number % 700}.jpg" for number in range(3000)],
        "number": np.random.default_rng(0).integers(0, 1 << 40, 3000),
        "rare": [None if number % 7 else number / 3 for number in range(3000)],
        "is_day": [number % 3 == 0 for number in range(3000)],
        "image": [{"bytes": bytes([number % 256]) * 50, "path": None} for number in range(3000)],
    }
)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_have_the_sizes_that_arrow_wrote(compression, version):
    """The sum of all pages with their headers is the size that the footer states for the chunk."""
    content = written(
        PLAIN,
        compression=compression,
        data_page_version=version,
        data_page_size=2000,
        row_group_size=1000,
        write_page_checksum=True,
    )
    metadata = metadata_of(content)
    check_pages(metadata, content)
    view = memoryview(content).cast("B")
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            start, end = _chunk_span(chunk)
            pages = list(_pages(view, start, end))
            ends = [start, *(page.start + page.packed for page in pages)]
            headers = sum(page.start - before for page, before in zip(pages, ends[:-1], strict=True))
            assert ends[-1] == end
            assert headers + sum(page.unpacked for page in pages) == chunk.total_uncompressed_size


def test_every_type_of_a_header_is_skipped():
    """By hand: true, a byte, a double, a text, two lists, a map, a structure; then the two sizes, 5 and -3."""
    skipped = b"\x11\x13\x07\x17" + bytes(8) + b"\x18\x02hi\x19\x25\x02\x04\x19\xf1\x02\x01\x02"
    skipped += b"\x1b\x01\x58\x02\x01a\x1c\x15\x02\x00"
    fields = dict(_Header(memoryview(skipped + b"\x05\xc8\x01\x0a\x15\x05\x00rest")).integers())
    assert fields == {100: 5, 101: -3, 0: len(skipped) + 7}


@pytest.mark.parametrize("header", [b"", b"\x15", b"\x15" + b"\xff" * 11, b"\x19\xff\xff\xff\x03", b"\x1d\x00", b"\x1c" * 30])
def test_damaged_headers_are_named(header):
    with pytest.raises(ValueError, match="header of a page is damaged"):
        list(_pages(memoryview(header + bytes(1)), 0, len(header) + 1))


def test_a_page_that_unpacks_to_too_much_is_refused():
    content = written(pa.table({"path": ["a" * (70 << 20)]}), compression="zstd")
    assert content.size < 100_000
    with pytest.raises(ValueError, match=r"states 7\d,\d{3},\d{3} bytes of content"):
        check_pages(metadata_of(content), content)


def test_rows_of_a_few_bytes_are_refused():
    content = written(pa.table({str(number): pa.nulls(1_000_000, pa.int64()) for number in range(10)}))
    assert content.size < 100_000
    with pytest.raises(ValueError, match="states 80,000,000 bytes of content"):
        check_pages(metadata_of(content), content)


@pytest.mark.parametrize("rows", [-1, 39, 1 << 62])
def test_numbers_of_rows_that_contradict_each_other_are_refused(rows):
    content = written(pa.table({"number": range(40)}))
    good = metadata_of(content)
    chunk = good.row_group(0).column(0)
    bad = SimpleNamespace(num_rows=rows, num_columns=1, num_row_groups=1, row_group=good.row_group)
    with pytest.raises(ValueError, match=r"number of rows|states"):
        check_pages(bad, content)
    fields = {name: getattr(chunk, name) for name in ("path_in_schema", "data_page_offset", "total_compressed_size")}
    chunk = SimpleNamespace(**fields, num_values=1 << 40, dictionary_page_offset=None)
    group = SimpleNamespace(num_rows=40, num_columns=1, column=lambda _: chunk)
    bad = SimpleNamespace(num_rows=40, num_columns=1, num_row_groups=1, row_group=lambda _: group)
    with pytest.raises(ValueError, match="column number states 1099511627776 values, not 40"):
        check_pages(bad, content)


def test_long_texts_that_are_repeated_are_refused():
    """A text of 100 kB in 1,000 rows is stored once, and takes 100 MB when it is read."""
    text = "a" * 100_000
    content = written(pa.table({"path": [text] * 1000, "other": ["b", None] * 500}), compression="zstd")
    assert content.size < 10_000
    table = pq.read_table(pa.BufferReader(content), read_dictionary=["path", "other"])
    assert table.nbytes < 1_000_000
    with pytest.raises(ValueError, match="states 100,000,500 bytes of content"):
        check_texts(table, content.size)
    check_texts(table, 1_000_000)
