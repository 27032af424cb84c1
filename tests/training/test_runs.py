"""Small whole runs: their files, how they stop, and that an interrupted and resumed run ends at the same weights."""

import contextlib
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.training import training_run
from d2vpr_hf.training.command_line import run_script
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.options import DistillOptions, FinetuneOptions, PretrainOptions
from d2vpr_hf.training.pretrain import pretrain
from d2vpr_hf.training.training_run import RunStoppedError
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.forked import start_module
from tests.hub.card_rules import card_problems
from tests.hub_server import running_hub, use_hub
from tests.training.places import draw, write_places
from tests.training.run_files import read_metrics

STAGES = {
    "pretrain": (PretrainOptions, pretrain),
    "distill": (DistillOptions, distill),
    "finetune": (FinetuneOptions, finetune),
}
PUBLISHED = ("distill", "finetune")  # the stages of the paper, which train the whole model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    simulate(root / "labelled", 8, 5, layout="gsv-cities", photos_per_place=5, image_size=42, label_cells=3)
    return {
        "photos": str(write_places(root / "gsv")),
        "labelled": str(root / "labelled"),
        "teacher": str(save_folder(tiny_cricavpr(use_cross_image_encoder=True), root / "teacher")),
        "model": str(save_folder(tiny_model(), root / "student")),
    }


def make_options(stage, folders, out, **changes):
    """Return the options of a run of six steps with dropout and augmentation, over more than one epoch."""
    kind, _ = STAGES[stage]
    values = {
        "photos": folders["labelled" if stage == "pretrain" else "photos"],
        "model": folders["model"],
        "out": str(out),
        "image_size": [42, 42],
        "places_per_batch": 4,
        "num_workers": 0,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "log_every": 1,
        "checkpoint_every": 2,
        "validate_every": 3,
        "held_out_places": 4,
    }
    if stage == "finetune":
        values |= {"learning_rate_factors": ["aggregator.*=0.1"]}  # two groups of parameters, in another order than the model's
    if stage == "distill":
        values |= {"teacher": folders["teacher"], "teacher_group_places": 4, "optimizer": "adam"}
    return kind(**(values | changes))


def train(stage, folders, out, **changes):
    AcceleratorState._reset_state()
    return STAGES[stage][1](make_options(stage, folders, out, **changes))


def state_of(out):
    """Return the state that a run ends with: weights and statistics, and the optimiser's."""
    return load_file(out / "last" / "model.safetensors"), torch.load(
        out / "checkpoints" / "step-00000006" / "optimizer.bin", weights_only=True
    )["state"]


def assert_same_end(actual, expected):
    for name, weights in expected[0].items():
        assert torch.equal(actual[0][name], weights), name
    for parameter, moments in expected[1].items():
        assert all(torch.equal(actual[1][parameter][name], value) for name, value in moments.items())


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """Train each stage without interruption; return the folder of the runs."""
    out = tmp_path_factory.mktemp("whole")
    for stage in STAGES:
        train(stage, folders, out / stage)
    return out


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_leaves_models_records_and_checkpoints(folders, whole, stage):
    out = whole / stage
    for name in ("best", "last"):
        assert load_image_processor(out / name).size == {"height": 42, "width": 42}
        card = (out / name / "README.md").read_text()
        assert "learning_rate: 0.001" in card and "library_name: transformers" in card
        assert str(out.parent) not in card and str(Path(folders["model"]).parent) not in card  # no folder of this machine
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert "seed: 0" in (out / "run" / "options.yaml").read_text()
    assert json.loads((out / "run" / "run.json").read_text())["versions"]["torch"] == torch.__version__
    steps = [line["step"] for line in read_metrics(out) if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert all(line["images_per_second"] > 0 for line in read_metrics(out) if "loss" in line)


@pytest.mark.parametrize("stage", STAGES)
def test_the_best_model_is_that_of_the_lowest_held_out_loss(whole, stage):
    """The saved best model is the model that was measured."""
    held_out = {line["step"]: line["held_out_loss"] for line in read_metrics(whole / stage) if "held_out_loss" in line}
    assert sorted(held_out) == [0, 3, 6]
    best = min(held_out, key=held_out.get)
    trained = load_model(whole / stage / "last").state_dict()
    saved = load_model(whole / stage / "best").state_dict()
    assert all(torch.equal(saved[name], weights) for name, weights in trained.items()) == (best == 6)
    assert f"step {best}" in (whole / stage / "best" / "README.md").read_text()


def test_held_out_places_are_not_trained_on(folders, tmp_path):
    accelerator = Accelerator()
    data = training_run.TrainingData(make_options("finetune", folders, tmp_path), accelerator)
    trained = {place for epoch in range(4) for place in data.sampler.batches(epoch).ravel().tolist()}
    held_out = set(data.held_out_sampler.batches(0).ravel().tolist())
    assert len(held_out) == 4 and not trained & held_out and len(trained) == 12
    first, second = (torch.cat([batch.pixels for batch in data.held_out_batches()]) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("interrupted_at", [1, 3, 5])
def test_an_interrupted_run_ends_at_the_same_weights(folders, whole, tmp_path, monkeypatch, stage, interrupted_at):
    """Checkpoints are every two steps, so a step is repeated, with the same order, photos, augmentation and dropout."""
    update = training_run.TrainingRun.update

    def stop_after(run, batch):
        update(run, batch)
        if run.state.step == interrupted_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training_run.TrainingRun, "update", stop_after)
        train(stage, folders, tmp_path / "run")
    train(stage, folders, tmp_path / "run", resume=True)
    assert_same_end(state_of(tmp_path / "run"), state_of(whole / stage))
    resumed, uninterrupted = (
        [{name: value for name, value in line.items() if name != "images_per_second"} for line in read_metrics(out)]
        for out in (tmp_path / "run", whole / stage)
    )
    assert resumed == uninterrupted


@pytest.mark.parametrize("stage", PUBLISHED)
def test_a_killed_or_terminated_run_resumes_to_the_same_weights(folders, whole, tmp_path, stage):
    """SIGTERM saves a checkpoint, kill -9 does not. After both, --resume ends at the same weights as the whole run."""
    flags = []
    for name, value in vars(make_options(stage, folders, tmp_path / "run", num_workers=1)).items():
        if value not in (None, False, ""):
            flags += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    module, log = f"d2vpr_hf.training.{stage}", tmp_path / "log"
    rng = torch.Generator().manual_seed(len(stage))
    for number, kind in enumerate((signal.SIGTERM, signal.SIGKILL)):
        process = start_module(module, [*flags, *(["--resume"] if number else [])], log)
        _wait_for_step(tmp_path / "run", process)
        time.sleep(0.3 * torch.rand(1, generator=rng).item())
        with contextlib.suppress(ProcessLookupError):  # it may be at its end
            os.killpg(process.pid, kind)  # the loading processes too, as torchrun and cluster managers do
        process.join()
        assert process.exitcode in ((143, 0) if kind == signal.SIGTERM else (-9, 0)), log.read_text()
        assert process.exitcode != 143 or "Continue it with `--resume`" in log.read_text()
    process = start_module(module, [*flags, "--resume"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert_same_end(state_of(tmp_path / "run"), state_of(whole / stage))


def _wait_for_step(out, process):
    """Wait until the run logs another step, or ends."""
    before = _num_steps(out)
    while process.is_alive() and _num_steps(out) == before:
        time.sleep(0.01)


def _num_steps(out):
    path = out / "run" / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


@pytest.mark.parametrize(("number", "name", "status"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_signal_saves_a_checkpoint_and_raises_an_error_with_advice(folders, tmp_path, monkeypatch, number, name, status):
    """The run must not wait for the next regular checkpoint, which is far away. A caller must be able to catch the error."""
    update = training_run.TrainingRun.update

    def send_signal(run, batch):
        if run.state.step == 2:
            os.kill(os.getpid(), number)
        update(run, batch)

    monkeypatch.setattr(training_run.TrainingRun, "update", send_signal)
    before = signal.getsignal(number)
    advice = rf"^{name} stopped the run\. .*step-00000003 is its checkpoint after step 3\. Continue it with `resume=True`"
    with pytest.raises(RunStoppedError, match=advice) as stopped:
        train("finetune", folders, tmp_path, checkpoint_every=1000, log_every=1000)
    assert stopped.value.exit_status == status
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("stage", "frozen", "untrained"),
    [
        ("pretrain", None, ["aggregator", "recovery"]),
        ("finetune", None, []),
        ("finetune", ["recovery.*", "embeddings.*"], ["embeddings", "recovery"]),
        ("distill", None, []),
    ],
)
def test_training_removes_the_mark_of_the_parts_that_it_trains(folders, tmp_path, stage, frozen, untrained):
    """A trained model that still warns, and a random part that no longer does, would both be wrong."""
    start = load_model(folders["model"]).config.untrained_parts
    assert start == ["adapters", "aggregator", "embeddings", "encoder", "recovery"]
    train(stage, folders, tmp_path, max_steps=2, frozen=frozen, validate_every=1)
    assert load_model(tmp_path / "last").config.untrained_parts == untrained
    train(stage, folders, tmp_path, max_steps=2, frozen=frozen, validate_every=1, resume=True)
    assert load_model(tmp_path / "last").config.untrained_parts == untrained


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_keeps_older_checkpoints(folders, whole, tmp_path, monkeypatch, error):
    save = Accelerator.save_state

    def fill_up(accelerator, folder):
        if "step-00000004" in folder:
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise error
        return save(accelerator, folder)

    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"step 4 could not.*continue from step-00000002 with"):
        patched.setattr(Accelerator, "save_state", fill_up)
        train("finetune", folders, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    train("finetune", folders, tmp_path, resume=True)
    assert_same_end(state_of(tmp_path), state_of(whole / "finetune"))


def test_a_half_written_checkpoint_is_never_loaded(folders, whole, tmp_path):
    train("finetune", folders, tmp_path, max_steps=6)
    (tmp_path / "checkpoints" / ".step-00000099.writing").mkdir()
    train("finetune", folders, tmp_path, resume=True)
    assert_same_end(state_of(tmp_path), state_of(whole / "finetune"))


def test_a_run_is_not_overwritten(folders, whole):
    with pytest.raises(FileExistsError, match=r"already holds a run\. Continue it with `resume=True`"):
        train("finetune", folders, whole / "finetune")


@pytest.mark.parametrize("name", ["run", "checkpoints", "run/d2vpr"])
def test_no_file_is_written_through_a_link(folders, tmp_path, name):
    """A folder of a run from elsewhere could lead anywhere; `out` itself is named by the user."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / name).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (out / name).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(FileExistsError, match="is a link, which is not followed"):
        train("finetune", folders, out, trackers=["tensorboard"])
    assert not any(elsewhere.iterdir())


def test_an_old_checkpoint_that_is_a_link_is_removed_alone(folders, tmp_path):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    (elsewhere / "sub").mkdir(parents=True)
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "step-00000000").symlink_to(elsewhere, target_is_directory=True)
    train("finetune", folders, out, max_steps=2, held_out_places=0, keep_checkpoints=1)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002"] and (elsewhere / "sub").is_dir()


def test_another_number_of_processes_is_refused(folders, tmp_path):
    train("finetune", folders, tmp_path, max_steps=2, held_out_places=0)
    state = tmp_path / "checkpoints" / "step-00000002" / "run_state.json"
    state.write_text(state.read_text().replace('"num_processes": 1', '"num_processes": 8'))
    (state.parent / "checksums.json").unlink()  # as in an earlier version's checkpoint: the change is not damage
    with pytest.raises(ValueError, match="with 8 processes, this run has 1"):
        train("finetune", folders, tmp_path, resume=True, max_steps=4)


@pytest.mark.parametrize("stage", PUBLISHED)
def test_a_loss_that_is_not_finite_stops_the_run(folders, tmp_path, stage):
    weights = load_file(Path(folders["model"]) / "model.safetensors")
    weights["recovery.projection.bias"][0] = torch.nan
    broken = save_folder(tiny_model(), tmp_path / "broken")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(FloatingPointError, match="Not a finite number: loss"):
        train(stage, folders, tmp_path / "run", model=str(broken), held_out_places=0, log_every=2)
    assert not (tmp_path / "run" / "last").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_weights_that_are_not_finite_are_not_saved(folders, whole, tmp_path, monkeypatch):
    """A gradient may be infinite where the loss is finite; the checkpoint before it must stay the newest."""
    backward = training_run.TrainingRun.backward

    def break_gradient(run, loss, numbers):
        backward(run, loss, numbers)
        if run.state.step == 3:
            next(iter(run.model.recovery.parameters())).grad[0, 0] = torch.nan

    with monkeypatch.context() as patched, pytest.raises(FloatingPointError, match="Not a finite number: weights"):
        patched.setattr(training_run.TrainingRun, "backward", break_gradient)
        train("finetune", folders, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    train("finetune", folders, tmp_path, resume=True)
    assert_same_end(state_of(tmp_path), state_of(whole / "finetune"))


def test_a_held_out_loss_that_is_not_finite_stops_the_run(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("d2vpr_hf.training.distill.DistillationLoss.__call__", lambda *_: (torch.tensor(torch.nan), {}))
    with pytest.raises(FloatingPointError, match="Not a finite number: held_out_loss"):
        train("distill", folders, tmp_path)
    assert not (tmp_path / "best").exists()


def test_cached_targets_change_nothing(folders, whole, tmp_path):
    """A run that fills the cache, and a run that only reads it, end at the same weights as a run without a cache."""
    for name in ("fills", "reads"):
        train("distill", folders, tmp_path / name, teacher_cache=str(tmp_path / "targets"))
        assert_same_end(state_of(tmp_path / name), state_of(whole / "distill"))
        assert str(tmp_path) not in (tmp_path / name / "last" / "README.md").read_text()


def test_a_run_resumes_with_the_options_it_began_with(folders, tmp_path):
    train("finetune", folders, tmp_path, max_steps=2)
    before = (tmp_path / "run" / "options.yaml").read_text()
    with pytest.raises(ValueError, match=r"other options: seed \(0 then, 1 now\), ms_beta \(50\.0 then, 40\.0 now\)"):
        train("finetune", folders, tmp_path, resume=True, seed=1, ms_beta=40.0)
    assert (tmp_path / "run" / "options.yaml").read_text() == before
    train("finetune", folders, tmp_path, resume=True, max_steps=3)
    assert read_metrics(tmp_path)[-1]["step"] == 3


def test_a_run_resumes_with_another_cache(folders, tmp_path):
    train("distill", folders, tmp_path, max_steps=2)
    train("distill", folders, tmp_path, resume=True, max_steps=3, teacher_cache=str(tmp_path / "targets"))
    assert read_metrics(tmp_path)[-1]["step"] == 3


def test_a_full_disk_leaves_no_incomplete_model(folders, tmp_path, monkeypatch):
    def fill_up(*arguments, **options):
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="best could not be written: I/O error"):
        patched.setattr("d2vpr_hf.modeling.D2VPRModel.save_pretrained", fill_up)
        train("finetune", folders, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_impossible_options_are_refused_before_the_run_begins(folders, tmp_path):
    with pytest.raises(ValueError, match="does not train in fp16"):
        train("finetune", folders, tmp_path, mixed_precision="fp16")
    with pytest.raises(ImportError, match="trackio are not installed: `pip install trackio`"):
        train("finetune", folders, tmp_path, trackers=["trackio"])
    with pytest.raises(ValueError, match=r"multiples of the model's patch size, 14, got \[42, 40\]"):
        train("finetune", folders, tmp_path, image_size=[42, 40])
    train("finetune", folders, tmp_path, max_steps=1)  # refused runs left no files that would stop a new run


def test_unreadable_photos_are_counted(folders, tmp_path):
    root = write_places(tmp_path / "gsv")
    for photo in list((root / "Images" / "Athens").glob("*_p0.jpg")):
        photo.write_text("no photo")
    train("finetune", folders | {"photos": str(root)}, tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-2]["unreadable_photos"] > 0


def test_patience_ends_a_run(folders, tmp_path):
    """With a learning rate of zero no validation is better than the first: the run ends after those of steps 1 and 2."""
    train("finetune", folders, tmp_path, learning_rate=0.0, batch_norm="frozen", validate_every=1, patience=2)
    assert read_metrics(tmp_path)[-1]["step"] == 2
    assert (tmp_path / "last" / "config.json").exists()
    train("finetune", folders, tmp_path, learning_rate=0.0, batch_norm="frozen", validate_every=1, patience=2, resume=True)
    assert read_metrics(tmp_path)[-1]["step"] == 2


def test_validation_by_recall_is_in_the_card(folders, tmp_path):
    """On a small city of Gridtown. The card quotes the evaluation in the model's folder."""
    changes = {"validation_database": "gridtown", "validation_places": 5, "gridtown_tier": "easy", "validate_every": 6}
    best = train("finetune", folders, tmp_path, **changes)
    report = Evaluation.load(best / "validation.json")
    recall = report.recall()["recall@1"]["recall"]
    card = (best / "README.md").read_text()
    assert report.query_set["count"] == 20 and report.database["count"] == 20
    assert f"| recall, % | {100 * recall:.1f} |" in card and "model-index" not in card  # no data set of the Hub
    assert max(line["recall@1"] for line in read_metrics(tmp_path) if "recall@1" in line) == recall


def test_an_empty_validation_set_is_refused_before_the_run_begins(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    changes = {"validation_database": str(tmp_path / "empty"), "validation_queries": folders["photos"]}
    with pytest.raises(FileNotFoundError, match="No photo in"):
        train("finetune", folders, tmp_path / "run", **changes)


def test_a_batch_that_cannot_be_shared_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="4 places cannot be divided evenly into 1 processes with 3 micro-batches"):
        train("finetune", folders, tmp_path, gradient_accumulation_steps=3)
    with pytest.raises(ValueError, match="held_out_places must be a multiple of places_per_batch"):
        train("finetune", folders, tmp_path, held_out_places=3)


@pytest.mark.parametrize("stage", PUBLISHED)
def test_half_precision_checkpointing_micro_batches_and_clipping_work_together(folders, tmp_path, stage):
    """All switches together: weights stay float32 and the loss stays finite."""
    changes = {
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.1,
        "teacher_group_places": 2,
        "trackers": ["tensorboard"],
    }
    if stage == "finetune":
        changes.pop("teacher_group_places")
    train(stage, folders, tmp_path, **changes)
    assert all(weights.dtype == torch.float32 for weights in load_file(tmp_path / "last" / "model.safetensors").values()
               if weights.is_floating_point())  # fmt: skip
    assert list((tmp_path / "run" / "d2vpr").glob("events*"))


def test_a_compiled_network_has_the_same_losses(folders, whole, tmp_path, monkeypatch):
    """Wrapping, saving and restoring a compiled model could break; the backend here needs no C++ compiler."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager"))
    train("finetune", folders, tmp_path, compile=True, max_steps=2)
    train("finetune", folders, tmp_path, compile=True, max_steps=4, resume=True)
    compiled, plain = ([line["loss"] for line in read_metrics(out) if "loss" in line] for out in (tmp_path, whole / "finetune"))
    assert compiled[:2] == pytest.approx(plain[:2], rel=1e-4) and len(compiled) == 4
    assert load_model(tmp_path / "last").config.model_type == "d2vpr"


def test_the_best_model_is_uploaded(folders, tmp_path, monkeypatch):
    """As `d2vpr push` does it: with a card that names the model on the Hub."""
    with running_hub() as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        train("finetune", folders, tmp_path / "run", max_steps=1, push_to_hub="user/model", private=True)
        files = hub.files("user/model")
        assert hub.repositories["models", "user/model"].private
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_d2vpr.py"} <= files.keys()
        card = files["README.md"].decode()
        assert not card_problems(card) and 'name = "user/model"' in card and "model-index" not in card
        with pytest.raises(PermissionError, match="may not create stranger/model"):
            train("finetune", folders, tmp_path / "other", max_steps=1, push_to_hub="stranger/model")


def test_a_script_prints_an_error_as_one_line_with_flags_and_exits_with_a_status(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune"])
    with pytest.raises(SystemExit) as ended:
        run_script(FinetuneOptions, finetune)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("ValueError: Missing: out, model, photos")

    def stop(options):
        raise RunStoppedError("Stopped. Continue it with `resume=True`, or `max_grad_norm=1`.")

    monkeypatch.setattr(sys, "argv", ["finetune", "--out", "o", "--model", "m", "--photos", "p"])
    with pytest.raises(SystemExit) as ended:
        run_script(FinetuneOptions, stop)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "Stopped. Continue it with `--resume`, or `--max-grad-norm 1`.\n"


@pytest.fixture(scope="module")
def mixture(folders, tmp_path_factory):
    """Options of a run on known places, photos without labels and panoramas, with validation sets, at a tiny size."""
    root = tmp_path_factory.mktemp("mixture")
    for name, size in (("street", (60, 42)), ("around", (128, 64))):
        (root / name).mkdir()
        for number in range(6):
            draw(50 + number, 0, 64).resize(size).save(root / name / f"{number}.png")
    for side in ("database", "queries"):
        (root / side).mkdir()
        for number in range(5):
            draw(number, side == "queries", 42).save(root / side / f"frame_{number:03d}.png")
        rows = [f"frame_{number:03d}.png,{100 * number},0" for number in range(5)]
        (root / side / "places.csv").write_text("\n".join(["path,x,y", *rows]) + "\n")
    sets = f"{root / 'database'},{root / 'queries'}"
    return {
        "photos": folders["photos"],
        "unlabelled": [str(root / "street")],
        "panoramas": [str(root / "around")],
        "weights": [f"{root / 'street'}=1.5"],
        "augmentation": "photometric",
        "crops_per_photo": 2,
        "validation_sets": [f"walk={sets}", f"walk.frames={sets},frames:0", f"walk.metres={sets},metres:1000"],
    }


@pytest.mark.parametrize("stage", PUBLISHED)
def test_a_run_on_a_mixture_resumes_to_the_same_weights(folders, mixture, tmp_path, stage):
    """Sources have epochs of their own, and the metric loss is part of the distillation step."""
    changes = {**mixture, "num_workers": 1, "schedule": "constant"}
    if stage == "distill":
        changes |= {"teacher_view": "clean", "metric_weight": 0.5, "teacher_groups": "off"}
    train(stage, folders, tmp_path / "whole", **changes)
    train(stage, folders, tmp_path / "run", **changes, max_steps=3)
    train(stage, folders, tmp_path / "run", **changes, resume=True)
    assert_same_end(state_of(tmp_path / "run"), state_of(tmp_path / "whole"))
    card = (tmp_path / "whole" / "best" / "README.md").read_text()
    assert "gsv, street (photos without labels), around (views into panoramas)" in card
    assert "street=1.5" in card and "walk=database,queries" in card and str(tmp_path.parent.parent) not in card
    if stage == "distill":
        logged = [line for line in read_metrics(tmp_path / "whole") if "loss" in line]
        assert all(line["metric_loss"] >= 0 and "positive_pairs" in line and "descriptor_mse" in line for line in logged)
        sums = [line["descriptor_mse"] + 0.5 * line["metric_loss"] for line in logged]
        assert sums == pytest.approx([line["loss"] for line in logged], rel=1e-5)


def test_a_run_with_one_source_and_one_size_for_each_batch_resumes(folders, mixture, tmp_path):
    """Source and size follow from seed and step. Then stage 2 trains the student with its kept head."""
    changes = {**mixture, "num_workers": 1, "schedule": "constant", "held_out_places": 0}
    changes |= {"batch_sources": "one", "image_sizes": ["28", "42"]}
    changes |= {"teacher_groups": "off", "metric_weight": 0.5, "head": "linear", "head_policy": "keep", "batch_norm": "frozen"}
    changes |= {"relational_weight": 1, "matryoshka_dims": [8, 16], "teacher_image_size": [56, 56]}
    train("distill", folders, tmp_path / "whole", **changes)
    train("distill", folders, tmp_path / "run", **changes, max_steps=3)
    train("distill", folders, tmp_path / "run", **changes, resume=True)
    assert_same_end(state_of(tmp_path / "run"), state_of(tmp_path / "whole"))
    student = load_model(tmp_path / "whole" / "last")
    assert student.config.compatible_with and student.config.matryoshka_dims == [8, 16]
    assert load_image_processor(tmp_path / "whole" / "last").size == {"height": 42, "width": 42}
    model = str(tmp_path / "whole" / "last")
    train("finetune", {**folders, "model": model}, tmp_path / "tuned", max_steps=2)
    tuned = load_model(tmp_path / "tuned" / "last")
    assert not torch.equal(tuned.projection.components, student.projection.components)
    assert tuned.config.projection_dim == student.config.projection_dim and not tuned.config.compatible_with
    train("finetune", {**folders, "model": model}, tmp_path / "frozen", max_steps=2, frozen=["projection.*"])
    frozen = load_model(tmp_path / "frozen" / "last")
    assert torch.equal(frozen.projection.components, student.projection.components)


def test_sizes_that_are_not_whole_patches_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r"image_sizes must be multiples of the model's patch size, 14, got \[40, 42\]"):
        train("finetune", folders, tmp_path, image_sizes=["42", "40x42"])


def test_micro_batches_have_their_clean_photos(folders, mixture, tmp_path, monkeypatch):
    """A teacher that saw the clean photos of another micro-batch would teach the wrong targets."""
    seen = []
    micro_batches = training_run.TrainingRun.micro_batches

    def record(run, batch):
        for micro_batch in micro_batches(run, batch):
            seen.append(micro_batch)
            yield micro_batch

    monkeypatch.setattr(training_run.TrainingRun, "micro_batches", record)
    changes = {**mixture, "augment_magnitude": 0, "teacher_view": "clean", "teacher_groups": "off", "validation_sets": None}
    train("distill", folders, tmp_path, **changes, gradient_accumulation_steps=2, max_steps=2)
    assert len(seen) == 4 and all(torch.equal(batch.pixels, batch.teacher_pixels) for batch in seen)


def test_the_best_model_is_chosen_by_the_mean_over_all_sets(folders, mixture, tmp_path):
    """Also without a main set; rules of sets differ: within 1,000 m every photo is correct."""
    sets = {"validation_sets": mixture["validation_sets"], "validate_every": 2, "held_out_places": 0}
    train("finetune", folders, tmp_path / "run", **sets)
    lines = [line for line in read_metrics(tmp_path / "run") if "mean_recall@1" in line]
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    for line in lines:
        values = [line[f"{name}/recall@1"] for name in ("walk", "walk.frames", "walk.metres")]
        assert line["mean_recall@1"] == pytest.approx(np.mean(values)) and values[2] == 1.0 and values[0] == values[1]
    best = max(lines, key=lambda line: (line["mean_recall@1"], -line["step"]))
    assert f"step {best['step']}" in (tmp_path / "run" / "best" / "README.md").read_text()
    folder, queries = mixture["validation_sets"][0].removeprefix("walk=").split(",")
    main = {"validation_database": folder, "validation_queries": queries, "best_metric": "mean_recall@1", "max_steps": 1}
    train("finetune", folders, tmp_path / "main", **sets, **main)
    first = read_metrics(tmp_path / "main")[0]
    recalls = [value for name, value in first.items() if name.endswith("recall@1") and name != "mean_recall@1"]
    assert len(recalls) == 4 and first["mean_recall@1"] == pytest.approx(np.mean(recalls))


def test_a_run_of_an_earlier_version_resumes(folders, tmp_path):
    """Its options.yaml lacks the options that were added later; their defaults count."""
    train("finetune", folders, tmp_path, max_steps=2)
    path = tmp_path / "run" / "options.yaml"
    stored = yaml.safe_load(path.read_text())
    new = ("unlabelled", "panoramas", "weights", "augmentation", "crop_places", "crop_scale", "crop_ratio", "flip")
    new += ("crops_per_photo", "view_fov", "view_pitch", "view_turn", "validation_sets")
    assert isinstance(stored["photos"], str)
    path.write_text(yaml.safe_dump({name: value for name, value in stored.items() if name not in new}))
    with pytest.raises(ValueError, match=r"other options: crop_scale \(\[0.35, 1.0\] then, \[0.5, 1.0\] now\)"):
        train("finetune", folders, tmp_path, max_steps=3, resume=True, crop_scale=[0.5, 1.0])
    train("finetune", folders, tmp_path, max_steps=3, resume=True)
    assert read_metrics(tmp_path)[-1]["step"] == 3
