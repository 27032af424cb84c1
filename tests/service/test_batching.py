"""Batches of jobs from several clients, limits of what waits, keys and metrics: plain functions, without HTTP."""

import threading
from concurrent.futures import wait

import pytest

from d2vpr_hf.service.api_keys import ApiKeys, read_api_keys
from d2vpr_hf.service.batching import BatchWorker
from d2vpr_hf.service.limits import Admissions
from d2vpr_hf.service.metrics import Counter, Gauge, Histogram, exposition


def results_of(futures):
    return [future.result(30) for future in futures]


def test_jobs_that_wait_share_a_batch():
    """While a batch runs, others collect: 1 job alone, then 4 and 2 of the six that came meanwhile."""
    batches = []
    begun, go = threading.Event(), threading.Event()

    def process(jobs):
        batches.append(list(jobs))
        begun.set()
        go.wait(30)
        return [10 * job for job in jobs]

    worker = BatchWorker(process, 4)
    first = worker.submit([0])
    begun.wait(30)
    others = [*worker.submit([1, 2]), *worker.submit([3, 4, 5, 6])]
    go.set()
    assert results_of([*first, *others]) == [0, 10, 20, 30, 40, 50, 60]
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]
    worker.close()


def test_an_idle_worker_waits_for_more_jobs():
    batches = []
    worker = BatchWorker(lambda jobs: (batches.append(len(jobs)), list(jobs))[1], 2, wait_seconds=30.0)
    futures = [*worker.submit(["a"]), *worker.submit(["b"])]  # the batch is full before the time is over
    assert results_of(futures) == ["a", "b"] and batches == [2]
    worker.close()


def test_jobs_with_different_keys_are_not_mixed():
    """Requests of two states of an index must not share a search."""
    batches = []
    go = threading.Event()

    def process(jobs):
        go.wait(30)
        batches.append(list(jobs))
        return list(jobs)

    worker = BatchWorker(process, 8, key=lambda job: job[0])
    futures = worker.submit(["b0"])
    futures += worker.submit(["a1", "a2", "b1", "a3"])
    go.set()
    results_of(futures)
    assert [batch for batch in batches if batch != ["b0"]] == [["a1", "a2"], ["b1"], ["a3"]]
    worker.close()


def test_one_bad_job_does_not_fail_the_others():
    def process(jobs):
        return [1 / job for job in jobs]

    worker = BatchWorker(process, 8, wait_seconds=0.2)
    good, bad, last = worker.submit([1, 0, 2])
    assert (good.result(30), last.result(30)) == (1.0, 0.5)
    with pytest.raises(ZeroDivisionError):
        bad.result(30)
    worker.close()


def test_cancelled_jobs_are_not_processed():
    seen = []
    begun, go = threading.Event(), threading.Event()

    def process(jobs):
        seen.extend(jobs)
        begun.set()
        go.wait(30)
        return list(jobs)

    worker = BatchWorker(process, 1)
    first, second, third = worker.submit([1, 2, 3])
    begun.wait(30)
    assert second.cancel()
    go.set()
    wait([first, third])
    worker.close()
    assert seen == [1, 3]


def test_closing_answers_all_jobs():
    worker = BatchWorker(lambda jobs: list(jobs), 2)
    futures = worker.submit(list(range(7)))
    worker.close()
    assert results_of(futures) == list(range(7))
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit([1])


def test_the_time_of_jobs_is_estimated():
    worker = BatchWorker(lambda jobs: list(jobs), 4)
    assert worker.seconds_for(100) == 0
    worker.submit([1])[0].result(30)
    worker.close()
    assert worker.seconds_for(100) > 0


def test_admissions_count_photos_and_bytes():
    admissions = Admissions(3, 100)
    assert admissions.add(2, 60) and not admissions.add(2) and not admissions.add(0, 41)
    assert (admissions.photos, admissions.num_bytes) == (2, 60)  # what was refused is not counted
    assert admissions.add(1, 40)
    admissions.remove(3, 100)
    assert (admissions.photos, admissions.num_bytes) == (0, 0)


def test_keys(tmp_path):
    keys = ApiKeys(["a" * 16, "b" * 20])
    assert keys and keys.accept("a" * 16) and keys.accept("b" * 20)
    assert not any(map(keys.accept, (None, "", "a" * 15, "a" * 17)))
    assert ApiKeys().accept(None) and not ApiKeys()
    file = tmp_path / "keys"
    file.write_text(f"# of the robots\n{'r' * 16}\n\n  {'s' * 16}  \n")
    assert read_api_keys(file, {}).accept("s" * 16)
    assert read_api_keys(None, {"D2VPR_API_KEY_FILE": str(file)}).accept("r" * 16)
    assert read_api_keys(None, {"D2VPR_API_KEY": "e" * 16}).accept("e" * 16)
    assert not read_api_keys(None, {"D2VPR_API_KEY": " "})
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="has no key"):
        read_api_keys(file, {})
    file.write_text("short\n")
    with pytest.raises(ValueError, match="at least 16") as error:
        read_api_keys(file, {})
    assert "short" not in str(error.value)  # a key is never shown
    file.write_bytes(b"\xff" * 20)
    for unreadable, reason in ((file, "utf-8"), (tmp_path, "a folder"), (tmp_path / "none", "No such file")):
        with pytest.raises(ValueError, match=f"keys .* cannot be read: .*{reason}.*`openssl rand"):
            read_api_keys(unreadable, {})


def test_metrics_have_the_form_of_prometheus():
    """Buckets are cumulative, and labels are escaped."""
    counter, histogram = Counter("jobs_total", "Jobs."), Histogram("seconds", "Time.", (0.1, 1.0))
    counter.add(path='a"b\\c\n', status="200")
    counter.add(2, path="x", status="200")
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert exposition([counter, Gauge("free", "Room.", lambda: 2.5), histogram]).splitlines() == [
        "# HELP jobs_total Jobs.",
        "# TYPE jobs_total counter",
        'jobs_total{path="a\\"b\\\\c\\n",status="200"} 1',
        'jobs_total{path="x",status="200"} 2',
        "# HELP free Room.",
        "# TYPE free gauge",
        "free 2.5",
        "# HELP seconds Time.",
        "# TYPE seconds histogram",
        'seconds_bucket{le="0.1"} 2',
        'seconds_bucket{le="1"} 3',
        'seconds_bucket{le="+Inf"} 4',
        "seconds_sum 7.65",
        "seconds_count 4",
    ]
