"""What every run starts from: a student of its row, whose ViT has been through stage 0."""

import json
from pathlib import Path

from benchmarks.ablations.rows import Options, Row
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.options import CONFIGS

_VIT = ("embeddings.", "encoder.")


def make_student(row: Row, seed: int, pretrained: Path, folder: Path) -> None:
    """Draw a student from a seed, and give it a ViT. What two rows have in common is drawn alike.

    Args:
        row: What it is like.
        seed: What its recovery module and aggregator are drawn from.
        pretrained: A student that stage 0 trained.
        folder: Where to.

    Raises:
        ValueError: If the two do not have the same ViT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student, whole = (_draw(changes, seed, folder / "drawn_from.json") for changes in (row.student, {}))
    vit = {name: weights for name, weights in load_model(pretrained).state_dict().items() if name.startswith(_VIT)}
    own = student.state_dict()
    if vit.keys() != {name for name in own if name.startswith(_VIT)}:
        raise ValueError(f"{pretrained} has another ViT than students of {row.name}.")
    student.load_state_dict({name: (whole.state_dict() | vit)[name] for name in own})
    student.save_pretrained(folder)
    load_image_processor(pretrained).save_pretrained(folder)


def _draw(changes: Options, seed: int, path: Path) -> VPRPreTrainedModel:
    path.write_text(json.dumps(json.loads((CONFIGS / "student_small.json").read_text()) | changes))
    return load_or_make(str(path), seed)
