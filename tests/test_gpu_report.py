"""The report of a GPU: each part runs with tiny sizes on a CPU, so that no mistake costs the scarce minutes of a GPU."""

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import code_version, gpu_report, gpu_tables
from benchmarks.gpu import inference, parity, photos, runtimes, training
from benchmarks.gpu.part import Setting, describe_machine
from benchmarks.page_tables import markers
from d2vpr_hf.backends.cuda_graphs import Recording, ReplayedNetwork

ROOT = Path(__file__).parents[1]
MACHINE = {
    "device": "cuda",
    "card": "Made-up card",
    "driver": "1.2",
    "cores": 16,
    "versions": {"torch": "2.11", "transformers": "5.20"},
    "tiny": False,
}
INFERENCE = {
    "peak bf16": {"tflops": 800.0},
    "bf16, batch 256": {
        "D²-VPR, compiled, CUDA graph": {"median_ms": 20.0, "images_per_second": 12800.0, "share_of_peak": 0.228},
        "Dinov2-small, compiled": {"median_ms": 16.0, "images_per_second": 16000.0, "share_of_peak": 0.245},
        "Dinov2-base, compiled": {"median_ms": 64.0, "images_per_second": 4000.0},
    },
    "bf16, batch 1, D²-VPR, compiled": {"failed": "RuntimeError: no compiler"},
    "attention, bf16, batch 256": {"flash": {"median_ms": 20.0}, "cudnn": {"failed": "not there"}},
}
TRAINING = {
    "distill": {
        "images": 32,
        "ours": {"images_per_second": 900.0, "memory_gb": 5.0},
        "the published way": {"images_per_second": 300.0, "memory_gb": 12.5},
    },
    "finetune": {
        "images": 512,
        "ours": {"images_per_second": 1500.0, "memory_gb": 20.0},
        "the published way": {"failed": "out of memory"},
    },
}


def measure(part, work) -> dict:
    """Return the figures of a part with tiny sizes on a CPU."""
    work.mkdir()
    setting = Setting("cpu", True, work, work / "figures.json")
    AcceleratorState._reset_state()
    importlib.import_module(gpu_report.PARTS[part].module).measure(setting)
    assert json.loads((work / "figures.json").read_text())["figures"] == setting.figures
    return setting.figures


@pytest.mark.parametrize("part", ["parity", "inference", "training", "search"])
def test_a_part_runs_with_tiny_sizes(part, tmp_path):
    """A wrong argument in a part would show only on the GPU."""
    figures = measure(part, tmp_path / "work")
    record = {"machine": MACHINE, "parts": {part: {"state": "done", "commit": "abc", "date": "2026-01-01", "figures": figures}}}
    assert "| ---" in gpu_tables.part_text(part, [record])
    if part == "parity":
        assert figures["fp32"] == {"descriptor": 0, "gradient": 0} and figures["gridtown"]["mean"] == 0
        assert figures["prepared fp32"]["descriptor"] < 3e-6 < figures["bf16"]["descriptor"] < 0.05


@pytest.mark.slow
def test_the_command_measures_all_parts(tmp_path):
    """Each part in a process of its own."""
    out = tmp_path / "record.json"
    options = ["--device", "cpu", "--tiny", "--minutes", "120", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks.gpu_report", *options], cwd=ROOT, check=True)
    parts = json.loads(out.read_text())["parts"]
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(gpu_report.PARTS, "done")
    assert parts["recipes"]["figures"]["distill, no"]["steps"] == [1, 3, 4]


@pytest.fixture
def fake_part(monkeypatch):
    def use(behaviour):
        monkeypatch.setenv("PART_BEHAVIOUR", behaviour)
        monkeypatch.setattr(gpu_report, "PARTS", {"fake": gpu_report.Part("tests.gpu_parts", 60, "a part of the tests")})

    return use


def test_a_part_that_fails_keeps_its_figures_and_names_its_error(fake_part, tmp_path):
    fake_part("fails")
    record = gpu_report.run(["fake"], "cpu", tmp_path / "out.json", tiny=True, minutes=60, revision="abc")
    part = json.loads((tmp_path / "out.json").read_text())["parts"]["fake"]
    assert part == record["parts"]["fake"]
    assert part["state"] == "failed: ValueError: no such kernel"
    assert part["figures"] == {"first": {"value": 1}} and part["commit"] == "abc"


def test_a_part_is_ended_at_its_limit_and_keeps_its_figures(fake_part, monkeypatch, tmp_path):
    """Without a limit for each part one that hangs would take the minutes of all others."""
    fake_part("hangs")
    running = tmp_path / "running"
    monkeypatch.setenv("PART_IS_RUNNING", str(running))
    wait = subprocess.Popen.wait
    processes = []

    def wait_until_running(process, timeout=None):
        if timeout is None:
            return wait(process)
        processes.append(process)
        while not running.exists() and process.poll() is None:
            time.sleep(0.02)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_until_running)
    part = gpu_report.run(["fake"], "cpu", tmp_path / "out.json", tiny=True, minutes=60)["parts"]["fake"]
    assert part["state"].startswith("ended at its limit of ") and part["figures"] == {"first": {"value": 1}}
    assert processes[0].poll() == -9


def test_a_record_has_one_card(fake_part, tmp_path):
    """Figures of two cards in one table could not be told apart."""
    fake_part("fails")
    (tmp_path / "out.json").write_text(json.dumps({"machine": MACHINE, "parts": {}}))
    with pytest.raises(ValueError, match=r"is a record of device cuda, card Made-up card, .* Give `--out` another file"):
        gpu_report.run(["fake"], "cpu", tmp_path / "out.json", tiny=True, minutes=60)


def test_another_card_is_refused_before_the_first_part(fake_part, monkeypatch, tmp_path):
    """The minutes of the first part were spent, and its figures thrown away."""
    fake_part("fails")
    (tmp_path / "out.json").write_text(json.dumps({"machine": MACHINE, "parts": {}}))
    run_part, modules = gpu_report.run_part, []
    monkeypatch.setattr(
        gpu_report, "run_part", lambda module, *rest, **more: modules.append(module) or run_part(module, *rest, **more)
    )
    with pytest.raises(ValueError, match="Give `--out` another file"):
        gpu_report.run(["fake"], "cpu", tmp_path / "out.json", tiny=True, minutes=60)
    assert modules == [gpu_report.MACHINE]


def test_a_machine_without_git_has_no_commit(monkeypatch):
    """The report ended at once on a bare machine, also with `--commit`."""
    monkeypatch.setenv("PATH", "")
    assert code_version.commit() is None


def test_photos_that_were_loaded_before_the_clock_started_do_not_count(monkeypatch):
    """Sixteen processes had decoded all photos before, so that the rate was that of unpickling."""
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def load():
        for number in range(20):
            now[0] += 0 if number < 4 or number >= 16 else 2  # 4 batches are ready, and 4 more than are measured follow
            yield 10

    assert training.steady_rate(load(), 4, 12) == 5


def test_a_provider_that_falls_back_to_the_cpu_has_failed(monkeypatch, tmp_path):
    """Times of the CPU were noted as those of CUDA."""
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    fake = SimpleNamespace(InferenceSession=lambda *_, **__: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    row = runtimes.time_provider(tmp_path, "CUDAExecutionProvider", 70, 1)
    assert row == {"failed": "RuntimeError: ONNX Runtime did not load it and uses CPUExecutionProvider"}


def test_a_rival_without_its_cuda_graph_has_failed():
    """It runs without one after a warning, and its times stood in the row of the CUDA graph."""

    def refuse(network, pixels):
        raise RuntimeError("operation not permitted")

    pixels = torch.ones(1, 3, 2, 2)
    with pytest.raises(RuntimeError, match="no CUDA graph was recorded"):
        inference.warm_up(ReplayedNetwork(torch.flatten, refuse), pixels)
    inference.warm_up(ReplayedNetwork(torch.flatten, lambda network, x: Recording(lambda: None, x, network(x))), pixels)


def test_float32_is_measured_without_tf32(monkeypatch, tmp_path):
    """Convolutions of cuDNN take TF32 by default, which has ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []
    monkeypatch.setattr(inference, "gemm_gflops", lambda *_: 1.0)
    monkeypatch.setattr(inference, "compare_attention", lambda *_: None)
    monkeypatch.setattr(inference, "race", lambda *_, **__: seen.append(torch.backends.cudnn.allow_tf32))
    inference.measure(Setting("cpu", True, tmp_path))
    encode = parity.TorchBackend.encode
    monkeypatch.setattr(
        parity.TorchBackend, "encode", lambda *given: seen.append(torch.backends.cudnn.allow_tf32) or encode(*given)
    )
    monkeypatch.setattr(parity, "PRECISIONS", ())
    monkeypatch.setattr(parity, "compare_photos", lambda setting: {})
    parity.measure(Setting("cpu", True, tmp_path))
    assert seen and not any(seen) and torch.backends.cudnn.allow_tf32


def test_a_choice_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    """Without a C compiler one choice ended the part."""

    def measure_own(options, name, photos):
        if options.backend == "torch-compiled":
            raise RuntimeError("no compiler")
        rates = {"backend": 200.0, "photos, encoder": 100.0}
        return {"photos_per_second": rates, "photos, against ready pixels": 0.5}

    monkeypatch.setattr(photos, "measure_own", measure_own)
    monkeypatch.setattr(photos, "draw_photos", lambda count: [b""] * count)
    setting = Setting("cuda", False, tmp_path)
    photos.measure(setting)
    table = gpu_tables.photos_table(setting.figures)
    assert "| student, torch-compiled bf16, resized on the GPU | RuntimeError: no compiler |" in table
    assert table.count("| 200 | 100 | 50 % |") == len(photos.CHOICES) - 1


def copy_pages(folder) -> Path:
    """Copy the pages with tables, and the records, into a folder."""
    docs = folder / "docs"
    shutil.copytree(gpu_tables.DOCS, docs, ignore=shutil.ignore_patterns("images", "LOG.md"))
    (docs / "gpu").mkdir(exist_ok=True)
    return docs


def test_the_tables_of_the_pages_are_those_of_the_records(tmp_path):
    """A figure written by hand would stay when a record changes."""
    docs = copy_pages(tmp_path)
    gpu_tables.write_tables(docs)
    for page in set(gpu_tables.PAGES.values()):
        assert (docs / page).read_text() == (gpu_tables.DOCS / page).read_text(), f"run python -m benchmarks.gpu_tables: {page}"


def test_a_record_fills_the_pages(tmp_path):
    docs = copy_pages(tmp_path)
    shutil.rmtree(docs / "gpu")
    (docs / "gpu").mkdir()
    made = {"commit": "abc1234", "date": "2026-01-01", "state": "done"}
    parts = {
        "inference": made | {"figures": INFERENCE},
        "training": made | {"figures": TRAINING, "state": "ended at its limit of 90 s"},
        "runtimes": made | {"figures": {"not measured": "onnx is not installed"}},
        "search": made | {"figures": {}, "state": "failed: RuntimeError: no memory"},
    }
    (docs / "gpu" / "card.json").write_text(json.dumps({"machine": MACHINE, "parts": parts}))
    gpu_tables.write_tables(docs)
    speed, training = (docs / "speed.md").read_text(), (docs / "training.md").read_text()
    assert "| D²-VPR, compiled, CUDA graph, bf16, batch 256 | 20.00 | 12800 | 0.80 | 23 % |" in speed
    assert "Made-up card, driver 1.2, 16 processor cores, torch 2.11, transformers 5.20, commit abc1234, 2026-01-01." in speed
    assert "flash 20.00, cudnn failed" in speed and "Not measured: onnx is not installed." in speed
    assert "| stage 1, 32 images, ours | 900 (3.00x) | 5.0 (0.40x) |" in training
    assert "| stage 2, 512 images, the published way | out of memory |" in training
    assert "The part was not finished: ended at its limit of 90 s." in training
    assert "Not measured on Made-up card: failed: RuntimeError: no memory." in (docs / "benchmarks.md").read_text()
    start, end = markers(gpu_tables.marker_name("photos"))
    assert speed.split(start)[1].split(end)[0].strip() == gpu_tables.NOT_MEASURED


def test_a_record_of_tiny_sizes_is_refused(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps({"machine": describe_machine("cpu") | {"tiny": True}, "parts": {}}))
    with pytest.raises(ValueError, match=r"tiny\.json is not a record of a GPU with full sizes"):
        gpu_tables.read_records(tmp_path)
