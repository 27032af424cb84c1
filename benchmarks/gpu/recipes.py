"""Part (d): short runs of both stages by the small recipes of Gridtown, in bfloat16 and in float16 with a gradient scaler.

The loss must fall, and a run that ends in the middle must continue from its checkpoint. Weights are random, and the teacher's
too: the figures show that training works on a device, not how good its models are. Photos are rendered before, by all cores.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from benchmarks.gpu.part import Setting
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.options import CONFIGS, DistillOptions, FinetuneOptions, TrainingOptions, parse_options
from tests.networks import save_folder, tiny_cricavpr, tiny_model

STEPS = 64


def measure(setting: Setting) -> None:
    """Render photos, and run both stages in each precision; stage 2 continues with the model of stage 1."""
    workers = 1 if setting.tiny else len(os.sched_getaffinity(0))
    size, places = (42, 4) if setting.tiny else (112, 60)
    photos = setting.work / "photos"
    rendered = simulate(photos, places, 201, layout="gsv-cities", photos_per_place=4, image_size=size, workers=workers)
    setting.progress(f"{rendered} photos are rendered")
    teacher, student = make_models(setting)
    for precision in ("bf16", "fp16") if setting.on_gpu else ("no",):
        model = student
        for stage in ("distill", "finetune"):
            run = partial(run_stage, setting, stage, precision, photos, model, teacher, size)
            figures, model = train(setting, run)
            setting.note(f"{stage}, {precision}", figures)


def make_models(setting: Setting) -> tuple[Path, Path]:
    """Write the folders of a teacher and of a student with random weights."""
    teacher, student = setting.work / "teacher", setting.work / "student"
    if setting.tiny:
        return save_folder(tiny_cricavpr(), teacher), save_folder(tiny_model(), student)
    for folder, name in ((teacher, "teacher_small.json"), (student, "student_small.json")):
        load_or_make(str(CONFIGS / name), seed=0).save_pretrained(folder)
        D2VPRImageProcessor(size={"height": 112, "width": 112}).save_pretrained(folder)
    return teacher, student


def run_stage(
    setting: Setting, stage: str, precision: str, photos: Path, model: Path, teacher: Path, size: int, steps: int, resume: bool
) -> Path:
    """Train by the recipe of a stage, without validation, up to a step; return the folder of the run."""
    out = setting.work / f"{stage}-{precision}"
    flags = ["--photos", str(photos), "--model", str(model), "--out", str(out), "--mixed_precision", precision]
    flags += ["--image_size", str(size), str(size), "--held_out_places", "0", "--max_steps", str(steps), "--log_every", "1"]
    flags += ["--checkpoint_every", str(steps), "--num_workers", "0" if setting.tiny else "12", "--warmup_steps", "8"]
    flags += ["--places_per_batch", "4"] if setting.tiny else []
    kind: type[TrainingOptions] = DistillOptions if stage == "distill" else FinetuneOptions
    flags += ["--teacher", str(teacher), "--teacher_group_places", "4"] if stage == "distill" else []
    options: Any = replace(parse_options(kind, [f"{stage}_gridtown_small", *flags]), validation_database=None, resume=resume)
    AcceleratorState._reset_state()  # the next run may have another precision
    (distill if stage == "distill" else finetune)(options)
    return out


def train(setting: Setting, run: Callable[[int, bool], Path]) -> tuple[dict[str, Any], Path]:
    """Run to the middle, then continue to the end; return figures of the run's log, and the folder of its last model."""
    steps = 4 if setting.tiny else STEPS
    run(steps // 2, False)
    out = run(steps, True)
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    window = max(1, steps // 8)
    losses = [line["loss"] for line in logged]
    figures = {
        "steps": [logged[0]["step"], logged[steps // 2]["step"], logged[-1]["step"]],
        "first_loss": sum(losses[:window]) / window,
        "last_loss": sum(losses[-window:]) / window,
        "images_per_second": sorted(line["images_per_second"] for line in logged)[len(logged) // 2],
    }
    return figures | {"loss_falls": figures["last_loss"] < figures["first_loss"]}, out / "last"
