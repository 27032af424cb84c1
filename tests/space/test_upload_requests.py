"""Reception of uploads: limits of a request and of an hour, broken-off requests, a full disk."""

import asyncio
import errno

import pytest

from d2vpr_hf.space.upload_requests import Receiver, RefusedError, UploadCounts, UploadLimits

FORM = "multipart/form-data; boundary=edge"


def part(name, content=b"photo", field="files"):
    file = "" if name is None else f'; filename="{name}"'
    return f'--edge\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def receive(receiver, body, content_type=FORM, visitor="alice", address="1.2.3.4", step=7, broken=False):
    async def chunks():
        for start in range(0, len(body), step):
            yield body[start : start + step]
        if broken:
            raise ConnectionError

    return asyncio.run(receiver.receive(content_type, chunks(), visitor, address))


def files_in(folder):
    return list(folder.rglob("*"))


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_files_are_written_and_fields_dropped(tmp_path, step):
    body = (
        part("a.jpg", b"one\r\n--edg")
        + part(None, b"field", "x")
        + part("a.jpg", b"")
        + part("b.jpg", b"x", "other")
        + b"--edge--\r\n"
    )
    files = receive(Receiver(tmp_path), body, step=step)
    assert [file.name for file in files] == ["a.jpg", "a.jpg"] and [file.read_bytes() for file in files] == [
        b"one\r\n--edg",
        b"",
    ]
    assert len({file.parent for file in files}) == 2 and len([path for path in files_in(tmp_path) if path.is_file()]) == 2


@pytest.mark.parametrize(
    "name",
    ["../../evil.jpg", "/etc/evil.jpg", "..\\evil.jpg", "..", ".", "", "a\tb.jpg", "x" * 3000, "𠀀" * 300 + ".jpg", "<b>.jpg"],
)
def test_names_lead_nowhere(tmp_path, name):
    (file,) = receive(Receiver(tmp_path / "up"), part(name) + b"--edge--\r\n")
    assert file.parent.parent == tmp_path / "up" and file.is_file() and "<" not in file.name and len(file.name.encode()) <= 240


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (part("a.jpg") + b"--edge--\r\n", "text/plain", 400),
        (part("a.jpg") + b"--edge--\r\n", "multipart/form-data", 400),
        (part("a.jpg") + b"--edge--\r\n", "multipart/form-data; boundary=" + "x" * 1000, 400),
        (part("a.jpg"), FORM, 400),  # the end is missing
        (part("a.jpg")[:-10], FORM, 400),
        (b"garbage", FORM, 400),
        (part("x" * 5000), FORM, 400),
        (b"--edge\r\n" + b"A: b\r\n" * 100_000, FORM, 400),
        (part("a.jpg", bytes(2000)) + b"--edge--\r\n", FORM, 413),
        (part(None, bytes(2000)) + b"--edge--\r\n", FORM, 413),  # a field counts too
        (part("a.jpg") * 4 + b"--edge--\r\n", FORM, 413),
    ],
)
def test_refused_uploads_leave_nothing(tmp_path, body, content_type, status):
    receiver = Receiver(tmp_path, UploadLimits(files=3, request_bytes=1500 if status == 413 else 10_000_000))
    with pytest.raises(RefusedError) as refusal:
        receive(receiver, body, content_type, step=1000)
    assert refusal.value.status == status and str(tmp_path) not in str(refusal.value)
    assert files_in(tmp_path) == [] and receiver.pending == {}


def test_broken_off_uploads_leave_nothing(tmp_path):
    """Parts of such uploads stayed until the Space was stopped."""
    with pytest.raises(ConnectionError):
        receive(Receiver(tmp_path), part("a.jpg") + part("b.jpg", bytes(5000))[:-100], broken=True)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_a_full_disk_is_told_politely(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, "no space", str(tmp_path))

    receiver = Receiver(tmp_path)
    monkeypatch.setattr("d2vpr_hf.space.upload_requests.create_file", fail)
    with pytest.raises(RefusedError, match="no room for uploads") as refusal:
        receive(receiver, part("a.jpg") + b"--edge--\r\n")
    assert refusal.value.status == 507 and files_in(tmp_path) == []


def test_some_space_on_the_disk_stays_free(tmp_path):
    with pytest.raises(RefusedError, match="no room"):
        receive(Receiver(tmp_path, UploadLimits(free_bytes=10**18)), part("a.jpg") + b"--edge--\r\n")


def test_uploads_of_an_hour_are_counted():
    now = [0.0]
    counts = UploadCounts(UploadLimits(hourly_files=3, hourly_bytes=100, address_share=2), clock=lambda: now[0])
    for _ in range(3):
        counts.add("alice", "1.2.3.4", 1, 10)
    with pytest.raises(RefusedError, match="At most 3 files"):
        counts.add("alice", "1.2.3.4", 1, 10)
    counts.add("bob", "1.2.3.4", 2, 80)
    with pytest.raises(RefusedError):  # a new cookie for each file does not help
        counts.add("carol", "1.2.3.4", 2, 1)
    with pytest.raises(RefusedError):
        counts.add("bob", "5.6.7.8", 0, 30)
    now[0] = 3601.0
    counts.add("alice", "1.2.3.4", 1, 10)


def test_counts_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("d2vpr_hf.space.upload_requests._MAX_RECORDS", 10)
    counts = UploadCounts(UploadLimits())
    for number in range(100):
        counts.add(str(number), str(number), 1, 1)
    assert len(counts._counts) <= 10


def test_progress_ends_with_the_upload(tmp_path):
    receiver = Receiver(tmp_path)
    seen = []

    async def chunks():
        yield part("a.jpg", bytes(3000))[:2000]
        await asyncio.sleep(0.6)
        yield part("a.jpg", bytes(3000))[2000:] + b"--edge--\r\n"

    async def watch():
        seen.extend([message async for message in receiver.progress("alice", "up1")])

    async def both():
        await asyncio.gather(receiver.receive(FORM, chunks(), "alice", "1.2.3.4", "up1"), watch())

    asyncio.run(both())
    *updates, end = seen
    assert end == {"msg": "done"} and 0 < sum(update["chunk_size"] for update in updates) <= 3000
    assert {update["orig_name"] for update in updates} - {""} == {"a.jpg"}  # the first may come before the name
    assert receiver.pending == {}
