"""Remarks: what readers skipped, corrected or assumed is counted and said once a run."""

from dataclasses import replace

import numpy as np
from PIL import Image

from d2vpr_hf import PlaceEncoder, add_photos, evaluate, index_photos, search_photos
from d2vpr_hf.readers import Remark
from d2vpr_hf.readers.remarks import RemarkCounter, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from tests.index.workers import BytesEncoder, write_photos
from tests.photos import at_name, save


def test_equal_remarks_are_counted_and_the_first_photo_is_the_example():
    counter = RemarkCounter()
    for name in ("a.jpg", "b.jpg"):
        counter.add("assumed", "photos without a hemisphere, which count as north and east", name)
    counter.add("skipped", "files in folders of thumbnails", "@eaDir/a.jpg")
    first, second = counter.summary()
    assert first.kind == "skipped"  # files that are missing come before values that were assumed
    assert second.to_dict()["count"] == 2
    assert str(second) == "Assumed: 2 photos without a hemisphere, which count as north and east, such as a.jpg."


def test_an_indexing_run_reports_the_remarks_of_its_photos(tmp_path, caplog):
    """They were known to the reader alone, and a user of `index_photos` never saw them."""
    remark = Remark("corrected", "photos with a heading of -90", 3, "00.jpg")
    table = replace(write_photos(tmp_path / "photos", 3), remarks=(remark,))
    _, report = index_photos(table, tmp_path / "index", BytesEncoder())
    assert report.remarks == (remark,)
    assert caplog.messages == ["Corrected: 3 photos with a heading of -90, such as 00.jpg."]


def test_reports_of_two_sides_begin_with_the_side(caplog):
    """The same line for the database and for the queries would look like one that is printed twice."""
    for side in ("Database", "Queries"):
        report_remarks([Remark("assumed", "times without an offset", 2, "a.jpg")], side)
        report_skipped({"b.jpg": "damaged"}, 3, strict=False, source=side)
    assert [message.splitlines()[0] for message in caplog.messages] == [
        "Database: Assumed: 2 times without an offset, such as a.jpg.",
        "Database: 1 of 3 photos were skipped:",
        "Queries: Assumed: 2 times without an offset, such as a.jpg.",
        "Queries: 1 of 3 photos were skipped:",
    ]


def test_photos_whose_grey_is_scaled_by_its_own_range_are_counted(tiny_folder, tmp_path, caplog):
    """The threads that decode know it: it is counted by indexing, adding, searching and evaluating."""
    encoder = PlaceEncoder(tiny_folder, batch_size=2)

    def write(folder, seed):
        save(tmp_path / folder / at_name(500_000, 5_000_000 + seed), seed)
        for number in range(2):  # 14 bits of a thermal camera, and a whole range
            values = np.linspace(28_000, 28_900, 4096) if number == 0 else np.linspace(seed, 65_535, 4096)
            path = tmp_path / folder / at_name(500_000 + number, 5_000_010 + seed)
            Image.fromarray(values.astype(np.uint16).reshape(64, 64)).save(path, "PNG")
        return tmp_path / folder

    database, queries = write("database", 1), write("queries", 2)
    text = "photos in grey of an unusual range, scaled by their own range"
    path = at_name(500_000, 5_000_011)
    index, report = index_photos(database, tmp_path / "index", encoder)
    assert report.remarks == (Remark("corrected", text, 1, path),)
    assert report.to_dict()["remarks"][0]["count"] == 1
    assert index_photos(database, tmp_path / "index", encoder)[1].remarks == ()  # nothing was encoded again
    assert [remark.count for remark in add_photos(tmp_path / "index", [queries], encoder)[1].remarks] == [1]
    caplog.clear()
    search_photos(index, [queries], encoder)
    assert [message for message in caplog.messages if text in message] == [
        f"Corrected: 1 {text}, such as {queries / at_name(500_000, 5_000_012)}."
    ]
    evaluation = evaluate(database, queries, encoder)
    assert [[remark["text"] for remark in side] for side in evaluation.remarks.values()] == [[text], [text]]
    assert f"corrected: 1 {text} (database)" in evaluation.to_text()
