"""The report of a GPU: each part runs with tiny sizes on a CPU, so that no mistake costs the scarce minutes of a GPU."""

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from benchmarks import gpu_report, gpu_tables
from benchmarks.gpu.part import Setting, describe_machine
from benchmarks.page_tables import markers

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
