"""Make the runs on real photos that docs/real_photos.md plans.

    python -m benchmarks.ablations.run_real --real ROOT --teacher FOLDER --vit FOLDER [--work build/ablations_real]
        [--workers 2] [--student student_real_small] [--rows full no_offsets] [--seeds 0 1]

`ROOT` is as for `benchmarks.split_real`, `--teacher` a folder of transformers' MobileNetV2Model, and `--vit` a student whose
ViT all runs start from: one that has seen none of these photos. Every complete run is a file in
`benchmarks/ablations/real_records` and is not run again; an interrupted run resumes from its checkpoint. Runs of one seed see
the same photos and share the teacher's targets.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ablations.rows import REAL_ROWS, REAL_SEEDS, SAMPLER_RATES, Row, Stage
from benchmarks.ablations.run import HERE, cost_of, python
from benchmarks.ablations.students import make_student
from benchmarks.code_version import commit
from benchmarks.real_photos import TEACHER_LAYER
from benchmarks.split_real import split
from d2vpr_hf.assets.make_tiny import real_sources
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from d2vpr_hf.utils.atomic_files import store_file

RECORDS = HERE / "real_records"
_WEIGHTS = {"unlabelled": 4, "panoramas": 12, "walks/places.csv": 8}  # places of each batch of 24, by source in the split


@dataclass(frozen=True)
class RealSetup:
    """Folders and models that all runs share.

    Attributes:
        real: Folder of real photos.
        work: Folder of the split, of targets and of runs.
        teacher: Folder of the teacher.
        vit: Folder of the student whose ViT all students start from.
        student: Name of the students' configuration.
    """

    real: Path
    work: Path
    teacher: str
    vit: str
    student: str

    @property
    def photos(self) -> Path:
        """The folder of the split."""
        return self.work / "split"


def run_once(setup: RealSetup, row: Row, seed: int, records: Path = RECORDS) -> str:
    """Train and measure a student, or measure the teacher, unless it has a record; return a line for the log."""
    record = records / f"{row.name}-{seed}.json"
    if record.exists():
        return f"{record.stem}: has a record"
    folder = setup.work / "runs" / record.stem
    folder.mkdir(parents=True, exist_ok=True)
    stages = []
    model = setup.teacher
    for number, stage in enumerate(row.stages):
        out = folder / f"{number}-{stage.script}"
        if not (folder / "start" / "config.json").exists():
            make_student(row, seed, Path(setup.vit), folder / "start", setup.student)
        if not (out / "last").exists():
            python(
                f"d2vpr_hf.training.{stage.script}", *training_flags(setup, row, stage, seed, out), log=out.with_suffix(".log")
            )
        stages.append(cost_of(out))
        model = str(out / "last")
    measured = folder / "measured.json"
    frozen = () if row.stages else ("--frozen-teacher",)
    python("benchmarks.ablations.measure_real", model, str(setup.photos), str(setup.real / "corridor"), str(measured), *frozen)
    facts = {
        "row": row.name,
        "seed": seed,
        "commit": commit(),
        "student": setup.student,
        "vit": vit_of(setup),
        "stages": stages,
    }
    text = json.dumps(facts | json.loads(measured.read_text()))
    store_file(record, lambda path: path.write_text(text + "\n"))
    return f"{record.stem}: {sum(stage['seconds'] for stage in stages):.0f} s"


def training_flags(setup: RealSetup, row: Row, stage: Stage, seed: int, out: Path) -> list[str]:
    """Return the recipe and the flags of a stage."""
    options: dict[str, Any] = {
        "model": out.parent / "start",
        "out": out,
        "seed": seed,
        "max_steps": stage.steps,
        "teacher": setup.teacher,
        "teacher_taps": [TEACHER_LAYER],
        "teacher_cache": setup.work / "targets",
        **real_sources(setup.work / "split", setup.work / "streets", _WEIGHTS, sum(_WEIGHTS.values())),
        **stage.options,
    }
    if row.has_sampler:
        factor = SAMPLER_RATES[stage.script] / options["learning_rate"]
        options["learning_rate_factors"] = f"aggregator.sampler.*={factor:g}"
    flags = [str(HERE / "real.yaml")]
    for name, value in options.items():
        flags += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return [*flags, "--resume"]


def vit_of(setup: RealSetup) -> str:
    """Return the first digits of the fingerprint of the model that the ViT is of."""
    return fingerprint(load_model(setup.vit), load_image_processor(setup.vit))[:12]


def runs_of(rows: Sequence[Row], seeds: Sequence[int]) -> list[tuple[Row, int]]:
    """Return all pairs of rows and seeds, row by row: the first row's runs fill the cache of targets for the others.

    The teacher's row, which is only measured, has one run.
    """
    return [(row, seed) for row in rows for seed in seeds if row.stages or seed == min(seeds)]


def main() -> None:
    """Make the missing runs in parallel, one for each worker, each with one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--vit", required=True)
    parser.add_argument("--student", default="student_real_small")
    parser.add_argument("--work", type=Path, default=Path("build/ablations_real"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in REAL_ROWS], default=[row.name for row in REAL_ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(REAL_SEEDS))
    arguments = parser.parse_args()
    teacher, vit = (str(Path(path).resolve()) for path in (arguments.teacher, arguments.vit))
    setup = RealSetup(arguments.real.resolve(), arguments.work.resolve(), teacher, vit, arguments.student)
    split(setup.real, setup.photos)
    rows = [row for row in REAL_ROWS if row.name in arguments.rows]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for line in pool.map(lambda run: run_once(setup, *run), runs_of(rows, arguments.seeds)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
