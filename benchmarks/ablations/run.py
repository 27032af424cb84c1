"""Run what is missing of the table.

    python -m benchmarks.ablations.run [--work build/ablations] [--workers 2] [--rows full finetuned] [--seeds 0 1]

Every run that is done is a file in `benchmarks/ablations/records`; what has one is not run again, and one that was cut off goes
on from its checkpoint. Photos and the models that all start from are made once, as for the embedded model. Who makes them anew
goes on with seeds that no other teacher has taught, and measures the new one with their first: `--rows teacher --seeds 6`.
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

from benchmarks.ablations.rows import ROWS, SAMPLER_RATES, SEEDS, Row, Stage
from benchmarks.ablations.students import make_student
from d2vpr_hf.assets.make_tiny import is_made, list_preparations
from d2vpr_hf.gridtown import TEST_SEEDS, simulate
from d2vpr_hf.utils.atomic_files import store_file

HERE = Path(__file__).parent
RECORDS = HERE / "records"
TEST_PLACES, TEST_QUERIES, TIERS = 350, 5, ("standard", "all")
_KEEP_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=42949672960"  # docs/LOG.md
)
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": _KEEP_MEMORY}


def main() -> None:
    """Make what is missing, as many runs at once as there are workers, each with one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/ablations"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, help="else as many of the first as make five runs of each row")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(work, arguments.workers)
    chosen = [row for row in ROWS if row.name in arguments.rows]
    runs = [(row, seed) for row in chosen for seed in asked_seeds(row, arguments.seeds)]
    runs.sort(key=lambda run: run[1])
    with ThreadPoolExecutor(arguments.workers) as pool:
        for done in pool.map(lambda run: run_once(work, *run), runs):
            print(done, flush=True)


def asked_seeds(row: Row, seeds: list[int] | None) -> list[int]:
    """List the seeds to run of a row: those asked for, of the teacher the first of them, or those that it lacks."""
    if seeds is None:
        return missing_seeds(row)
    return seeds if row.stages else [min(seeds)]


def missing_seeds(row: Row, records: Path = RECORDS) -> list[int]:
    """List the seeds that a row lacks: a row with other seeds in their place lacks nothing, and the teacher needs only one."""
    done = {int(path.stem.rpartition("-")[2]) for path in records.glob(f"{row.name}-*.json")}
    wanted = len(SEEDS) if row.stages else 1
    return [seed for seed in SEEDS if seed not in done][: max(0, wanted - len(done))]


def prepare(work: Path, workers: int) -> None:
    """Make photos and the models that all runs start from."""
    for name, arguments in list_preparations(work).items():
        if not is_made(work / name):
            python(*arguments, log=work / f"{name}.log")
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
    """Train and measure a student, unless that was done; return a line that says so."""
    record = RECORDS / f"{row.name}-{seed}.json"
    if record.exists():
        return f"{record.stem}: done before"
    folder = work / "runs" / record.stem
    model = start_model(work, row, seed, folder)
    stages = [cost_of(work / name) for name in (("student0",) if row.stages else ("teacher0", "teacher"))]
    for number, stage in enumerate(row.stages):
        stages.append(train(work, folder / f"{number}-{stage.script}", model, row, stage, seed))
        model = folder / f"{number}-{stage.script}" / "last"
    python("benchmarks.ablations.measure", str(model), str(work / "towns"), str(folder / "measured.json"))
    facts = {"row": row.name, "seed": seed, "commit": _commit(), "stages": stages}
    text = json.dumps(facts | json.loads((folder / "measured.json").read_text()), indent=None)
    store_file(record, lambda path: path.write_text(text + "\n"))
    return f"{record.stem}: {sum(stage['seconds'] for stage in stages):.0f} s"


def start_model(work: Path, row: Row, seed: int, folder: Path) -> Path:
    """Give what a row's first stage starts from: a student, or of the teacher's row the teacher."""
    start = folder / "start"
    if not row.stages:
        folder.mkdir(parents=True, exist_ok=True)
        return work / "teacher" / "best"
    if not (start / "config.json").exists():
        make_student(row, seed, work / "student0" / "best", start)
    return start


def train(work: Path, out: Path, model: Path, row: Row, stage: Stage, seed: int) -> dict[str, Any]:
    """Train one stage; return what it took."""
    options = {"photos": work / "places", "model": model, "out": out, "seed": seed, "max_steps": stage.steps}
    options |= stage.options
    if row.has_sampler:
        factor = SAMPLER_RATES[stage.script] / options["learning_rate"]
        options["learning_rate_factors"] = f"aggregator.sampler.*={factor:g}"
    if stage.script == "distill":
        name = {"plain": "teacher", "cross-image": "cross-image-teacher"}[row.teacher]
        options["teacher"] = work / name / "best"
        if row.teacher == "plain":  # a dozen rows show it the same pixels
            options["teacher_cache"] = work / "targets" / str(seed)
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    if not (out / "last").exists():
        python(f"d2vpr_hf.training.{stage.script}", str(HERE / "stage.yaml"), *flags, "--resume", log=out.with_suffix(".log"))
    return cost_of(out)


def cost_of(run: Path) -> dict[str, Any]:
    """Say what a training run took: its steps, the photos that it saw, and the seconds that it trained."""
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    progress = [(line["images_seen"], line["images_per_second"]) for line in lines if "images_seen" in line]
    seconds, before = 0.0, 0
    for images, speed in progress:
        seconds, before = seconds + (images - before) / speed, images
    return {"run": run.name, "steps": lines[-1]["step"], "images": before, "seconds": round(seconds, 1)}


def python(*arguments: str, log: Path | None = None) -> None:
    """Run a module; what it prints goes to the log."""
    with (log or Path(os.devnull)).open("a") as output:
        errors = output if log else None
        subprocess.run([sys.executable, "-m", *arguments], check=True, env=_ENVIRONMENT, stdout=output, stderr=errors)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()


if __name__ == "__main__":
    main()
