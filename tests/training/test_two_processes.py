"""Two processes (gloo, CPU) compute the same as one process with the joined batch."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import relative, save_folder, tiny_cricavpr, tiny_model
from tests.forked import distributed, run_distributed
from tests.training.places import write_places
from tests.training.run_files import read_metrics

WEIGHTS = "model.safetensors"
EQUAL = [
    *("distill-frozen", "distill-synchronised", "distill-micro-batches", "distill-tokens", "distill-metric"),
    *("distill-relational", "distill-head-drop", "distill-head-keep", "distill-sizes"),
    *("finetune-frozen", "finetune-synchronised", "finetune-micro-batches", "finetune-encoder", "finetune-checkpointing"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of one process, and of each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    root = write_places(folder / "gsv", size=70)
    teacher = save_folder(tiny_cricavpr(use_cross_image_encoder=True), folder / "teacher")
    student = save_folder(tiny_model(fusion_dropout=0.0, cross_image_dropout=0.0), folder / "student")
    paths = [str(path) for path in (root, teacher, student)]
    for processes, out in ((1, "single"), (2, "double")):
        run_distributed(processes, "tests.training.two_processes", [folder / out, *paths], folder / "log")
    return [torch.load(folder / name) for name in ("single-0.pt", "double-0.pt", "double-1.pt")]


def largest_difference(actual, expected):
    """Return the largest relative difference of a gradient that is not zero."""
    assert actual.keys() == expected.keys() and len(expected) > 50
    return max(relative(actual[name], gradient) for name, gradient in expected.items() if gradient.norm() > 1e-9)


def difference_of_whole_gradient(actual, expected):
    """Return the relative difference of the whole gradient."""
    return relative(*(torch.cat([gradients[name].flatten() for name in expected]) for gradients in (actual, expected)))


def joint_loss(first, second):
    """Return the mean of both losses: in stage 1 each process has that of its images, in stage 2 both have the whole loss."""
    return (first["loss"] + second["loss"]) / 2


@pytest.mark.parametrize("case", EQUAL)
def test_loss_and_gradients_are_those_of_the_joined_batch(results, case):
    single, first, second = (result[case] for result in results)
    assert joint_loss(first, second).item() == pytest.approx(single["loss"].item(), rel=1e-5)
    for process in (first, second):
        assert largest_difference(process["gradients"], single["gradients"]) < 1e-5


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_gradients_in_float32_differ_by_rounding_only(results, stage):
    """Single gradients whose terms cancel differ by up to 1e-4, as they also do with another batch size."""
    single, first, _ = (result[f"{stage}-float32"]["gradients"] for result in results)
    assert difference_of_whole_gradient(first, single) < 1e-5


@pytest.mark.parametrize("case", [case for case in EQUAL if case.startswith("finetune") or case == "distill-metric"])
def test_each_of_two_processes_mines_the_pairs_of_the_joined_batch(results, case):
    single, *processes = (result[case] for result in results)
    assert single["pairs"].shape[1] > 100
    for process in processes:
        assert torch.equal(process["place_ids"], single["place_ids"])
        assert torch.equal(process["pairs"], single["pairs"])


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_synchronised_statistics_are_those_of_the_joined_batch(results, stage):
    single, *processes = (result[f"{stage}-synchronised"]["statistics"] for result in results)
    for process in processes:
        assert max(relative(process[name], wanted) for name, wanted in single.items()) < 1e-5


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_published_batch_norm_depends_on_the_number_of_processes(results, stage):
    """As documented, each process normalises by its own images."""
    single, first, _ = (result[f"{stage}-published"]["gradients"] for result in results)
    assert largest_difference(first, single) > 1e-3


@pytest.mark.parametrize("launcher", ["forks", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_run_of_two_processes_resumes_to_the_same_weights(tmp_path_factory, launcher):
    """The loss leaves parameters unused, BatchNorm statistics differ by process, and loaders have workers."""
    folder = tmp_path_factory.mktemp("runs")
    root = write_places(folder / "gsv")
    teacher = save_folder(tiny_cricavpr(use_cross_image_encoder=True), folder / "teacher")
    student = save_folder(tiny_model(), folder / "student")
    flags = f"--photos {root} --model {student} --teacher {teacher} --teacher-group-places 2 --image-size 42 42"
    flags += " --places-per-batch 4 --held-out-places 4 --validate-every 2 --checkpoint-every 2 --log-every 1"
    flags += " --num-workers 1 --learning-rate 1e-3 --descriptor-weight 0 --token-mse-weight 1"
    whole_flags = [*flags.split(), "--max-steps", "4", "--out", str(folder / "whole")]
    if launcher == "torchrun":
        launch("--nproc-per-node", "2", "-m", "d2vpr_hf.training.distill", *whole_flags)
    else:
        run_distributed(2, "d2vpr_hf.training.distill", whole_flags, folder / "log")
    resumed_flags = [*flags.split(), "--out", folder / "resumed", "--max-steps"]
    for last_flags in (["2"], ["4", "--resume"]):
        run_distributed(2, "d2vpr_hf.training.distill", [*resumed_flags, *last_flags], folder / "log")
    for name in ("best", "last"):
        assert (folder / "resumed" / name / WEIGHTS).read_bytes() == (folder / "whole" / name / WEIGHTS).read_bytes()
    losses = held_out_losses(folder / "whole")
    assert held_out_losses(folder / "resumed") == losses and len(losses) == 3


def launch(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def held_out_losses(out):
    lines = read_metrics(out)
    return [line["held_out_loss"] for line in lines if "held_out_loss" in line]


def test_ctrl_c_in_one_process_ends_both_after_the_same_step(tmp_path):
    """A process that ends alone leaves the other one waiting for hours. The launcher passes Ctrl-C on: it comes twice."""
    root = write_places(tmp_path / "gsv")
    student = save_folder(tiny_model(), tmp_path / "student")
    flags = f"--photos {root} --model {student} --image-size 42 42 --places-per-batch 4 --num-workers 1"
    flags += f" --max-steps 100000 --checkpoint-every 100000 --log-every 2 --out {tmp_path / 'run'}"
    metrics, log = tmp_path / "run" / "run" / "metrics.jsonl", tmp_path / "log"
    with distributed(2, "d2vpr_hf.training.finetune", flags.split(), log) as processes:
        while all(process.is_alive() for process in processes) and not (metrics.exists() and metrics.read_text()):
            time.sleep(0.01)
        for _ in range(2):
            os.kill(processes[1].pid, signal.SIGINT)
            time.sleep(0.05)
    text = log.read_text()
    assert [process.exitcode for process in processes] == [130, 130], text[-4000:]
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert step % 2 == 0 and "Traceback" not in text
    line = f"Ctrl-C stopped the run. {checkpoint} is its checkpoint after step {step}. Continue it with `--resume`."
    assert text.count(line) == 2
