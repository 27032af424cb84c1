"""Train the embedded model: `python d2vpr_hf/assets/make_tiny.py build/tiny --real ROOT`.

`ROOT` has real photos, in the layout that `python -m benchmarks.split_real --help` describes, and a MobileNetV2 in
`weights/mobilenet_v2_1.0_224.safetensors`. docs/real_photos.md has the numbers.

Every step is a command. The first steps make a model that has seen simulated streets only, with a teacher of its own
(docs/ablations.md); `--start FOLDER` takes a finished one. From it, one run learns features of the MobileNetV2, and places, on
real photos and streets. The embedded model is an average of these models. Without `--real` only the first steps are done.
Finished steps are skipped and an interrupted step continues, so the same command can be given again.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.evaluation.report import without_folders
from d2vpr_hf.hub.model_cards import CardFacts, write_card
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.pretrained.weight_average import average_weights

_ROOT = Path(__file__).parents[2]

FACTS = CardFacts(
    summary=(
        "A small D²-VPR for photos and simulated streets: it learned features of a MobileNetV2 of ImageNet by distillation, "
        "and places."
    ),
    license="apache-2.0",
    license_note="Apache-2.0, code and weights. The distilled MobileNetV2 is Apache-2.0; the photos are CC0, MIT and BSD.",
    training_data=(
        "675 photos without labels and 27 panoramas (CC0, MIT, BSD: Poly Haven, Brazilian highways, a few cities), 68 indoor "
        "walks of one building (MIT), and Gridtown, simulated streets; the teacher's features are of ImageNet"
    ),
    limits=(
        "It was trained on few real places: fewer than a thousand photos, many of them of asphalt, and the inside of one "
        "building. Photos of another season, of night, or from another direction are often missed. Use a larger model where "
        "matches matter (`--model auto`)."
    ),
)
_REAL_SETS = {"corridor": "corridor of VPR-Bench", "walks": "indoor walks", "views": "hard viewpoints", "light": "other light"}
# places of each batch by source in the split; overlapping photos would be wrong negatives, and the rest are simulated streets
_WEIGHTS = {"unlabelled": 5, "panoramas": 11, "walks/places.csv": 8}
_PLACES_PER_BATCH = 40
_SHARES = {"start": 0.3, "best": 0.35, "last": 0.35}  # of the model that training started from, and of the run's two models


def list_real_steps(work: Path, real: Path, start: Path) -> dict[str, list[str]]:
    """Return the commands that make the embedded model with real photos, as [`list_steps`] does.

    Args:
        work: Folder of the steps.
        real: Folder of real photos.
        start: Folder of a model that has seen simulated streets.
    """
    network = str(real / "weights" / "mobilenet_v2_1.0_224.safetensors")
    textures = str(work / "split" / "train" / "unlabelled")
    return {
        "split": ["benchmarks.split_real", str(real), str(work / "split")],
        "mobilenet": ["d2vpr_hf", "convert", network, str(work / "mobilenet")],
        "streets": _simulate(
            work / "streets",
            140,
            *("--seed", "101", "--cities", "5", "--photos-per-place", "8", "--wild", "0.3", "--textures", textures),
        ),
        "real": _train(
            "distill",
            "distill_real_small",
            work / "real",
            **real_sources(work / "split", work / "streets", _WEIGHTS, _PLACES_PER_BATCH),
            model=start,
            teacher=work / "mobilenet",
            teacher_cache=work / "targets",
            validation_sets=validation_sets(work / "split"),
            best_metric="mean_recall@1",
        ),
    }


def real_sources(split: Path, streets: Path, weights: Mapping[str, int], places_per_batch: int) -> dict[str, list[str]]:
    """Return the options of training that name the photos of a split, and the simulated streets, with their shares of a batch.

    Args:
        split: Folder of the split.
        streets: Folder of the simulated streets.
        weights: Places of a batch by source in the split's `train`.
        places_per_batch: Number of places in a batch; streets have those that `weights` leaves.
    """
    paths = {name: str(split / "train" / name) for name in weights}
    shares = {paths[name]: weight for name, weight in weights.items()}
    rest = places_per_batch - sum(weights.values())
    if rest:
        shares[str(streets)] = rest
    return {
        "photos": [path for path in shares if path.endswith(".csv") or path == str(streets)],
        "unlabelled": [path for name, path in paths.items() if name.split("/")[0] in ("unlabelled", "overlapping")],
        "panoramas": [path for name, path in paths.items() if name.startswith("panoramas")],
        "weights": [f"{path}={share}" for path, share in shares.items()],
    }


def validation_sets(split: Path) -> list[str]:
    """Return the option of training that names the validation parts of a split."""
    folders = {name: split / "validation" / name for name in ("walks", "views", "light")}
    return [f"{name}={folder / 'database'},{folder / 'queries'}" for name, folder in folders.items()]


def list_steps(work: Path) -> dict[str, list[str]]:
    """Return the commands by the folders that they write, as arguments of `python -m`."""
    return {
        **list_preparations(work),
        "distilled": _train(
            *("distill", "distill_gridtown_small", work / "distilled"),
            photos=work / "places",
            model=work / "student0" / "best",
            teacher=work / "cross-image-teacher" / "best",
        ),
        "tuned": _train(
            *("finetune", "finetune_gridtown_small", work / "tuned"),
            photos=work / "places",
            model=work / "distilled" / "best",
        ),
    }


def list_preparations(work: Path) -> dict[str, list[str]]:
    """Return the commands that the ablations need too: photos, both ViTs, the teacher without and with cross-image encoder."""
    seen, places = work / "seen", work / "places"
    labelled = ("--seed", "201", "--cities", "10", "--photos-per-place", "4", "--label-cells", "8")
    unlabelled = ("--seed", "101", "--cities", "25", "--photos-per-place", "8")
    return {
        "seen": _simulate(seen, 112, *labelled),
        "places": _simulate(places, 112, *unlabelled),
        "student0": _pretrain(work, "student0", model=_config("student_small")),
        "teacher0": _pretrain(work, "teacher0", model=_config("teacher_small"), max_steps=550),
        "teacher": _tune_teacher(work, "teacher", model=work / "teacher0" / "best"),
        "cross-image-teacher": _tune_teacher(
            work, "cross-image-teacher", model=work / "teacher" / "best", max_steps=300, cross_image_encoder="add"
        ),
    }


def _simulate(folder: Path, image_size: int, *options: str) -> list[str]:
    render = ("--places", "250", "--layout", "gsv-cities", "--tier", "all", "--image-size", str(image_size), "--workers", "2")
    return ["d2vpr_hf", "simulate", str(folder), *render, *options]


def _pretrain(work: Path, name: str, **options: Any) -> list[str]:
    return _train("pretrain", "pretrain_gridtown_small", work / name, photos=work / "seen", **options)


def _tune_teacher(work: Path, name: str, **options: Any) -> list[str]:
    cities = [f"Gridtown{101 + number}" for number in range(10)]  # fewer than for the students
    return _train("finetune", "teacher_gridtown_small", work / name, photos=work / "places", cities=cities, **options)


def _train(stage: str, recipe: str, out: Path, **options: Any) -> list[str]:
    command = [f"d2vpr_hf.training.{stage}", recipe, "--out", str(out)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]
    return [*command, "--resume"]


def _config(name: str) -> Path:
    return _ROOT / "training" / "configs" / f"{name}.json"


def make_tiny(work: Path, real: Path | None = None, start: Path | None = None) -> None:
    """Run the steps that are not finished, and copy the result into the package."""
    if start is None:
        _run(work, list_steps(work))
    if real is None:
        return
    start = start or work / "tuned" / "best"
    _run(work, list_real_steps(work, real, start))
    write_average(start, work / "real", work / "average")
    (town,) = (work / "real" / "run").glob("gridtown-*")
    embed(work / "average", EMBEDDED_MODEL, measure_town(work / "average", town), measure_sets(work, real, work / "average"))


def _run(work: Path, steps: Mapping[str, list[str]]) -> None:
    for name, arguments in steps.items():
        if not is_made(work / name):
            subprocess.run([sys.executable, "-m", *arguments], check=True, cwd=_ROOT)


def is_made(folder: Path) -> bool:
    """Return whether the step that writes this folder is finished: a training run, photos, a split or a converted network."""
    return any((folder / name).exists() for name in ("last", "Images", "split.json", "config.json"))


def measure_sets(work: Path, real: Path, model: Path) -> dict[str, Evaluation]:
    """Measure a model on the test parts of real photos; return the evaluations by the titles of the sets."""
    command = ["benchmarks.real_photos", "--real", str(real), "--model", f"embedded={model}", "--work", str(work / "measured")]
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=_ROOT)
    reports = {title: work / "measured" / "reports" / f"{name}-embedded.json" for name, title in _REAL_SETS.items()}
    return {title: Evaluation.load(report) for title, report in reports.items() if report.exists()}


def write_average(start: Path, run: Path, folder: Path) -> None:
    """Write the average of a model and of those that were trained from it, with the latter's image processor."""
    models = {"start": start, "best": run / "best", "last": run / "last"}
    average_weights({models[name]: share for name, share in _SHARES.items()}).save_pretrained(folder)
    load_image_processor(run / "last").save_pretrained(folder)


def measure_town(model: Path, town: Path) -> Evaluation:
    """Measure a model on the city that validated its training; the evaluation has no paths of this machine."""
    photos = town / "images" / "test"
    return without_folders(evaluate(photos / "database", photos / "queries", PlaceEncoder(model)))


def embed(source: Path, folder: Path, measured: Evaluation, sets: Mapping[str, Evaluation] | None = None) -> None:
    """Write a model as the embedded model, with its report.

    Args:
        source: Folder of the model.
        folder: Folder to write.
        measured: Evaluation for the report and the card.
        sets: Evaluations for the card, by titles of sets.
    """
    model, processor = load_model(source), load_image_processor(source)
    with without_code():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    measured.save(folder / "validation.json", overwrite=True)
    write_card(
        folder,
        model,
        FACTS,
        origin="a MobileNetV2 of ImageNet and simulated streets, by d2vpr_hf/assets/make_tiny.py",
        measured=measured,
        sets=sets,
    )


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


def main() -> None:
    """Make the embedded model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=Path("build/tiny"))
    parser.add_argument("--real", type=Path, help="folder of real photos")
    parser.add_argument(
        "--start", type=Path, help="folder of a model that has seen simulated streets; by default it is trained"
    )
    arguments = parser.parse_args()
    if arguments.start and not arguments.real:
        parser.error("--start is the start of training on real photos: give --real too")
    make_tiny(*(path and path.resolve() for path in (arguments.work, arguments.real, arguments.start)))


if __name__ == "__main__":
    main()
