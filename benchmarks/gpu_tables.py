"""Put the records of `benchmarks.gpu_report` into the pages of docs/: `python -m benchmarks.gpu_tables`.

Each table stands between two markers, which name this command and a part of the report. Without a figure in docs/gpu the place
says "not measured".
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.page_tables import write_page

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {
    "parity": "benchmarks.md",
    "inference": "speed.md",
    "photos": "speed.md",
    "runtimes": "speed.md",
    "search": "benchmarks.md",
    "training": "training.md",
    "recipes": "training.md",
}
NOT_MEASURED = "Not measured yet: docs/gpu has no record of `benchmarks.gpu_report`."

Figures = dict[str, Any]


def read_records(folder: Path) -> list[Figures]:
    """Return the records of a folder, by the names of their files.

    Raises:
        ValueError: If a record is not of a GPU, or has tiny sizes.
    """
    records = []
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        machine = record.get("machine")
        if machine is None or machine["tiny"] or machine["card"] is None:
            raise ValueError(f"{file} is not a record of a GPU with full sizes. Move it out of {folder}.")
        records.append(record)
    return records


def part_text(name: str, records: Sequence[Figures]) -> str:
    """Return the Markdown text of a part: for each card a line with its origin, and its table."""
    texts = []
    for record in records:
        part = record["parts"].get(name)
        if part is not None and part["figures"]:
            texts.append(f"{_origin(record['machine'], part)}\n\n{TABLES[name](part['figures'])}")
        elif part is not None:
            texts.append(f"Not measured on {record['machine']['card']}: {part['state']}.")
    return "\n\n".join(texts) or NOT_MEASURED


def _origin(machine: Figures, part: Figures) -> str:
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers"))
    incomplete = "" if part["state"] == "done" else f" The part was not finished: {part['state']}."
    return (
        f"{machine['card']}, driver {machine['driver']}, {machine['cores']} processor cores, {versions}, commit "
        f"{part['commit'] or 'not recorded'}, {part['date']}.{incomplete}"
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def parity_table(figures: Figures) -> str:
    """Return differences of descriptors and gradients, and those of rendered photos."""
    rows = [
        [name, f"{row['descriptor']:.1e}", _gradient(row)]
        for name, row in figures.items()
        if isinstance(row, dict) and "descriptor" in row
    ]
    photos = figures.get("gridtown")
    line = (
        "Photos of Gridtown: not measured."
        if photos is None
        else f"Photos of Gridtown differ from the CPU's by {photos['mean']:.3f} of 255 levels in the mean (goal: below 0.5), "
        f"and by {photos['largest']:.0f} at most."
    )
    return f"{_table(['number type', 'descriptor', 'gradient'], rows)}\n\n{line}"


def _gradient(row: Figures) -> str:
    if "gradient" not in row:
        return ""
    return "not finite" if row["gradient"] is None else f"{row['gradient']:.1e}"


def inference_table(figures: Figures) -> str:
    """Return latency and throughput of the networks, and what attention kernels cost."""
    rows = []
    for title, group in figures.items():
        if ", batch " not in title or title.startswith("attention"):
            continue
        if "failed" in group:
            rows.append([title, group["failed"], "", "", ""])
            continue
        reference = _best(group, "Dinov2-small")
        for name, row in group.items():
            share = f"{100 * row['share_of_peak']:.0f} %" if "share_of_peak" in row else ""
            ratio = f"{row['images_per_second'] / reference:.2f}" if reference else ""
            rows.append([f"{name}, {title}", f"{row['median_ms']:.2f}", f"{row['images_per_second']:.0f}", ratio, share])
    titles = ["network", "median ms", "images a second", "of the fastest Dinov2-small", "of the peak"]
    lines = [_table(titles, rows)]
    peaks = [f"{name.removeprefix('peak ')} {row['tflops']:.0f}" for name, row in figures.items() if name.startswith("peak ")]
    lines.append(f"Largest measured product of matrices, TFLOP/s: {', '.join(peaks)}." if peaks else "")
    for title, kernels in figures.items():
        if title.startswith("attention"):
            cells = [
                f"{name} {row['median_ms']:.2f}" if "median_ms" in row else f"{name} failed" for name, row in kernels.items()
            ]
            lines.append(f"The prepared network by kernel of {title}, median ms: {', '.join(cells)}.")
    return "\n\n".join(filter(None, lines))


def _best(group: Figures, name: str) -> float:
    """Return the images a second of the fastest form of a network; 0 if it was not measured."""
    return max((row["images_per_second"] for title, row in group.items() if title.startswith(name)), default=0.0)


def photos_table(figures: Figures) -> str:
    """Return photos a second from end to end."""
    rows = []
    for title, row in figures.items():
        if "failed" in row:
            rows.append([title, row["failed"], "", "", ""])
            continue
        rates = row["photos_per_second"]
        share = f"{100 * row['photos, against ready pixels']:.0f} %"
        rows.append([title, f"{rates['backend']:.0f}", f"{rates['photos, encoder']:.0f}", share, str(row["threads"])])
    ready = "ready pixels in the CPU's memory"  # their copy to the GPU is part of the time
    titles = ["model and runtime", f"from {ready}, photos a second", "from JPEG files", "share of the former", "threads"]
    return _table(titles, rows)


def runtimes_table(figures: Figures) -> str:
    """Return times of ONNX Runtime's providers."""
    if "not measured" in figures:
        return f"Not measured: {figures['not measured']}."
    rows = []
    for provider, row in figures.items():
        cells = [f"{name}: {values['median_ms']:.2f} ms" for name, values in row.items() if isinstance(values, dict)]
        rows.append([provider, row.get("failed", ", ".join(cells))])
    return _table(["provider of ONNX Runtime", "median"], rows)


def search_table(figures: Figures) -> str:
    """Return times of a search."""
    rows = []
    for title, row in figures.items():
        if title.endswith(" queries"):
            rows += [[name, title, f"{values['median_ms']:.2f}"] for name, values in row.items()]
    faiss = figures.get("FAISS", {})
    rows += [["exact, FAISS", name, f"{values['median_ms']:.2f}"] for name, values in faiss.items() if isinstance(values, dict)]
    size = figures.get("descriptors", {"count": 0, "width": 0})
    lines = [f"{size['count']:,} descriptors of {size['width']} numbers.", _table(["search", "at once", "median ms"], rows)]
    if "recall@10 of bits" in figures:
        lines.append(f"Bits find {100 * figures['recall@10 of bits']:.1f} % of the ten nearest descriptors.")
    if "not measured" in faiss:
        lines.append(f"FAISS: not measured, {faiss['not measured']}.")
    return "\n\n".join(lines)


def training_table(figures: Figures) -> str:
    """Return images a second and memory of both ways to compute a step."""
    rows = []
    for stage, title in (("distill", "stage 1"), ("finetune", "stage 2")):
        measured = figures.get(stage, {})
        ours, theirs = measured.get("ours", {}), measured.get("the published way", {})
        for name, way in (("ours", ours), ("the published way", theirs)):
            if "failed" in way:
                rows.append([f"{title}, {measured['images']} images, {name}", way["failed"], ""])
            elif way:
                speed, memory = f"{way['images_per_second']:.0f}", f"{way['memory_gb']:.1f}"
                if name == "ours" and theirs.get("memory_gb"):
                    speed += f" ({way['images_per_second'] / theirs['images_per_second']:.2f}x)"
                    memory += f" ({way['memory_gb'] / theirs['memory_gb']:.2f}x)"
                rows.append([f"{title}, {measured['images']} images, {name}", speed, memory])
    lines = [_table(["step", "images a second", "memory, GB"], rows)]
    if "loading" in figures:
        loading = figures["loading"]
        lines.append(
            f"Loading, {loading['processes']} processes, JPEG files of {loading['side']}×{loading['side']}: "
            f"{loading['photos_per_second']:.0f} photos a second."
        )
    return "\n\n".join(lines)


def recipes_table(figures: Figures) -> str:
    """Return losses and speed of short runs."""
    rows = [
        [
            title,
            f"{row['first_loss']:.4g}",
            f"{row['last_loss']:.4g}",
            "yes" if row["loss_falls"] else "no",
            f"{row['steps'][1]}",
            f"{row['images_per_second']:.0f}",
        ]
        for title, row in figures.items()
    ]
    titles = ["run", "loss, first steps", "loss, last steps", "it falls", "resumed at step", "images a second"]
    return _table(titles, rows)


TABLES: dict[str, Callable[[Figures], str]] = {
    "parity": parity_table,
    "inference": inference_table,
    "photos": photos_table,
    "runtimes": runtimes_table,
    "search": search_table,
    "training": training_table,
    "recipes": recipes_table,
}


def marker_name(part: str) -> str:
    """Return the name of the markers around a part's table."""
    return f"benchmarks.gpu_tables, {part}"


def write_tables(docs: Path) -> None:
    """Write the tables of all parts into the pages of a folder, from the records in its folder `gpu`."""
    records = read_records(docs / "gpu")
    for part, page in PAGES.items():
        write_page(docs / page, part_text(part, records), marker_name(part))


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages, with the records in `gpu`")
    write_tables(parser.parse_args().docs)


if __name__ == "__main__":
    main()
