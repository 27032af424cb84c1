"""Train the embedded model from random weights: `python d2vpr_hf/assets/make_tiny.py build/tiny`.

docs/ablations.md has the times.

Every step is a command of this package: simulate labelled streets for stage 0 and streets for the other stages, train a ViT for
the teacher and one for the student (stage 0), the teacher, and the student by distillation (stage 1) and fine-tuning (stage 2).
Finished steps are skipped and an interrupted step continues, so the same command can be given again.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.hub.model_cards import CardFacts, write_card
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model

FACTS = CardFacts(
    summary="A small D²-VPR, distilled and fine-tuned from scratch on simulated streets: for demonstrations, not for photos.",
    license="apache-2.0",
    license_note="Apache-2.0, code and weights.",
    training_data="Gridtown, simulated streets of cities 201 to 210 for stage 0, 101 and more for the others",
)


def list_steps(work: Path) -> dict[str, list[str]]:
    """Return the commands by the folders that they write, as arguments of `python -m`."""
    return {
        **list_preparations(work),
        "distilled": _train(
            *("distill", "distill", work / "places", work / "distilled"),
            model=work / "student0" / "best",
            teacher=work / "cross-image-teacher" / "best",
        ),
        "tuned": _train("finetune", "finetune", work / "places", work / "tuned", model=work / "distilled" / "best"),
    }


def list_preparations(work: Path) -> dict[str, list[str]]:
    """Return the commands that the ablations need too: photos, both ViTs, the teacher without and with cross-image encoder."""
    seen, places = work / "seen", work / "places"
    render = ("--places", "250", "--layout", "gsv-cities", "--tier", "all", "--image-size", "112", "--workers", "2")
    labelled = ("--seed", "201", "--cities", "10", "--photos-per-place", "4", "--label-cells", "8")
    unlabelled = ("--seed", "101", "--cities", "25", "--photos-per-place", "8")
    return {
        "seen": ["d2vpr_hf", "simulate", str(seen), *render, *labelled],
        "places": ["d2vpr_hf", "simulate", str(places), *render, *unlabelled],
        "student0": _train("pretrain", "pretrain", seen, work / "student0", model=_config("student_small")),
        "teacher0": _train("pretrain", "pretrain", seen, work / "teacher0", model=_config("teacher_small"), max_steps=550),
        "teacher": _tune_teacher(work, "teacher", model=work / "teacher0" / "best"),
        "cross-image-teacher": _tune_teacher(
            work, "cross-image-teacher", model=work / "teacher" / "best", max_steps=300, cross_image_encoder="add"
        ),
    }


def _tune_teacher(work: Path, name: str, **options: Any) -> list[str]:
    cities = [f"Gridtown{101 + number}" for number in range(10)]  # fewer than for the students
    return _train("finetune", "teacher", work / "places", work / name, cities=cities, **options)


def _train(stage: str, recipe: str, photos: Path, out: Path, **options: Any) -> list[str]:
    command = [f"d2vpr_hf.training.{stage}", f"{recipe}_gridtown_small", "--photos", str(photos), "--out", str(out)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]
    return [*command, "--resume"]


def _config(name: str) -> Path:
    return Path(__file__).parents[2] / "training" / "configs" / f"{name}.json"


def make_tiny(work: Path) -> None:
    """Run the steps that are not finished, and copy the result into the package."""
    for name, arguments in list_steps(work).items():
        if not is_made(work / name):
            subprocess.run([sys.executable, "-m", *arguments], check=True)
    embed(work / "tuned", EMBEDDED_MODEL)


def is_made(folder: Path) -> bool:
    """Return whether the step that writes this folder, a training run or photos, is finished."""
    return (folder / "last").exists() or (folder / "Images").exists()


def embed(run: Path, folder: Path) -> None:
    """Write the best model of a training run as the embedded model."""
    best = run / "best"
    model, processor = load_model(best), load_image_processor(best)
    with without_code():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    measured = Evaluation.load(shutil.copy(best / "validation.json", folder))
    write_card(folder, model, FACTS, origin="scratch, by d2vpr_hf/assets/make_tiny.py", measured=measured)


@contextlib.contextmanager
def without_code() -> Iterator[None]:
    """Prevent `save_pretrained` from copying the code: the embedded model is part of the package."""
    classes: tuple[Any, ...] = (D2VPRConfig, D2VPRModel, D2VPRImageProcessor)
    names = [part._auto_class for part in classes]
    try:
        for part in classes:
            part._auto_class = None
        yield
    finally:
        for part, name in zip(classes, names, strict=True):
            part._auto_class = name


if __name__ == "__main__":
    make_tiny(Path(sys.argv[1] if len(sys.argv) > 1 else "build/tiny").resolve())
