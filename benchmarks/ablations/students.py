"""The initial model of every run: a student of its row, with the ViT of stage 0."""

import json
from pathlib import Path

from benchmarks.ablations.rows import Options, Row
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.training.model_setup import load_or_make, take_vit
from d2vpr_hf.training.options import CONFIGS


def make_student(row: Row, seed: int, pretrained: Path, folder: Path, student: str = "student_small") -> None:
    """Make a student with random weights and a pretrained ViT. Modules that two rows share get the same weights.

    Args:
        row: Row of the student.
        seed: Seed of its recovery module and aggregator.
        pretrained: Folder of a student whose ViT is taken.
        folder: Folder to write.
        student: Name of the configuration in `training/configs` that the row changes.

    Raises:
        ValueError: As [`take_vit`] raises it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((CONFIGS / f"{student}.json").read_text())
    changed, whole = (_draw(config | changes, seed, folder / "drawn_from.json") for changes in (row.student, {}))
    weights = whole.state_dict()
    changed.load_state_dict({name: weights[name] for name in changed.state_dict()})
    take_vit(changed, load_model(pretrained))
    changed.save_pretrained(folder)
    load_image_processor(pretrained).save_pretrained(folder)


def _draw(config: Options, seed: int, path: Path) -> VPRPreTrainedModel:
    path.write_text(json.dumps(config))
    return load_or_make(str(path), seed)
