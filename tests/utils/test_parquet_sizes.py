"""Parquet files that state more than they hold are refused before Arrow reserves memory for it."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2vpr_hf.utils.parquet_sizes import _Reader, check_pages, check_texts, read_footer, read_pages


def written(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return pa.py_buffer(sink.getvalue())


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
    """The sum of all pages with their headers is the size that Arrow reads from the footer for the chunk."""
    content = written(
        PLAIN,
        compression=compression,
        data_page_version=version,
        data_page_size=2000,
        row_group_size=1000,
        write_page_checksum=True,
    )
    check_pages(content)
    view = memoryview(content).cast("B")
    metadata = pq.read_metadata(pa.BufferReader(content))
    groups = read_footer(view)[4]
    assert len(groups) == metadata.num_row_groups == 3
    for group, values in enumerate(groups):
        for number, chunk in enumerate(values[1]):
            expected, facts = metadata.row_group(group).column(number), chunk[3]
            pages = read_pages(view, facts)
            start = min(expected.data_page_offset, expected.dictionary_page_offset or expected.data_page_offset)
            ends = [start, *(page.start + page.packed for page in pages)]
            headers = sum(page.start - before for page, before in zip(pages, ends[:-1], strict=True))
            assert facts[5] == expected.num_values and ends[-1] - start == expected.total_compressed_size
            assert headers + sum(page.unpacked for page in pages) == expected.total_uncompressed_size


def test_every_type_of_a_structure_is_read():
    """By hand: true, false, a byte, a double, a text, two lists, a set, a table, a structure; then 5 and -3."""
    content = b"\x11\x12\x13\x07\x17" + bytes(8) + b"\x18\x02hi\x19\x25\x02\x04\x19\xf1\x02\x01\x02"
    content += b"\x1a\x13\x09\x1b\x01\x58\x02\x01a\x1c\x15\x02\x00\x05\xc8\x01\x0a\x15\x05\x00"
    reader = _Reader(memoryview(content + b"rest"))
    expected = [True, False, 7, None, None, [1, 2], [1, 2], [9], [1, None], {1: 1}]
    assert reader.structure() == dict(enumerate(expected, 1)) | {100: 5, 101: -3}
    assert reader.position == len(content)


@pytest.mark.parametrize("content", [b"", b"\x15", b"\x15" + b"\xff" * 11, b"\x19\xff\xff\xff\x03", b"\x1d\x00", b"\x1c" * 30])
def test_damaged_structures_end(content):
    with pytest.raises(IndexError):
        _Reader(memoryview(content)).structure()


def test_a_damaged_footer_never_ends_the_process():
    """Arrow's objects of chunks called `std::terminate` for some of these bits."""
    content = written(PLAIN.slice(0, 40), compression="zstd", write_page_checksum=True).to_pybytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for bit in range(footer * 8, len(content) * 8, 7):
        bad = bytearray(content)
        bad[bit >> 3] ^= 1 << (bit & 7)
        try:
            check_pages(pa.py_buffer(bytes(bad)))
        except ValueError:
            refused += 1
    assert refused > 20


def test_a_page_that_unpacks_to_too_much_is_refused():
    content = written(pa.table({"path": ["a" * (70 << 20)]}), compression="zstd")
    assert content.size < 100_000
    with pytest.raises(ValueError, match=r"states 7\d,\d{3},\d{3} bytes of content"):
        check_pages(content)


def test_rows_of_a_few_bytes_are_refused():
    content = written(pa.table({str(number): pa.nulls(1_000_000, pa.int64()) for number in range(10)}))
    assert content.size < 100_000
    with pytest.raises(ValueError, match="states 72,000,000 bytes of content"):
        check_pages(content)


def zigzag(number):
    """Return a number as Thrift writes it."""
    value, content = (number << 1) ^ (number >> 63), b""
    while value >= 0x80:
        content += bytes([value & 0x7F | 0x80])
        value >>= 7
    return content + bytes([value])


@pytest.mark.parametrize(
    ("rows", "group_rows", "values", "message"),
    [
        (-1, -1, -1, "number of rows"),
        (40, 39, 39, "number of rows"),
        (40, 40, 1 << 40, "1099511627776 values for 40 rows"),
        (1 << 40, 1 << 40, 1 << 40, "states 8,796,093,022,208 bytes"),
    ],
)
def test_numbers_of_rows_that_contradict_each_other_are_refused(rows, group_rows, values, message):
    with pytest.raises(ValueError, match=message):
        check_pages(by_hand(rows, [(group_rows, values)]))


def test_a_negative_number_of_rows_does_not_make_up_for_a_large_one():
    with pytest.raises(ValueError, match="number of rows"):
        check_pages(by_hand(10, [(10 - (1 << 40), 10 - (1 << 40)), (1 << 40, 1 << 40)]))


def by_hand(rows, groups):
    """Return a file with a number of rows, and groups of rows and values with one chunk without pages each."""
    footer = b"\x36" + zigzag(rows) + b"\x19" + bytes([len(groups) << 4 | 0x0C])
    for group_rows, values in groups:
        facts = b"\x56" + zigzag(values) + b"\x26" + zigzag(0) + b"\x26" + zigzag(4) + b"\x00"
        footer += b"\x19\x1c" + b"\x3c" + facts + b"\x00" + b"\x26" + zigzag(group_rows) + b"\x00"
    footer += b"\x00"
    return pa.py_buffer(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def test_a_table_without_rows_is_read():
    check_pages(written(PLAIN.slice(0, 0)))


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
