"""Time from photo to descriptor: every backend and precision, and transformers' DINOv2, as a table, a figure and JSON.

    python benchmarks/inference_speed.py --work build/speed [--parts latency,throughput] [--rounds 30]

Everything is measured in one process with random weights, on which times do not depend. Rivals alternate call by call, and the
machine's product of large matrices is timed in the same run. Parts that were measured earlier stay in `speed.json`. GPUs are
measured by `benchmarks.gpu_report`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from network_timing import GMAC, Call, alternate, bare, gemm_gflops, student
from PIL import Image

from d2vpr_hf import D2VPRImageProcessor, PlaceEncoder, index_photos
from d2vpr_hf.backends.export_model import ExportOptions, export_model
from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.backends.torch_backend import PlainTorchBackend, TorchBackend
from d2vpr_hf.readers import open_photo

BASELINE = "Dinov2-small, bare, fp32"
BASES = {"Dinov2-base at 224, bare, fp32": 224, "Dinov2-base at 322, bare, fp32": 322}
GRAPHS = {
    "onnxruntime fp32": ("onnx", "fp32"),
    "onnxruntime int8": ("onnx-int8", "int8"),
    "openvino fp32": ("onnx", "fp32"),
    "openvino bf16": ("onnx", "bf16"),
    "openvino int8": ("onnx-int8", "int8"),
}
TORCH = {"torch fp32": "fp32", "torch bf16": "bf16"}
CONVERTED = {"onnxruntime fp32 of a model folder": "onnxruntime", "openvino fp32 of a model folder": "openvino"}
SIZES = (112, 168, 224, 322, 420, 518)


def prepare_graphs(work: Path) -> None:
    """Export the model unless it is exported. int8 is calibrated on noise: its time does not depend on the values."""
    generator = torch.Generator().manual_seed(0)
    photos = [torch.randint(0, 256, (3, 240, 320), generator=generator, dtype=torch.uint8) for _ in range(4)]
    student().save_pretrained(work / "model")
    D2VPRImageProcessor().save_pretrained(work / "model")
    for name, precision in (("onnx", "fp32"), ("onnx-int8", "int8")):
        if not (work / name).exists():
            options = ExportOptions("onnx", precision)
            export_model(student(), D2VPRImageProcessor(), work / name, options, photos, {"fingerprint": ""})


def rival(name: str, work: Path) -> Call:
    """Return the network with a name as a function of pixels."""
    if name == BASELINE:
        return bare("small")
    if name in BASES:
        return bare("base")
    if name in GRAPHS:
        return ExportedModel.open(work / GRAPHS[name][0]).open_backend(name.split()[0], GRAPHS[name][1]).encode
    if name in CONVERTED:
        return PlaceEncoder(work / "model", device="cpu", backend=CONVERTED[name]).backend.encode
    if name == "plain torch fp32":
        return PlainTorchBackend(student()).encode
    return PlaceEncoder(work / "model", device="cpu", precision=TORCH[name]).backend.encode


def race(names: Iterable[str], work: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Let rivals encode batches in turn."""
    images = {size: torch.randn(batch, 3, size, size) for size in (224, 322)}
    calls = {name: rival(name, work) for name in names}
    peak = gemm_gflops()
    rows = alternate({name: lambda n=name, c=call: c(images[BASES.get(n, 224)]) for name, call in calls.items()}, rounds)
    peak = max(peak, gemm_gflops())
    for name, row in rows.items():
        row["ratio_min"], row["ratio_median"] = (row[key] / rows[BASELINE][key] for key in ("min_ms", "median_ms"))
        gmac = GMAC["Dinov2-small"] if name == BASELINE else GMAC["D²-VPR"]
        if name not in BASES:
            row["share_of_fp32_gemm_peak"] = 2 * gmac * batch / row["min_ms"] / peak * 1e3
    return {
        "batch": batch,
        "rounds": rounds,
        "gemm_gflops": {"fp32": peak, "bf16": gemm_gflops(torch.bfloat16)},
        "rivals": rows,
    }


def latency(work: Path, rounds: int) -> dict[str, Any]:
    """Measure one image at a time."""
    return race([BASELINE, "plain torch fp32", *TORCH, *GRAPHS], work, 1, rounds)


def throughput(work: Path, rounds: int) -> dict[str, Any]:
    """Measure eight images at a time, in float32 and int8."""
    return race(
        [BASELINE, "torch fp32", "onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino int8"], work, 8, rounds
    )


def throughput_bf16(work: Path, rounds: int) -> dict[str, Any]:
    """Measure eight images at a time, in bfloat16."""
    return race([BASELINE, "torch fp32", "torch bf16", "openvino bf16"], work, 8, rounds)


def bases(work: Path, rounds: int) -> dict[str, Any]:
    """Measure one image at a time, and the backbones of SALAD, BoQ and MegaLoc."""
    return race([BASELINE, "torch fp32", *BASES], work, 1, rounds)


def batches(work: Path, rounds: int) -> dict[str, Any]:
    """Measure images a second at several batch sizes."""
    calls = {name: rival(name, work) for name in ("torch fp32", "openvino fp32", "openvino int8")}
    images = {batch: torch.randn(batch, 3, 224, 224) for batch in (1, 4, 16)}
    rows = alternate(
        {f"{name}, batch {batch}": lambda c=call, b=batch: c(images[b]) for name, call in calls.items() for batch in images},
        rounds,
    )
    for name, row in rows.items():
        row["images_per_second"] = int(name.rsplit(" ", 1)[1]) / row["median_ms"] * 1e3
    return {"rounds": rounds, "calls": rows}


def sizes(work: Path, rounds: int) -> dict[str, Any]:
    """Measure the cost of larger images, at batch 1."""
    backend = TorchBackend(student())
    images = {size: torch.randn(1, 3, size, size) for size in SIZES}
    rows = alternate({str(size): lambda p=pixels: backend.encode(p) for size, pixels in images.items()}, rounds)
    for size, row in rows.items():
        row["microseconds_per_patch"] = row["min_ms"] / (int(size) // 14) ** 2 * 1e3
    return {"rounds": rounds, "sizes": rows}


def memory(work: Path, rounds: int) -> dict[str, Any]:
    """Measure each rival in a new process, on eight images: seconds until the first descriptor, and peak memory."""
    rows = {}
    for name in (BASELINE, *TORCH, *GRAPHS, *CONVERTED):
        command = [sys.executable, __file__, "--work", str(work), "--alone", name]
        rows[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"rivals": rows}


def alone(name: str, work: Path) -> dict[str, float]:
    """Measure a rival in this process; `memory` starts it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    call = rival(name, work)
    call(torch.randn(1, 3, 224, 224))
    first = time.perf_counter() - start
    call(torch.randn(8, 3, 224, 224))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds_to_first": first, "peak_gigabytes": peak / 1e6, "imports_gigabytes": before / 1e6}


def photos(work: Path, rounds: int) -> dict[str, Any]:
    """Compare indexing JPEGs with encoding the same pixels alone, for 640x480 and for 12 megapixels."""
    model, processor = student(), D2VPRImageProcessor()
    encoder, backend = PlaceEncoder(model, processor), TorchBackend(model)
    folders = {
        "640x480": draw_photos(work / "96-small", 96, (480, 640)),
        "4000x3000": draw_photos(work / "large", 8, (3000, 4000)),
    }
    pixels = {name: _pixels(folder, processor) for name, folder in folders.items()}
    calls: dict[str, Callable[[], Any]] = {}
    for name, folder in folders.items():
        calls[f"{name}, encoder alone"] = lambda n=name: [backend.encode(batch) for batch in pixels[n].split(16)]
        calls[f"{name}, indexed"] = partial(_index, folder, encoder)
    rows = alternate(calls, max(2, rounds // 3))
    for name, row in rows.items():
        row["photos_per_second"] = len(pixels[name.split(",")[0]]) / row["median_ms"] * 1e3
    for name in folders:
        encoded, indexed = rows[f"{name}, encoder alone"], rows[f"{name}, indexed"]
        for kind in ("min", "median"):
            indexed[f"share_of_encoder_{kind}"] = encoded[f"{kind}_ms"] / indexed[f"{kind}_ms"]
    return {"rounds": max(2, rounds // 3), "calls": rows}


def decoding(work: Path, rounds: int) -> dict[str, Any]:
    """Compare decoding 12-megapixel JPEGs on one core: in full by Pillow, by the encoder, and at the least possible cost."""
    folders = [draw_photos(work / f"noise-{noise}", 1, (3000, 4000), noise) for noise in (6, 1.5, 0)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {}
    for photo in (next(folder.iterdir()) for folder in folders):
        calls = alternate(
            {
                "Pillow, full": lambda p=photo: Image.open(p).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR),
                "encoder, 224x224": partial(decode, photo, 224),
                "encoder, 112x112": partial(decode, photo, 112),
                "an eighth, decoded only": lambda p=photo: open_photo(p, (1, 1)),
            },
            rounds,
        )
        for row in calls.values():
            row["speed_up_min"], row["speed_up_median"] = (
                calls["Pillow, full"][key] / row[key] for key in ("min_ms", "median_ms")
            )
        rows[f"{photo.stat().st_size / 1e6:.1f} MB"] = calls
    torch.set_num_threads(threads)
    return {"rounds": rounds, "photos": rows}


def decode(photo: Path, side: int) -> Any:
    """Decode and resize a photo as the encoder does."""
    return D2VPRImageProcessor(size={"height": side, "width": side})(open_photo(photo, (side, side)), return_tensors="pt")


def draw_photos(folder: Path, count: int, size: tuple[int, int], noise: float = 6) -> Path:
    """Draw JPEGs with large structures and a camera's noise."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng(number)
            image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize(
                size[::-1], Image.Resampling.BICUBIC
            )
            noisy = np.asarray(image) + rng.normal(0, noise, (*size, 1))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.jpg", quality=90)
    return folder


def _pixels(folder: Path, processor: D2VPRImageProcessor) -> torch.Tensor:
    images = [open_photo(path, (224, 224)) for path in sorted(folder.iterdir())]
    return torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])


def _index(folder: Path, encoder: PlaceEncoder) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        index_photos(folder, Path(scratch) / "index", encoder)


PARTS = (latency, throughput, throughput_bf16, bases, batches, sizes, photos, decoding, memory)


def hardware() -> dict[str, Any]:
    """Return the processor, its instructions and the version of torch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in facts.items()}
    flags = names.get("flags", "").split()
    instructions = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "processor": names.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in instructions if flag in flags],
        "torch": torch.__version__,
    }


def table(measured: dict[str, Any]) -> str:
    """Return the races as a Markdown table: milliseconds, and ratios to bare Dinov2-small."""
    lines = [
        "| run | batch | median ms (ratio) | minimum ms (ratio) | of the fp32 GEMM peak |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part in ("latency", "throughput", "throughput_bf16", "bases"):
        for name, row in measured.get(part, {}).get("rivals", {}).items():
            cells = [f"{row[f'{kind}_ms']:.0f} ({row[f'ratio_{kind}']:.2f})" for kind in ("median", "min")]
            share = f"{100 * row['share_of_fp32_gemm_peak']:.0f} %" if "share_of_fp32_gemm_peak" in row else ""
            lines.append(f"| {name} | {measured[part]['batch']} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def plot(measured: dict[str, Any]) -> Figure:
    """Draw ratios to bare Dinov2-small, and cost against image size."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    bars, curve = figure.subplots(1, 2)
    first, bases = (measured.get(part, {}).get("rivals", {}) for part in ("latency", "bases"))
    rivals = first | {name: row for name, row in bases.items() if name in BASES}
    rows = {name: row["ratio_median"] for name, row in rivals.items()}
    bars.barh(list(rows), list(rows.values()), color=["0.6" if "bare" in name else "tab:blue" for name in rows])
    bars.invert_yaxis()
    bars.axvline(1, color="0.3", linewidth=0.8)
    bars.set_xlabel("time at batch 1 over bare Dinov2-small's (median)")
    by_size = measured.get("sizes", {}).get("sizes", {})
    curve.plot([int(size) ** 2 / 1e3 for size in by_size], [row["min_ms"] for row in by_size.values()], "o-")
    curve.set(xlabel="thousand pixels", ylabel="ms, torch fp32, batch 1 (minimum)", xlim=(0, None), ylim=(0, None))
    figure.suptitle(f"{measured['hardware']['processor']}, {measured['hardware']['cores']} cores", fontsize=9)
    return figure


def main() -> None:
    """Measure the chosen parts, and show all parts that were ever measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/speed"), help="folder of graphs, photos and results")
    parser.add_argument("--parts", default=",".join(part.__name__ for part in PARTS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(alone(arguments.alone, arguments.work)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    prepare_graphs(arguments.work)
    file = arguments.work / "speed.json"
    measured = json.loads(file.read_text()) if file.exists() else {}
    measured["hardware"] = hardware()
    parts = {part.__name__: part for part in PARTS}
    for name in filter(None, arguments.parts.split(",")):
        measured[name] = parts[name](arguments.work, arguments.rounds)
        file.write_text(json.dumps(measured, indent=1) + "\n")
    print(table(measured))
    plot(measured).savefig(arguments.work / "speed.png", dpi=120)


if __name__ == "__main__":
    main()
