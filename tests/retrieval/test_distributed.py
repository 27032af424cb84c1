"""Shards that several processes encode are merged into an index with the bytes of one process, also after kills."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex, place_index
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.distributed import ShardId, embed_photos, launched_process, merge_parts
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.utils import atomic_files
from tests.command_line import run
from tests.index.workers import SHARD, BytesEncoder, contents, write_photos
from tests.photos import at_name, save

BAD = (1, 4, 5, 6, 7, 8, 9, 16)  # nothing in the second shard can be read, and not the last photo


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 17, bad=BAD)


def embed(table, out, number=0, processes=1, **changes):
    options = {"encoder": BytesEncoder(), "shard_size": SHARD} | changes
    return embed_photos(table, out, process=(number, processes), **options)


def whole(table, out):
    """Return the files of the index that one process builds."""
    index_photos(table, out, BytesEncoder(), shard_size=SHARD)
    return contents(out)


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_merged_shards_have_the_bytes_of_one_process(tmp_path, photos, processes):
    """This includes photos that cannot be read, and more processes than shards."""
    reports = [embed(photos, tmp_path / "parts", number, processes) for number in range(processes)]
    assert sum(report.encoded for report in reports) == reports[0].total == 4
    assert sorted(path for report in reports for path in report.skipped) == [f"{number:02d}.jpg" for number in BAD]
    merged = merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == whole(photos, tmp_path / "whole")
    assert len(merged) == 9 and merged.complete and len(merged.skipped) == 8


def test_small_shards_are_joined_as_one_process_joins_them(tmp_path):
    """Shards that lost most photos are stored together again; the merged index must have the same files."""
    photos = write_photos(tmp_path / "photos", 17, bad=(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13))
    embed(photos, tmp_path / "parts")
    merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == whole(photos, tmp_path / "whole")


def test_photos_that_no_index_accepts_do_not_shift_shards(tmp_path, photos):
    """A photo listed twice, and one whose name is not UTF-8, do not count for a shard."""
    places = [photos.places[0], photos.places[0], Place("\udcff.jpg"), *photos.places[1:]]
    table = PlaceTable(photos.folder, places, "csv", {"lost.jpg": "it is not there"})
    report = embed(table, tmp_path / "parts")
    assert {"00.jpg", "\\udcff.jpg", "lost.jpg"} <= set(report.skipped)
    merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == whole(table, tmp_path / "whole")


def test_shards_in_several_folders_are_merged(tmp_path, photos):
    for number in range(2):
        embed(photos, tmp_path / f"node{number}", number, 2)
    merge_parts([tmp_path / "node1", tmp_path / "node0"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == whole(photos, tmp_path / "whole")


def test_a_killed_run_is_continued_by_other_processes(tmp_path, photos):
    """Complete shards are not encoded again; the shard that was only begun is."""
    with pytest.raises(Killed):
        embed_photos(photos, tmp_path / "parts", DyingOnce(), process=(0, 1), shard_size=SHARD)
    with pytest.raises(ValueError, match="1 of 4 shards are missing: 3"):
        merge_parts([tmp_path / "parts"], tmp_path / "merged")
    encoders = [BytesEncoder(), BytesEncoder()]
    reports = [embed(photos, tmp_path / "parts", number, 2, encoder=encoders[number]) for number in range(2)]
    assert sum(report.kept for report in reports) == 2
    assert {path for encoder in encoders for path in encoder.seen} == {f"{number:02d}.jpg" for number in range(10, 17)}
    merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == whole(photos, tmp_path / "whole")


class Killed(BaseException):
    """Stands for a kill."""


class DyingOnce(BytesEncoder):
    """An encoder that is killed at a photo of the third shard."""

    def encode_batch(self, pixels):
        if "12.jpg" in self.seen:
            raise Killed
        return super().encode_batch(pixels)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_merge_that_is_stopped_anywhere_can_be_continued(tmp_path, photos, monkeypatch, overwrite):
    """The merge is stopped at every single write, also while it replaces an index."""
    embed(photos, tmp_path / "parts")
    expected = None
    for steps in range(100):
        out = tmp_path / f"merged{steps}"
        if overwrite:
            index_photos(write_photos(tmp_path / "few", 3), out, BytesEncoder(), shard_size=2)
        left, store = [steps], atomic_files._write

        def stopping(path, content, left=left, store=store):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            store(path, content)

        stopped = True
        with monkeypatch.context() as patched:
            patched.setattr(atomic_files, "_write", stopping)
            try:
                merge_parts([tmp_path / "parts"], out, overwrite=overwrite)
                stopped = False
            except Killed:
                pass
        if stopped:
            assert not overwrite or len(PlaceIndex.open(out)) == 3
            merge_parts([tmp_path / "parts"], out, overwrite=overwrite)
        expected = expected or contents(out)
        assert contents(out) == expected, steps
        if not stopped:
            break
    assert steps > 8
    if not overwrite:
        assert expected == whole(photos, tmp_path / "whole")


def test_shards_are_encoded_again_if_photos_or_files_changed(tmp_path, photos):
    """A photo of another content, and a flipped bit, must not come into the index."""
    parts = tmp_path / "parts"
    embed(photos, parts)
    (photos.folder / "02.jpg").write_bytes(b"another photo")
    flipped = next(next(parts.glob("part-000002-*")).glob("descriptors-*"))
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-000002.* is damaged: .*descriptors.* Run `d2vpr embed`"):
        merge_parts([parts], tmp_path / "merged")
    report = embed(photos, parts)
    assert (report.encoded, report.kept) == (2, 2)
    merge_parts([parts], tmp_path / "merged")
    merged, fresh = PlaceIndex.open(tmp_path / "merged"), tmp_path / "whole"
    whole(photos, fresh)
    assert np.array_equal(merged.descriptors[:], PlaceIndex.open(fresh).descriptors[:])
    assert merged.places.column("path") == PlaceIndex.open(fresh).places.column("path")


class TestErrors:
    def test_a_missing_shard_is_named(self, tmp_path, photos):
        embed(photos, tmp_path / "parts", 0, 2)
        with pytest.raises(ValueError, match=r"2 of 4 shards are missing: 1, 3\. Give all folders of shards, or run"):
            merge_parts([tmp_path / "parts"], tmp_path / "merged")
        assert not (tmp_path / "merged").exists()

    def test_a_shard_that_is_present_twice_is_named(self, tmp_path, photos):
        embed(photos, tmp_path / "a")
        embed(photos, tmp_path / "b", 1, 2)
        with pytest.raises(ValueError, match=r"Shard 1 is present twice, .*a.part-000001.* and .*b.part-000001.* one of them"):
            merge_parts([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")

    def test_shards_of_another_model_are_refused(self, tmp_path, photos):
        another_encoder = BytesEncoder()
        another_encoder.fingerprint = "other"
        embed(photos, tmp_path / "a", 0, 2)
        embed(photos, tmp_path / "b", 1, 2, encoder=another_encoder)
        with pytest.raises(ValueError, match=r"different jobs \(fingerprint: bytes and other\)"):
            merge_parts([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
        with pytest.raises(ValueError, match=r"a holds shards of another job \(fingerprint: bytes and other\). Remove them"):
            embed(photos, tmp_path / "a", 1, 2, encoder=another_encoder)

    def test_shards_of_another_list_of_photos_are_refused(self, tmp_path, photos):
        embed(photos, tmp_path / "parts", 0, 2)
        fewer = replace(photos, places=photos.places[:-1])
        with pytest.raises(ValueError, match="their lists of photos differ"):
            embed(fewer, tmp_path / "parts", 1, 2)

    def test_an_index_of_other_photos_is_not_replaced(self, tmp_path, photos):
        embed(photos, tmp_path / "parts")
        out = tmp_path / "merged"
        index_photos(write_photos(tmp_path / "few", 3), out, BytesEncoder(), shard_size=SHARD)
        before = contents(out)
        with pytest.raises(FileExistsError, match=r"an index of something else \(photos: .*few and .*photos\)"):
            merge_parts([tmp_path / "parts"], out)
        assert contents(out) == before
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            merge_parts([tmp_path / "nowhere"], out)
        with pytest.raises(FileNotFoundError, match="No shards in"):
            merge_parts([tmp_path / "few"], out)

    def test_shards_without_a_readable_photo_are_refused(self, tmp_path):
        embed(write_photos(tmp_path / "photos", 7, bad=range(7)), tmp_path / "parts")
        with pytest.raises(ValueError, match="None of the photos could be read"):
            merge_parts([tmp_path / "parts"], tmp_path / "merged")

    def test_strict_refuses_skipped_photos(self, tmp_path, photos):
        with pytest.raises(ValueError, match="photos were skipped"):
            embed(photos, tmp_path / "parts", strict=True)


def test_merging_again_changes_no_file(tmp_path, photos):
    embed(photos, tmp_path / "parts")
    merge_parts([tmp_path / "parts"], tmp_path / "merged")
    before = contents(tmp_path / "merged")
    assert merge_parts([tmp_path / "parts"], tmp_path / "merged", compression="bits").store_is_fresh
    merge_parts([tmp_path / "parts"], tmp_path / "merged", compression="none")
    assert contents(tmp_path / "merged") == before


def test_shards_with_impossible_values_of_earlier_versions_are_merged(tmp_path, photos, monkeypatch):
    """Earlier versions stored any text as a time, and any heading; the merged index stores none there."""
    times = replace(photos, places=[replace(place, timestamp="spring", heading=400.0) for place in photos.places])
    with monkeypatch.context() as earlier:
        earlier.setattr(place_index, "to_stored_places", list)
        embed(times, tmp_path / "parts")
    merged = merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert len(merged) == 9 and set(merged.places.column("timestamp")) == {None}
    assert set(merged.places.column("heading")) == {None}
    assert merged.places[0].utm_zone is not None


def test_a_merged_index_can_be_updated(tmp_path, photos):
    """`d2vpr index` continues a merged index: only new photos are encoded."""
    embed(photos, tmp_path / "parts")
    merge_parts([tmp_path / "parts"], tmp_path / "merged")
    more = write_photos(photos.folder, 19, bad=BAD)
    encoder = BytesEncoder()
    _, report = index_photos(more, tmp_path / "merged", encoder)
    assert (report.added, report.kept) == (2, 9)


def test_shards_and_processes_are_named_by_their_numbers(monkeypatch):
    assert ShardId(7, 250, "0123456789abcdef").name == "part-000007-of-000250-0123456789abcdef"
    assert launched_process() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched_process() == (3, 8)


@contextlib.contextmanager
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def test_processes_of_accelerate_launch_give_the_bytes_of_one_process(tmp_path, tiny_folder):
    """Two processes, started as the documentation says, and the real network: the bytes of one process."""
    for number in range(9):
        save(tmp_path / "photos" / at_name(544000 + 100 * number, 4172758), number)
    command = ["-m", "d2vpr_hf", "embed", tmp_path / "photos", "--model", tiny_folder, "--out", tmp_path / "parts"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1]
    shards = ["--shard-size", 3, "--batch-size", 2]
    words = [sys.executable, *launch, "--mixed_precision", "no", "--dynamo_backend", "no", *command, *shards]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Process 1 of 2: 2 shards encoded, 0 kept, of 3 in all" in done.stdout
    assert "Process 2 of 2: 1 shards encoded" in done.stdout
    assert "Merged 9 photos" in run("merge", tmp_path / "parts", "--out", tmp_path / "merged")[1]
    with one_thread():  # as in each of the processes: how sums are split may change their last bits
        index_photos(tmp_path / "photos", tmp_path / "whole", PlaceEncoder(tiny_folder, batch_size=2), shard_size=3)
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
