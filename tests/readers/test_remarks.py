"""Remarks: what readers skipped, corrected or assumed is counted and said once a run."""

from dataclasses import replace

from d2vpr_hf import index_photos
from d2vpr_hf.readers import Remark
from d2vpr_hf.readers.remarks import RemarkCounter, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from tests.index.workers import BytesEncoder, write_photos


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
