"""The first 20 steps of both published stages, compared with the recipe in plain torch, so that any change of it is noticed.

Weights are seeded, photos are drawn, and both compute in float32: the published second stage runs in fp16, which needs a GPU.
"""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.training.data.augmentation import RandAugment
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.options import CONFIGS, DistillOptions, FinetuneOptions, parse_options
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.training.places import CITIES, photo_path, write_places

SEED, STEPS = 11, 20
SIZE, K = 42, 4
NEEDED = ("--out", "o", "--model", "m", "--photos", "p")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {
        "photos": str(write_places(root / "gsv", places_per_city=10)),
        "teacher": str(save_folder(tiny_cricavpr(use_cross_image_encoder=True), root / "teacher")),
        "model": str(save_folder(tiny_model(num_hidden_layers=3), root / "student")),
    }


def run(kind, recipe, train, folders, out, **changes):
    """Train with the package; return the loss of each step."""
    small = {"image_size": [SIZE, SIZE], "num_workers": 0, "log_every": 1, "max_steps": STEPS, "seed": SEED, "out": str(out)}
    flags = [
        word
        for name, value in {**folders, **small, **changes}.items()
        for word in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)]))
    ]
    train(parse_options(kind, [recipe, *flags]))
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def read_places(root):
    """Return the photos of each place, in the order of the tables, and the places of each city."""
    places, cities = [], []
    for city in CITIES:
        with (root / "Dataframes" / f"{city}.csv").open() as file:
            rows = [(int(r["place_id"]), int(r["year"]), int(r["month"]), 0, r["city_id"], r["lat"], r["lon"], r["panoid"])
                    for r in csv.DictReader(file)]  # fmt: skip
        ids = sorted({row[0] for row in rows})
        cities.append(list(range(len(places), len(places) + len(ids))))
        places += [[photo_path(*row) for row in rows if row[0] == place] for place in ids]
    return places, cities


def batches(root, places_per_batch, redraw, magnitude, resample):
    """Yield batches: places shuffled within each city, city after city; four random photos of each, resized, then augmented."""
    from pathlib import Path

    places, cities = read_places(Path(root))
    rows = {path: row for row, path in enumerate(path for photos in places for path in photos)}
    order, epoch = [], 0
    while True:
        drawn = epoch if redraw else 0
        order = [np.random.default_rng([0, SEED, drawn, city]).permutation(of_city) for city, of_city in enumerate(cities)]
        order = np.concatenate(order)
        spare = len(order) % places_per_batch  # the published code also trains on this incomplete batch
        skipped = np.random.default_rng([1, SEED, 0]).permutation(len(order))[(epoch * spare + np.arange(spare)) % len(order)]
        order = [place for place in order if place not in skipped]
        for start in range(0, len(order), places_per_batch):
            pixels, labels = [], []
            for place in order[start : start + places_per_batch]:
                chosen = np.random.default_rng([4, SEED, epoch, place]).permutation([rows[path] for path in places[place]])[:K]
                for row in chosen:
                    photo = Image.open(Path(root) / list(rows)[row]).convert("RGB").resize((SIZE, SIZE), resample)
                    photo = RandAugment(3, magnitude)(photo, np.random.default_rng([5, SEED, epoch, row]))
                    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
                    pixels.append((image - MEAN) / STD)
                    labels.append(place)
            yield torch.stack(pixels), torch.tensor(np.array(labels))
        epoch += 1


def test_stage_one_has_the_losses_of_the_recipe_in_plain_torch(folders, tmp_path):
    """Mean squared error of descriptors; all parameters are trained, BatchNorm normalises by the batch; Adam at 2.5e-5."""
    losses = run(DistillOptions, "distill_gsv_cities", distill, folders, tmp_path / "run", cities=list(CITIES))
    teacher, student = load_model(folders["teacher"]).eval(), load_model(folders["model"]).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=2.5e-5)
    torch.manual_seed(SEED)
    wanted = []
    for images, _ in batches(folders["photos"], 8, False, 9, Image.Resampling.BILINEAR):
        with torch.no_grad():
            target = teacher(images).pooler_output
        loss = (student(images).pooler_output - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
        if len(wanted) == STEPS:
            break
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert np.ptp(wanted) > 1e-3 * wanted[0]  # a hundred times the tolerance above


def multi_similarity(descriptors, labels, alpha=1.0, beta=50.0, base=0.0, epsilon=0.1):
    """Compute loss and miner of arXiv 1904.06627 by its equations 11 to 13, anchor by anchor; a mean over all images."""
    similarity, same = descriptors @ descriptors.T, labels[:, None] == labels[None]
    terms = []
    for i in range(len(labels)):
        positives = same[i].clone()
        positives[i] = False
        positive, negative = similarity[i][positives], similarity[i][~same[i]]
        hard_negative = negative[negative + epsilon > positive.min()]
        hard_positive = positive[positive - epsilon < negative.max()]
        term = 0
        if len(hard_positive):
            term = term + torch.log1p(torch.exp(-alpha * (hard_positive - base)).sum()) / alpha
        if len(hard_negative):
            term = term + torch.log1p(torch.exp(beta * (hard_negative - base)).sum()) / beta
        terms.append(term)
    return sum(terms) / len(labels)


def test_stage_two_has_the_losses_of_the_recipe_in_plain_torch(folders, tmp_path):
    """The last block and the modules after it are trained, all in train mode; AdamW, whose rate changes at every step."""
    paths = {name: folders[name] for name in ("photos", "model")}
    changes = {
        "cities": list(CITIES),
        "places_per_batch": 12,
        "mixed_precision": "no",
        "frozen": ["embeddings.*", "encoder.layers.[0-1].*"],
        "learning_rate": 0.2,  # the published 2e-4 moves nothing within 20 steps
    }
    losses = run(FinetuneOptions, "finetune_gsv_cities", finetune, paths, tmp_path / "run", **changes)
    model = load_model(folders["model"]).train()
    model.embeddings.requires_grad_(False)
    model.encoder.layers[:2].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=1e-3)
    torch.manual_seed(SEED)
    wanted = []
    for step, (images, labels) in enumerate(batches(folders["photos"], 12, True, 15, Image.Resampling.BICUBIC), 1):
        optimizer.param_groups[0]["lr"] = 0.2 * step / (3900 * (20 // 12))
        loss = multi_similarity(model(images).pooler_output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
        if step == STEPS:
            break
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert len(set(wanted)) == STEPS


def test_recipes_have_the_published_numbers():
    stage1 = parse_options(DistillOptions, ["distill_gsv_cities", *NEEDED, "--teacher", "t"])
    assert (stage1.places_per_batch, stage1.images_per_place, stage1.image_size) == (8, 4, [224, 224])
    assert (stage1.optimizer, stage1.learning_rate, stage1.schedule, stage1.epochs) == ("adam", 2.5e-5, "constant", 20)
    assert (stage1.resize, stage1.augment_operations, stage1.augment_magnitude) == ("bilinear", 3, 9)
    assert (stage1.batches, stage1.redraw_order, stage1.batch_norm, stage1.frozen) == ("published", False, "published", None)
    assert (stage1.teacher_groups, stage1.teacher_group_places, stage1.mse_reduction) == ("places", 8, "mean")
    assert len(stage1.cities) == len(set(stage1.cities)) == 23
    stage2 = parse_options(FinetuneOptions, ["finetune_gsv_cities", *NEEDED])
    assert (stage2.places_per_batch, stage2.images_per_place, stage2.redraw_order) == (128, 4, True)
    assert (stage2.optimizer, stage2.learning_rate, stage2.weight_decay) == ("adamw", 2e-4, 1e-3)
    assert (stage2.schedule, stage2.epochs, stage2.mixed_precision) == ("published", 120, "fp16")
    assert (stage2.resize, stage2.augment_operations, stage2.augment_magnitude) == ("bicubic", 3, 15)
    assert (stage2.ms_alpha, stage2.ms_beta, stage2.ms_base, stage2.miner_epsilon) == (1, 50, 0, 0.1)
    assert stage2.cities == stage1.cities and CONFIGS.is_dir()
    assert (stage1.validate_every_epochs, stage1.best_metric) == (1, None)  # nothing to validate on is given here
    stage1 = parse_options(DistillOptions, ["distill_gsv_cities", *NEEDED, "--teacher", "t", "--validation-data", "MSLS"])
    assert stage1.best_metric == "recall@5"


def test_stage_two_trains_blocks_nine_to_twelve_and_all_later_modules():
    """The recipe's patterns, applied to the names of the real student with 12 blocks."""
    from d2vpr_hf.modeling import D2VPRConfig, D2VPRModel
    from d2vpr_hf.training.model_setup import freeze

    with torch.device("meta"):
        model = D2VPRModel(D2VPRConfig(use_cross_image_encoder=True))
    freeze(model, parse_options(FinetuneOptions, ["finetune_gsv_cities", *NEEDED]).frozen)
    trained = {name.split(".")[0] for name, weights in model.named_parameters() if weights.requires_grad}
    blocks = {int(name.split(".")[2]) for name, weights in model.encoder.named_parameters("encoder") if weights.requires_grad}
    assert trained == {"encoder", "recovery", "aggregator", "cross_image_encoder"}
    assert blocks == {8, 9, 10, 11}
    assert isinstance(model, nn.Module)
