"""Write the table of the runs on real photos into docs/real_photos.md: `python -m benchmarks.ablations.report_real`.

Every row is compared with `full` in pairs of the same seed and the same queries, as in `benchmarks.ablations.report`. The claim
is about the mean of R@1 over the sets, each with equal weight; corridor is only reported.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.ablations.measure_real import REPORTED
from benchmarks.ablations.report import DOCS, REFERENCE, Records, compare, describe, offsets_table, read_records, recall_at_1
from benchmarks.ablations.rows import REAL_ROWS, Row
from benchmarks.ablations.run_real import RECORDS
from benchmarks.page_tables import write_page
from benchmarks.split_real import SETS

TABLE = "benchmarks.ablations.report_real"  # name of the markers around it


def real_table(records: Records, rows: Sequence[Row] = REAL_ROWS) -> str:
    """Return the tables in Markdown: R@1 by set, differences of the mean, and offsets.

    Raises:
        ValueError: If students started from different models.
    """
    _check_start(records)
    sets = [*SETS, *([REPORTED] if all(REPORTED in record["places"] for runs in records.values() for record in runs) else [])]
    titles = ["row", "runs", "M parameters", "photos", "minutes of one core", *sets, "mean without corridor", "against full"]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for row in (row for row in rows if row.name in records):
        runs = records[row.name]
        images = sum(stage["images"] for stage in runs[0]["stages"])
        minutes = np.mean([sum(stage["seconds"] for stage in record["stages"]) for record in runs]) / 60
        cells = [row.title, str(len(runs)), f"{runs[0]['parameters'] / 1e6:.2f}", f"{images:,}", f"{minutes:.0f}"]
        cells += [f"{recall_at_1(runs, name):.1f}" for name in sets]
        cells.append(f"{np.mean([recall_at_1(runs, name) for name in SETS]):.1f}")
        cells.append(describe(row, compare(runs, records.get(REFERENCE, ()), *SETS)) if row.stages else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", offsets_table(records, rows).rstrip()])


def _check_start(records: Records) -> None:
    starts = {(record["student"], record["vit"]) for runs in records.values() for record in runs if record["stages"]}
    if len(starts) > 1:
        raise ValueError(f"The records are of students that started from {sorted(starts)}. Remove those of all but one.")


def main(page: Path = DOCS / "real_photos.md") -> None:
    """Write the tables."""
    text = real_table(read_records(RECORDS))
    write_page(page, text, TABLE)
    print(text)


if __name__ == "__main__":
    main()
