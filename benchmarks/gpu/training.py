"""Part (c): images a second and peak memory of training steps at the published batches, and of loading their photos.

Steps are those of benchmarks.training_step: stage 1 of a ViT-S student and a ViT-B teacher, and stage 2. Images are noise, on
which the cost does not depend.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.gpu.part import Setting
from benchmarks.training_step import PUBLISHED, Networks, Way, check_equal, our_way, published_way, time_steps
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.options import FinetuneOptions
from tests.networks import TINY, TINY_CRICAVPR
from tests.training.places import write_places

IMAGES = {"distill": 32, "finetune": 512}
ROUNDS = {"distill": 8, "finetune": 3}
OURS, THEIRS = "ours", "the published way"


def measure(setting: Setting) -> None:
    """Measure both stages, then loading."""
    networks = Networks(D2VPRConfig(**TINY, fusion_dropout=0.0), CricaVPRConfig(**TINY_CRICAVPR)) if setting.tiny else PUBLISHED
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32
    for stage, count in IMAGES.items():
        images = torch.randn(8 if setting.tiny else count, 3, *_size(setting), device=setting.device)
        check_equal(stage, setting.device, images[:8], networks)
        setting.progress(f"{stage}: both ways give the same loss")
        figures: dict[str, Any] = {"images": len(images)}
        ways = {
            OURS: partial(our_way, stage, setting.device, dtype, networks),
            THEIRS: partial(published_way, stage, setting.device, networks),
        }
        for name, make in ways.items():
            figures[name] = time_way(name, make, images, 1 if setting.tiny else ROUNDS[stage])
            setting.note(stage, figures)
    setting.note("loading", time_loading(setting))


def _size(setting: Setting) -> tuple[int, int]:
    return (70, 70) if setting.tiny else (224, 224)


def time_way(name: str, make: Callable[[], Way], images: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Return images a second and peak memory of a way; a way that needs more memory than there is has a note instead."""
    try:
        seconds, memory = time_steps({name: make()}, images, rounds)[name]
    except torch.OutOfMemoryError as error:
        return {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"}
    finally:
        if images.is_cuda:
            torch.cuda.empty_cache()
    return {"images_per_second": len(images) / seconds, "memory_gb": memory}


def time_loading(setting: Setting) -> dict[str, float]:
    """Return photos a second that the loading processes decode, resize and augment."""
    workers = 0 if setting.tiny else len(os.sched_getaffinity(0))
    side, places, batch_places = (70, 4, 4) if setting.tiny else (480, 128, 16)
    folder = write_places(setting.work / "places", places, photos=4, size=side, cities=("Athens",))
    ahead = max(1, 2 * workers)  # batches that the processes load before they are used
    count = max(1, 6 * workers)
    batches = ahead + count + ahead
    options = FinetuneOptions(
        out=str(setting.work / "unused"),
        model="embedded",
        photos=str(folder),
        image_size=list(_size(setting)),
        places_per_batch=batch_places,
        num_workers=workers,
        epochs=batches,
        max_steps=batches,
    )
    data = TrainingData(options, Accelerator())
    sizes = (len(batch.pixels) for batch in data.batches(0))
    return {"photos_per_second": steady_rate(sizes, ahead, count), "processes": workers, "side": side}


def steady_rate(sizes: Iterator[int], ahead: int, count: int) -> float:
    """Return photos a second of a loader that loads ahead, between two times at which its processes are equally busy.

    Args:
        sizes: Number of photos of each batch when it is loaded, of at least `ahead + count + ahead` batches.
        ahead: Batches that are loaded before they are used. This number is not measured at the beginning, where they may be
            loaded already, and at the end, where some processes have no work left.
        count: Batches that are measured.
    """
    for _ in range(ahead):
        next(sizes)
    start = time.perf_counter()
    photos = sum(next(sizes) for _ in range(count))
    return photos / (time.perf_counter() - start)
