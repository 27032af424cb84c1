"""A run resumes from an undamaged checkpoint only: Accelerate continues without random states that it cannot read."""

import shutil

import pytest
import torch
from accelerate import Accelerator

from d2vpr_hf.training.checkpoints import Checkpoints, RunState


@pytest.fixture
def saved(fresh_accelerate, tmp_path_factory):
    """Return the parts of a tiny run, and the folder of its checkpoint."""
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    accelerator.prepare(torch.optim.SGD(model.parameters()))
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"), 1)
    checkpoints.save(accelerator, RunState(step=3))
    return accelerator, checkpoints, checkpoints.newest()


@pytest.mark.parametrize(
    "file", ["random_states_0.pkl", "model.safetensors", "optimizer.bin", "run_state.json", "checksums.json"]
)
@pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
def test_a_damaged_file_is_an_error(saved, tmp_path, file, damage):
    accelerator, checkpoints, newest = saved
    copy = shutil.copytree(newest, tmp_path / newest.name)
    content = bytearray((copy / file).read_bytes())
    if damage == "missing":
        (copy / file).unlink()
    else:
        content[len(content) // 2] ^= 4
        (copy / file).write_bytes(content if damage == "bit" else content[: len(content) // 2])
    if (file, damage) == ("checksums.json", "missing"):  # as in checkpoints of earlier versions
        assert checkpoints.load(accelerator, copy).step == 3
        return
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.load(accelerator, copy)


def test_a_file_that_was_added_is_an_error(saved, tmp_path):
    accelerator, checkpoints, newest = saved
    copy = shutil.copytree(newest, tmp_path / newest.name)
    (copy / "custom_checkpoint_0.pkl").write_bytes(b"stranger")
    with pytest.raises(ValueError, match=r"custom_checkpoint_0\.pkl is missing or has changed"):
        checkpoints.load(accelerator, copy)


def test_an_undamaged_checkpoint_is_loaded(saved, tmp_path):
    """File systems and file managers add hidden files, which training does not read."""
    accelerator, checkpoints, newest = saved
    copy = shutil.copytree(newest, tmp_path / newest.name)
    (copy / ".DS_Store").write_bytes(b"stranger")
    assert checkpoints.load(accelerator, copy).step == 3
    assert checkpoints.load(accelerator, newest).step == 3
