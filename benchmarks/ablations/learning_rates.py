"""The grid that the learning rates of all rows are chosen by: `python -m benchmarks.ablations.learning_rates`.

Each stage by itself, at the length it has in most rows, with a seed that no row has, measured on the validation city.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.ablations.rows import ROWS, STEPS, Options, Stage
from benchmarks.ablations.run import HERE, prepare, start_model, train
from d2vpr_hf.durable_files import store_file
from d2vpr_hf.evaluation import Evaluation

RECORD = HERE / "learning_rates.json"
GRID = {"finetune": (5e-5, 1e-4, 2e-4, 5e-4), "distill": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)}
_SEED = 100
_VALIDATION: Options = {
    "validation_database": "gridtown",
    "validation_places": 100,
    "gridtown_tier": "standard",
    "validate_every": STEPS,
}


def main() -> None:
    """Run what the grid lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/ablations"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(work, arguments.workers)
    done = json.loads(RECORD.read_text()) if RECORD.exists() else []
    known = {(cell["script"], cell["learning_rate"]) for cell in done}
    cells = [(script, rate) for script, rates in GRID.items() for rate in rates if (script, rate) not in known]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for cell in pool.map(lambda cell: run_cell(work, *cell), cells):
            done.append(cell)
            text = "[\n" + ",\n".join(json.dumps(cell) for cell in done) + "\n]\n"
            store_file(RECORD, lambda path, text=text: path.write_text(text))
            print(cell, flush=True)


def run_cell(work: Path, script: str, rate: float) -> dict[str, Any]:
    """Train one stage at a learning rate; say what it finds in the validation city."""
    row = next(row for row in ROWS if row.name == "full")
    options = {name: value for stage in row.stages if stage.script == script for name, value in stage.options.items()}
    folder = work / "learning_rates" / f"{script}-{rate:g}"
    start = start_model(work, row, _SEED, folder)
    train(work, folder / script, start, row, Stage(script, STEPS, {**options, **_VALIDATION, "learning_rate": rate}), _SEED)
    measured = Evaluation.load(folder / script / "last" / "validation.json")
    recalls = {name: measured.recall()[name]["recall"] for name in ("recall@1", "recall@5")}
    return {"script": script, "learning_rate": rate, "steps": STEPS, **recalls}


if __name__ == "__main__":
    main()
