"""A student learns: distillation on a CPU from a small teacher that was trained on Gridtown."""

from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import evaluate
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.options import CONFIGS, DistillOptions
from tests.training.run_files import read_metrics

TEACHER = Path(__file__).parents[1] / "data" / "gridtown_teacher"
STUDENT = CONFIGS / "student_tiny.json"
SIZE = 84


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Photos of a training city, and of the validation city's easy tier."""
    root = tmp_path_factory.mktemp("town")
    training = {"layout": "gsv-cities", "tier": "easy", "photos_per_place": 4, "image_size": SIZE}
    simulate(root / "train", 60, 1, **training)
    simulate(root / "val", 50, 8001, tier="easy", photos_per_place=4, image_size=SIZE)
    return root


def test_distillation_lowers_the_loss_and_raises_recall(town, tmp_path):
    """The loss on held-out places falls by 30 %, and R@1 in another city rises by three standard errors."""
    sides = [str(town / "val" / "images" / "test" / side) for side in ("database", "queries")]
    options = DistillOptions(
        photos=str(town / "train"),
        model=str(STUDENT),
        teacher=str(TEACHER),
        out=str(tmp_path),
        image_size=[SIZE, SIZE],
        places_per_batch=12,
        images_per_place=3,
        batches="mixed",
        augment_operations=0,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=20,
        max_grad_norm=1.0,
        mse_reduction="sum",
        token_cosine_weight=2.0,
        max_steps=100,
        epochs=1000,
        held_out_places=24,
        validation_database=sides[0],
        validation_queries=sides[1],
        best_metric="held_out_loss",
        num_workers=1,
    )
    distill(options)
    losses = [line["held_out_loss"] for line in read_metrics(tmp_path) if "held_out_loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    recalls = [line["recall@1"] for line in read_metrics(tmp_path) if "recall@1" in line]
    untrained, trained = recalls[0], recalls[-1]
    assert trained - untrained > 3 * _standard_error(sides, tmp_path / "last", options.seed)


def _standard_error(sides, student, seed):
    """Return the standard error of the difference of two recalls over the same queries; places are the independent units."""
    trained = PlaceEncoder(student)
    untrained = PlaceEncoder(load_or_make(str(STUDENT), seed), trained.processor)
    evaluations = [evaluate(*sides, encoder) for encoder in (trained, untrained)]
    after, before = ((evaluation.ranks == 1).astype(float) for evaluation in evaluations)
    places = evaluations[0].places
    means = np.array([(after - before)[places == place].mean() for place in np.unique(places)])
    return means.std(ddof=1) / np.sqrt(len(means))
