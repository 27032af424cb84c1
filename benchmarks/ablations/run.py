"""Make the runs that the table lacks.

    python -m benchmarks.ablations.run [--work build/ablations] [--workers 2] [--rows full finetuned] [--seeds 0 1]

Every complete run is a file in `benchmarks/ablations/records` and is not run again; an interrupted run resumes from its
checkpoint. Photos and initial models are made once, as for the embedded model. After making these again, continue with seeds
that no other teacher has taught, and measure the new teacher with the first of them: `--rows teacher --seeds 6`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.ablations.rows import PROJECTED_DIM, ROWS, SAMPLER_RATES, SEEDS, TEACHING_ROWS, Row, Stage
from benchmarks.ablations.students import make_student
from benchmarks.code_version import commit
from d2vpr_hf.assets.make_tiny import is_made, list_preparations
from d2vpr_hf.gridtown import TEST_SEEDS, simulate
from d2vpr_hf.utils.atomic_files import store_file

HERE = Path(__file__).parent
RECORDS = HERE / "records"
TEST_PLACES = 350  # in each city
TEST_QUERIES = 5  # of each place and tier
TIERS = ("standard", "all")
QUEUE = (*ROWS, *TEACHING_ROWS)
_KEEP_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=42949672960"  # docs/LOG.md
)
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": _KEEP_MEMORY}


def main() -> None:
    """Make the missing runs in parallel, one for each worker, each with one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/ablations"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in QUEUE], default=[row.name for row in QUEUE])
    parser.add_argument("--seeds", nargs="+", type=int, help="by default the first seeds that complete the runs of each row")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(work, arguments.workers)
    chosen = [row for row in QUEUE if row.name in arguments.rows]
    runs = [(row, seed) for row in chosen for seed in seeds_to_run(row, arguments.seeds)]
    runs.sort(key=lambda run: run[1])
    with ThreadPoolExecutor(arguments.workers) as pool:
        for line in pool.map(lambda run: run_once(work, *run), runs):
            print(line, flush=True)


def seeds_to_run(row: Row, seeds: list[int] | None) -> list[int]:
    """Return the seeds to run of a row: the given ones (for the teacher's row the first of them), or those that it lacks."""
    if seeds is None:
        return missing_seeds(row)
    return seeds if row.stages else [min(seeds)]


def missing_seeds(row: Row, records: Path = RECORDS) -> list[int]:
    """Return the seeds that a row lacks. Runs with other seeds count too, and the teacher's row needs only one run."""
    done = {int(path.stem.rpartition("-")[2]) for path in records.glob(f"{row.name}-*.json")}
    wanted = row.runs if row.stages else 1
    return [seed for seed in SEEDS if seed not in done][: max(0, wanted - len(done))]


def prepare(work: Path, workers: int) -> None:
    """Make the photos and the models that all runs start from, unless they exist."""
    for name, arguments in list_preparations(work).items():
        if not is_made(work / name):
            python(*arguments, log=work / f"{name}.log")
    projected = work / "projected-teacher" / "best"
    if not projected.exists():
        options = ("--dim", str(PROJECTED_DIM), "--sample", "4096", "--seed", "0", "--out", str(projected))
        projected.parent.mkdir(exist_ok=True)
        python("d2vpr_hf", "fit-projection", str(work / "teacher" / "best"), str(work / "places"), *options)
    for seed in TEST_SEEDS:
        _render_test_city(work / "towns" / str(seed), seed, workers)


def _render_test_city(town: Path, seed: int, workers: int) -> None:
    """Render a city's database once, which both tiers share, and the queries of each tier."""
    for tier in TIERS:
        if (town / "queries" / tier).exists():
            continue
        scratch = town / f".{tier}"
        shutil.rmtree(scratch, ignore_errors=True)
        simulate(scratch, TEST_PLACES, seed, tier=tier, photos_per_place=TEST_QUERIES, image_size=112, workers=workers)
        (town / "queries").mkdir(exist_ok=True)
        if not (town / "database").exists():
            (scratch / "images" / "test" / "database").rename(town / "database")
        (scratch / "images" / "test" / "queries").rename(town / "queries" / tier)
        shutil.rmtree(scratch)


def run_once(work: Path, row: Row, seed: int) -> str:
    """Train and measure a student, unless it has a record; return a line for the log."""
    record = RECORDS / f"{row.name}-{seed}.json"
    if record.exists():
        return f"{record.stem}: has a record"
    folder = work / "runs" / record.stem
    model = start_model(work, row, seed, folder)
    stages = [cost_of(work / name) for name in (("student0",) if row.stages else ("teacher0", "teacher"))]
    for number, stage in enumerate(row.stages):
        stages.append(train(work, folder / f"{number}-{stage.script}", model, row, stage, seed))
        model = folder / f"{number}-{stage.script}" / "last"
    python("benchmarks.ablations.measure", str(model), str(work / "towns"), str(folder / "measured.json"))
    facts = {"row": row.name, "seed": seed, "commit": commit(), "stages": stages}
    text = json.dumps(facts | json.loads((folder / "measured.json").read_text()), indent=None)
    store_file(record, lambda path: path.write_text(text + "\n"))
    return f"{record.stem}: {sum(stage['seconds'] for stage in stages):.0f} s"


def start_model(work: Path, row: Row, seed: int, folder: Path) -> Path:
    """Return the model that a row's first stage starts from: a student; for the teacher's row the teacher."""
    start = folder / "start"
    if not row.stages:
        folder.mkdir(parents=True, exist_ok=True)
        return work / "teacher" / "best"
    if not (start / "config.json").exists():
        make_student(row, seed, work / "student0" / "best", start)
    return start


def train(work: Path, out: Path, model: Path, row: Row, stage: Stage, seed: int) -> dict[str, Any]:
    """Train one stage; return its cost."""
    flags = stage_flags(work, out, model, row, stage, seed)
    if not (out / "last").exists():
        python(f"d2vpr_hf.training.{stage.script}", str(HERE / "stage.yaml"), *flags, "--resume", log=out.with_suffix(".log"))
    return cost_of(out)


def stage_flags(work: Path, out: Path, model: Path, row: Row, stage: Stage, seed: int) -> list[str]:
    """Return the flags of a stage."""
    options: dict[str, Any] = {"photos": work / "places", "model": model, "out": out, "seed": seed, "max_steps": stage.steps}
    options |= stage.options
    if row.has_sampler:
        factor = SAMPLER_RATES[stage.script] / options["learning_rate"]
        options["learning_rate_factors"] = f"aggregator.sampler.*={factor:g}"
    if stage.script == "distill":
        name = {"plain": "teacher", "cross-image": "cross-image-teacher", "projected": "projected-teacher"}[row.teacher]
        options["teacher"] = work / name / "best"
        if row.teacher == "plain":  # a dozen rows have the same pixels
            options["teacher_cache"] = work / "targets" / str(seed)
    flags = []
    for name, value in options.items():
        flags += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def cost_of(run: Path) -> dict[str, Any]:
    """Return the cost of a training run: steps, photos trained on, and seconds without validation."""
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    progress = [(line["images_seen"], line["images_per_second"]) for line in lines if "images_seen" in line]
    seconds, before = 0.0, 0
    for images, speed in progress:
        seconds, before = seconds + (images - before) / speed, images
    return {"run": run.name, "steps": lines[-1]["step"], "images": before, "seconds": round(seconds, 1)}


def python(*arguments: str, log: Path | None = None) -> None:
    """Run a module with its output in the log."""
    with (log or Path(os.devnull)).open("a") as output:
        errors = output if log else None
        subprocess.run([sys.executable, "-m", *arguments], check=True, env=_ENVIRONMENT, stdout=output, stderr=errors)


if __name__ == "__main__":
    main()
