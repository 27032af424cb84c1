"""An index records the backend and precision of its rows; they are not mixed in a build, and later only with a warning."""

import json

import pytest

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.retrieval.distributed import embed_photos, merge_parts
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.utils.atomic_files import checksum
from tests.command_line import run
from tests.index.workers import SHARD, BytesEncoder, begin, frame, write_photos
from tests.photos import at_name, save


class Int8(BytesEncoder):
    runtime = Runtime("bytes", "int8")


class Killed(Int8):
    """An encoder that is killed before the second shard."""

    def encode(self, photos, progress=None, *, order=None):
        if len(self.seen) >= SHARD:
            raise KeyboardInterrupt
        return super().encode(photos, progress, order=order)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 7)


def test_a_build_is_not_continued_in_another_precision(tmp_path, photos):
    """Half of the rows were made in int8 and the others in fp32, without a warning."""
    with pytest.raises(KeyboardInterrupt):
        index_photos(photos, tmp_path / "index", Killed(), shard_size=SHARD)
    with pytest.raises(ValueError, match=r"made by bytes int8, not .* fp32.*backend=\"bytes\", precision=\"int8\""):
        index_photos(photos, tmp_path / "index", BytesEncoder())
    with pytest.raises(ValueError, match="is not complete"):
        add_photos(tmp_path / "index", [photos.folder / "06.jpg"], BytesEncoder())
    index, _ = index_photos(photos, tmp_path / "index", Int8())
    assert len(index) == 7 and index.settings.runtimes == (Runtime.parse("bytes int8"),)


def test_a_replacement_begun_in_another_precision_is_begun_again(tmp_path, photos):
    index_photos(photos, tmp_path / "index", BytesEncoder(), shard_size=SHARD)
    with pytest.raises(KeyboardInterrupt):
        index_photos(photos, tmp_path / "index", Killed(), overwrite=True, shard_size=SHARD)
    encoder = BytesEncoder()
    index, _ = index_photos(photos, tmp_path / "index", encoder, overwrite=True, shard_size=SHARD)
    assert len(encoder.seen) == 7 and index.settings.runtimes == (Runtime.parse("bytes fp32"),)


def test_adding_in_another_precision_logs_a_warning_and_is_recorded(tmp_path, photos, caplog):
    index_photos(photos, tmp_path / "index", BytesEncoder(), shard_size=SHARD)
    index_photos(photos, tmp_path / "index", BytesEncoder())
    assert not caplog.records
    more = write_photos(tmp_path / "more", 9).folder / "08.jpg"
    index, _ = add_photos(tmp_path / "index", [more], Int8())
    assert "were made by bytes fp32, and this encoder runs by bytes int8" in caplog.text
    assert PlaceIndex.open(index.folder).info()["runtimes"] == ["bytes fp32", "bytes int8"]
    (photos.folder / "03.jpg").write_bytes(b"another photo")
    index, report = index_photos(photos, tmp_path / "index", BytesEncoder())
    assert report.changed == 1
    assert [str(runtime) for runtime in index.settings.runtimes] == ["bytes int8", "bytes fp32"]  # the latest last


def test_an_index_is_searched_in_any_precision(tmp_path, photos, caplog):
    """Built on a server in float32, searched on a robot in int8."""
    index, _ = index_photos(photos, tmp_path / "index", BytesEncoder(batch_size=1))
    found = search_photos(index, [photos.folder / "03.jpg"], Int8(batch_size=1), top_k=1)
    assert found[0].matches[0].place.path == "03.jpg" and not caplog.records


def test_shards_of_two_precisions_are_not_merged(tmp_path, photos):
    for number, encoder in enumerate((BytesEncoder(), Int8())):
        embed_photos(photos, tmp_path / f"node{number}", encoder, process=(number, 2), shard_size=SHARD)
    with pytest.raises(ValueError, match=r"shards of different jobs \(runtime: bytes (fp32|int8) and bytes (fp32|int8)\)"):
        merge_parts([tmp_path / "node0", tmp_path / "node1"], tmp_path / "merged")
    with pytest.raises(ValueError, match=r"holds shards of another job \(runtime: bytes int8 and bytes fp32\)"):
        embed_photos(photos, tmp_path / "node1", BytesEncoder(), shard_size=SHARD)
    assert not (tmp_path / "merged").exists()


def test_an_index_without_recorded_runtimes_is_updated_without_them(tmp_path, photos, caplog):
    """Manifests of older versions have no entry for runtimes, and must keep their checksums."""
    index_photos(photos, tmp_path / "index", BytesEncoder(), shard_size=SHARD)
    file = tmp_path / "index" / "manifest.json"
    values = json.loads(file.read_text())
    del values["runtimes"], values["checksum"]
    old = json.dumps(values | {"checksum": checksum(json.dumps(values, sort_keys=True).encode())}, indent=2) + "\n"
    file.write_text(old)
    index_photos(photos, tmp_path / "index", Int8())
    assert file.read_text() == old and not caplog.records
    add_photos(tmp_path / "index", [write_photos(tmp_path / "more", 1).folder / "00.jpg"], Int8())
    assert len(PlaceIndex.open(tmp_path / "index")) == 8 and PlaceIndex.open(tmp_path / "index").settings.runtimes == ()


def test_adding_frames_does_not_change_the_recorded_runtime(tmp_path):
    """For descriptors that are added one by one, the settings at the beginning give the runtime."""
    with begin(tmp_path / "index", runtimes=(Runtime("openvino", "bf16"),)) as index:
        index.add(*frame(0))
        index.compact()
    assert PlaceIndex.open(tmp_path / "index").settings.runtime == Runtime("openvino", "bf16")


def test_the_command_line_keeps_the_runtime_of_the_index(tmp_path, tiny_folder, caplog):
    """As with the batch size: an update does not need the options of the first build."""
    photos, index = tmp_path / "photos", tmp_path / "index"
    save(photos / at_name(1000, 2000), 0)
    run("index", photos, "--out", index, "--model", tiny_folder, "--backend-precision", "bf16")
    save(photos / at_name(1100, 2000), 1)
    status, out, _ = run("index", photos, "--out", index)
    assert status == 0 and "1 added" in out and PlaceIndex.open(index).settings.runtimes == (Runtime.parse("torch bf16"),)
    extra = save(tmp_path / "extra.jpg", 9)
    assert run("add", index, extra, "--backend", "torch")[0] == 0
    assert "this encoder runs by torch fp32" in caplog.text
    assert "runtimes: torch bf16, torch fp32\n" in run("info", index)[1]
