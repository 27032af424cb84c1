"""Eight processes (gloo, CPU) take the steps of one process, by the recipe for 8 GPUs."""

import pytest

from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.forked import run_distributed
from tests.training.places import write_places
from tests.training.run_files import read_metrics


@pytest.mark.slow
def test_eight_processes_have_the_losses_of_one(tmp_path):
    """Groups of the teacher that crossed processes, or statistics of an eighth of the batch, would change the losses."""
    root = write_places(tmp_path / "gsv", places_per_city=40, photos=4)
    teacher = save_folder(tiny_cricavpr(use_cross_image_encoder=True), tmp_path / "teacher")
    student = save_folder(tiny_model(fusion_dropout=0.0), tmp_path / "student")
    losses = {}
    for processes in (1, 8):
        out = tmp_path / str(processes)
        words = [out, root, teacher, student]
        run_distributed(processes, "tests.training.eight_processes", [str(word) for word in words], tmp_path / "log")
        lines = read_metrics(out)
        losses[processes] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses[1]) == 5 and losses[8] == pytest.approx(losses[1], rel=1e-5)
