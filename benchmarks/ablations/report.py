"""Write the tables and the figure of the records into docs: `python -m benchmarks.ablations.report`.

Every row is compared with `full` in pairs of the same seed and the same queries. The bootstrap resamples places, not queries,
because the queries of a place are found or missed together.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.ablations.rows import ROWS, TEACHING_REFERENCE, TEACHING_ROWS, Row
from benchmarks.ablations.run import RECORDS, TIERS
from d2vpr_hf.figures import save_figure

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = "full"
SMALLEST_EFFECT = 2.0  # points of R@1 that matter
CAPACITY_GAP = 5.0  # points of R@1 by which the teacher must be better than students without a teacher
_OFFSETS = {  # by name in the records: title, and the student's option without which it does not apply
    "mean_offset": ("mean offset, of a region", "use_offsets"),
    "clamped": ("offsets clamped", "use_offsets"),
    "mean_scale": ("mean scale", "use_scales"),
    "scale_deviation": ("deviation of scales", "use_scales"),
}
_TITLES = {row.name: row.title for row in ROWS}
_DRAWS = 10_000
Records = dict[str, list[dict[str, Any]]]  # by row


@dataclass(frozen=True)
class Difference:
    """Difference of a row from the reference, in points of R@1.

    Attributes:
        mean: Mean over pairs.
        low, high: 95 % interval, with places resampled.
        deviation: Standard deviation of the pairs' differences over seeds; 0 for one seed.
        pairs: Number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    deviation: float
    pairs: int

    def verdict(self) -> str:
        """Return the claim that the difference allows: none for one seed, because the interval does not cover seeds."""
        if self.pairs < 2:
            return "one seed, not decided"
        if self.low <= 0 <= self.high:
            return "not significant"
        size = "" if abs(self.mean) >= SMALLEST_EFFECT else ", too small to matter"
        return ("better" if self.mean > 0 else "worse") + size


def compare(row: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], *tiers: str) -> Difference | None:
    """Compare the records of a row with the reference's records of the same seeds; `None` if they share no seed.

    Args:
        row: Records of the row.
        reference: Records of the reference.
        tiers: Tiers, or sets, whose differences are averaged with equal weights; the places of each are resampled.
    """
    by_seed = {record["seed"]: record for record in reference}
    pairs = [(record, by_seed[record["seed"]]) for record in row if record["seed"] in by_seed]
    if not pairs:
        return None
    rng = np.random.default_rng(0)
    draws, each = np.zeros(_DRAWS), np.zeros(len(pairs))
    for tier in tiers:
        differences = [_hits(record, tier) - _hits(baseline, tier) for record, baseline in pairs]
        queries = np.array([entry[0] for _, entry in sorted(pairs[0][0]["places"][tier].items())])
        mean_difference = np.mean(differences, axis=0)  # (places,), in numbers of found queries
        weights = rng.multinomial(len(queries), np.full(len(queries), 1 / len(queries)), size=_DRAWS)
        draws += 100 * (weights @ mean_difference) / (weights @ queries) / len(tiers)
        each += [100 * difference.sum() / queries.sum() / len(tiers) for difference in differences]
    low, high = np.quantile(draws, (0.025, 0.975))
    deviation = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
    return Difference(float(np.mean(each)), float(low), float(high), deviation, len(pairs))


def _hits(record: dict[str, Any], tier: str) -> NDArray[np.int64]:
    """Return the number of queries of each place whose first match is correct."""
    return np.array([entry[1] for _, entry in sorted(record["places"][tier].items())])


def recall_at_1(records: Sequence[dict[str, Any]], tier: str) -> float:
    """Return the mean R@1 of records, in per cent."""
    shares = [_hits(record, tier).sum() / sum(entry[0] for entry in record["places"][tier].values()) for record in records]
    return 100 * float(np.mean(shares))


def read_records(folder: Path = RECORDS) -> Records:
    """Read all records, by row."""
    records: Records = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        records.setdefault(record["row"], []).append(record)
    return records


def table(records: Records, rows: Sequence[Row] = ROWS, reference: str = REFERENCE) -> str:
    """Return a table of rows and their differences from a reference, in Markdown."""
    recall_titles = [f"{tier}: R@1, %" for tier in TIERS]
    titles = ["row", "runs", "M parameters", "photos seen, stage 0 and after", "minutes of one core"] + [
        title for recall in recall_titles for title in (recall, "against the first row")
    ]
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join("---" for _ in titles) + " |"]
    for row in (row for row in rows if row.name in records):
        runs = records[row.name]
        first, *later = (stage["images"] for stage in runs[0]["stages"])
        minutes = np.mean([sum(stage["seconds"] for stage in record["stages"]) for record in runs]) / 60
        parameters = runs[0]["parameters"] / 1e6
        cells = [row.title, str(len(runs)), f"{parameters:.2f}", f"{first:,} + {sum(later):,}", f"{minutes:.0f}"]
        for tier in TIERS:
            cells += [
                f"{recall_at_1(runs, tier):.1f}",
                describe(row, compare(runs, records.get(reference, ()), tier), reference),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def teaching_table(records: Records) -> str:
    """Return the table of what a student learns from its teacher, against `distilled`; empty without its records."""
    if not any(row.name in records for row in TEACHING_ROWS):
        return ""
    first = next(row for row in ROWS if row.name == TEACHING_REFERENCE)
    return table(records, (first, *TEACHING_ROWS), TEACHING_REFERENCE)


def describe(row: Row, difference: Difference | None, reference: str = REFERENCE) -> str:
    """Return a row's difference from the reference with its interval and the claim that it allows; empty without one."""
    if row.name == reference or difference is None:
        return ""
    spread = f"; ±{difference.deviation:.1f} over seeds" if difference.pairs > 1 else ""
    return f"{_interval(difference, spread)}: {difference.verdict()}"


def gate(records: Records) -> str:
    """Return a sentence on whether each teacher is better than the students of its seeds that had no teacher."""
    ahead = [
        recall_at_1([teacher], "standard") - recall_at_1(students, "standard")
        for teacher, students in by_teacher(records.get("finetuned", ()), records)
        if students
    ]
    if not ahead:
        return "The gate is not decided: its runs are not made.\n"
    passed = min(ahead) >= CAPACITY_GAP
    verdict = "there is a capacity gap" if passed else "no capacity gap here, so nothing is claimed for distillation"
    points = " and ".join(f"{gap:+.1f}" for gap in ahead)
    return f"On the standard tier the teacher is {points} points of R@1 ahead of *fine-tuned only*: {verdict}.\n"


def by_teacher(row: Sequence[dict[str, Any]], records: Records) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Group a row's records by the teacher that they learned from: a teacher serves from its seed up to that of the next."""
    teachers = sorted(records.get("teacher", ()), key=lambda record: record["seed"])
    ends = [teacher["seed"] for teacher in teachers[1:]] + [float("inf")]
    return [
        (teacher, [record for record in row if teacher["seed"] <= record["seed"] < end])
        for teacher, end in zip(teachers, ends, strict=False)  # without teachers both are empty, except for the last end
    ]


def teachers_table(records: Records) -> str:
    """Return a Markdown table of differences from the first row by teacher, standard tier; empty for a single teacher."""
    reference = by_teacher(records.get(REFERENCE, ()), records)
    if len(reference) < 2 or not all(runs for _, runs in reference):
        return ""
    titles = [f"teacher of {recall_at_1([teacher], 'standard'):.1f} %: {len(runs)} seeds" for teacher, runs in reference]
    lines = ["| row | " + " | ".join(titles) + " |", "| --- " * (1 + len(titles)) + "|"]
    lines.append(
        f"| {_TITLES[REFERENCE]} | " + " | ".join(f"{recall_at_1(runs, 'standard'):.1f}" for _, runs in reference) + " |"
    )
    for row in (row for row in ROWS if row.stages and row.name in records and row.name != REFERENCE):
        groups = by_teacher(records[row.name], records)
        differences = [compare(runs, records[REFERENCE], "standard") for _, runs in groups]
        lines.append(f"| {row.title} | " + " | ".join(_interval(each) if each else "" for each in differences) + " |")
    return "\n".join(lines) + "\n"


def _interval(difference: Difference, spread: str = "") -> str:
    return f"{difference.mean:+.1f} ({difference.low:+.1f} to {difference.high:+.1f}{spread})"


def offsets_table(records: Records, rows: Sequence[Row] = ROWS) -> str:
    """Return a Markdown table of offsets and scales, means over seeds, of the rows that have them."""
    lines = ["| row | " + " | ".join(title for title, _ in _OFFSETS.values()) + " |", "| --- " * (1 + len(_OFFSETS)) + "|"]
    for row in rows:
        measured = [record["offsets"] for record in records.get(row.name, ()) if record["offsets"]]
        if measured:
            cells = [_mean(row, [numbers[name] for numbers in measured], option) for name, (_, option) in _OFFSETS.items()]
            lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(row: Row, numbers: list[float], option: str) -> str:
    return f"{np.mean(numbers):.3f}" if row.student.get(option, True) else "off"


def draw(records: Records) -> Figure:
    """Draw every row's difference with its interval, one panel for each tier."""
    rows = [row for row in ROWS if row.name in records and row.name != REFERENCE]
    figure = Figure(figsize=(10, 0.4 * len(rows) + 1.5), layout="constrained")
    for axes, tier in zip(figure.subplots(1, len(TIERS), sharey=True), TIERS, strict=True):
        for height, row in enumerate(reversed(rows)):
            difference = compare(records[row.name], records[REFERENCE], tier)
            if difference is not None:
                reach = [[difference.mean - difference.low], [difference.high - difference.mean]]
                axes.errorbar(difference.mean, height, xerr=reach, fmt="o", color="#1f5fbf")
        axes.axvspan(-SMALLEST_EFFECT, SMALLEST_EFFECT, color="#9a9a9a", alpha=0.2)
        axes.axvline(0, color="#666666", linewidth=1)
        axes.set(title=tier, xlabel="points of R@1", yticks=range(len(rows)))
        axes.set_yticklabels([row.title for row in reversed(rows)])
    figure.suptitle("Against distilled, then fine-tuned", fontsize=10)
    return figure


def main() -> None:
    """Write the gate, the tables and the figure."""
    records = read_records()
    parts = [gate(records), table(records), teachers_table(records), teaching_table(records), offsets_table(records)]
    text = "\n".join(part for part in parts if part)
    (DOCS / "ablations_table.md").write_text(text)
    save_figure(draw(records), DOCS / "images" / "ablations.png")
    print(text)


if __name__ == "__main__":
    main()
