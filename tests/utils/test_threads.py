"""Work in threads of one core each, whatever number of threads torch uses elsewhere."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from d2vpr_hf.gridtown import Variation, draw_photo, label_photos, labels, make_town, simulate, town
from d2vpr_hf.utils.threads import map_on_cores, on_one_core


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_function_has_one_thread_and_the_caller_keeps_its_threads():
    assert on_one_core(torch.get_num_threads) == 1
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(4) as pool:  # several renderers in one process
        assert set(pool.map(lambda _: on_one_core(torch.get_num_threads), range(8))) == {1}
        assert list(pool.map(lambda _: torch.get_num_threads(), range(8))) == [2] * 8


def test_calls_within_each_other_do_not_wait_for_each_other():
    """A thread that waits for a free thread of its own pool would wait forever."""
    assert on_one_core(lambda: on_one_core(torch.get_num_threads)) == 1
    assert map_on_cores(lambda part: on_one_core(lambda: part), list(range(8))) == list(range(8))


def test_an_error_is_that_of_the_function():
    with pytest.raises(ZeroDivisionError):
        on_one_core(lambda: 1 // 0)


@pytest.fixture
def threads_of_renderers(monkeypatch):
    """Return a list with torch's number of threads in each call of a renderer."""
    threads = []
    for module, name in ((town, "render"), (town, "make_paintbox"), (labels, "cast_walls")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, call=function: threads.append(torch.get_num_threads()) or call(*args))
    return threads


def test_renderers_use_one_thread(threads_of_renderers):
    made = make_town(7, 6)
    photo = draw_photo(made.city, 0, 0, 1, Variation())
    made.take([photo, photo], (32, 32))
    label_photos(made.city, made.paintbox, [photo], (2, 2))
    assert threads_of_renderers == [1] * 4
    assert torch.get_num_threads() == 2


def test_simulating_photos_uses_one_thread(tmp_path, threads_of_renderers):
    simulate(tmp_path / "town", 1, 0, photos_per_place=1, image_size=16, layout="gsv-cities", label_cells=1)
    assert len(threads_of_renderers) >= 5 and set(threads_of_renderers) == {1}


LATE_TORCH = """
import os, sys, threading
from d2vpr_hf.utils.threads import map_on_cores, num_cores, on_one_core, single_core_threads
cores = num_cores()
assert cores == min(int(sys.argv[1]), len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else True
assert on_one_core(num_cores) == 1 and "torch" not in sys.modules
with single_core_threads(2) as pool:
    list(pool.map(str, range(4)))
    import torch, faiss
    assert set(pool.map(lambda _: (torch.get_num_threads(), faiss.omp_get_max_threads()), range(8))) == {(1, 1)}
assert set(map_on_cores(lambda _: torch.get_num_threads(), range(8))) == {1}
usual = int(sys.argv[2])
late = []
thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
thread.start(); thread.join()
assert torch.get_num_threads() == num_cores() == usual == late[0], (torch.get_num_threads(), late)
torch.set_num_threads(4)
assert num_cores() == 4 and on_one_core(torch.get_num_threads) == 1 and on_one_core(num_cores) == 1
"""


@pytest.mark.parametrize(("variable", "number"), [("1", 1), (" 2,1", 2)])
def test_threads_stay_on_one_core_if_torch_is_imported_after_they_started(variable, number):
    environment = os.environ | {"OMP_NUM_THREADS": variable}
    usual = run(environment, "import torch; print(torch.get_num_threads())")
    run(environment, LATE_TORCH, str(number), usual)


def run(environment, *arguments):
    done = subprocess.run([sys.executable, "-c", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
