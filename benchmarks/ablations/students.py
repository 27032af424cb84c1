"""The initial model of every run: a student of its row, with the ViT of stage 0."""

import json
from pathlib import Path

from benchmarks.ablations.rows import Options, Row
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.options import CONFIGS

_VIT = ("embeddings.", "encoder.")


def make_student(row: Row, seed: int, pretrained: Path, folder: Path) -> None:
    """Make a student with random weights and a pretrained ViT. Modules that two rows share get the same weights.

    Args:
        row: Row of the student.
        seed: Seed of its recovery module and aggregator.
        pretrained: Folder of a student that stage 0 trained.
        folder: Folder to write.

    Raises:
        ValueError: If the two do not have the same ViT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student, whole = (_draw(changes, seed, folder / "drawn_from.json") for changes in (row.student, {}))
    vit = {name: weights for name, weights in load_model(pretrained).state_dict().items() if name.startswith(_VIT)}
    names = student.state_dict().keys()
    if vit.keys() != {name for name in names if name.startswith(_VIT)}:
        raise ValueError(f"{pretrained} has another ViT than students of {row.name}.")
    student.load_state_dict({name: (whole.state_dict() | vit)[name] for name in names})
    student.save_pretrained(folder)
    load_image_processor(pretrained).save_pretrained(folder)


def _draw(changes: Options, seed: int, path: Path) -> VPRPreTrainedModel:
    path.write_text(json.dumps(json.loads((CONFIGS / "student_small.json").read_text()) | changes))
    return load_or_make(str(path), seed)
