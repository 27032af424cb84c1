"""Measure the grid from which the learning rates of all rows are chosen: `python -m benchmarks.ablations.learning_rates`.

Each stage has the length that it has in most rows, and a seed that no row has. It is measured on the validation city. `distill`
and `finetune` start from stage 0; `tune` fine-tunes the student that was distilled at the chosen rate.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.ablations.rows import DISTILL, LEARNING_RATES, ROWS, STEPS, Options, Stage
from benchmarks.ablations.run import HERE, prepare, start_model, train
from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.utils.atomic_files import store_file

RECORD = HERE / "learning_rates.json"
GRID = {
    "distill": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "finetune": (5e-5, 1e-4, 2e-4, 5e-4, 1e-3),
    "tune": (1e-4, 3e-4, 1e-3, 3e-3),
}
_SEED = 100
_VALIDATION: Options = {
    "validation_database": "gridtown",
    "validation_places": 100,
    "gridtown_tier": "standard",
    "validate_every": STEPS,
}


def main() -> None:
    """Run the cells of the grid that have no record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/ablations"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(work, arguments.workers)
    records = json.loads(RECORD.read_text()) if RECORD.exists() else []
    recorded = {(cell["stage"], cell["learning_rate"]) for cell in records}
    cells = [(stage, rate) for stage, rates in GRID.items() for rate in rates if (stage, rate) not in recorded]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for cell in pool.map(lambda cell: run_cell(work, *cell), cells):
            records.append(cell)
            text = "[\n" + ",\n".join(json.dumps(cell) for cell in records) + "\n]\n"
            store_file(RECORD, lambda path, text=text: path.write_text(text))
            print(cell, flush=True)


def run_cell(work: Path, stage: str, rate: float) -> dict[str, Any]:
    """Train one stage at a learning rate; return its recalls in the validation city."""
    row = next(row for row in ROWS if row.name == "full")
    folder = work / "learning_rates" / f"{stage}-{rate:g}"
    script, options = ("distill", DISTILL) if stage == "distill" else ("finetune", {})
    chosen = work / "learning_rates" / f"distill-{LEARNING_RATES['distill']:g}" / "distill" / "last"
    start = chosen if stage == "tune" else start_model(work, row, _SEED, folder)
    train(work, folder / script, start, row, Stage(script, STEPS, {**options, **_VALIDATION, "learning_rate": rate}), _SEED)
    measured = Evaluation.load(folder / script / "last" / "validation.json")
    recalls = {name: measured.recall()[name]["recall"] for name in ("recall@1", "recall@5")}
    return {"stage": stage, "learning_rate": rate, "steps": STEPS, **recalls}


if __name__ == "__main__":
    main()
