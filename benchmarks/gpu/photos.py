"""Photos a second from JPEG files to descriptors, next to the network on ready pixels, by benchmarks.encoder_overhead."""

import argparse
import os

from benchmarks.encoder_overhead import draw_photos, measure_own
from benchmarks.gpu.part import Setting

CHOICES = (  # model, backend, precision, and whether the GPU resizes
    ("student", "torch", "bf16", True),
    ("student", "torch", "bf16", False),
    ("embedded", "torch", "bf16", True),
    ("student", "torch-compiled", "bf16", True),
    ("student", "torch", "fp32", False),
    ("embedded", "torch", "fp32", False),
)


def measure(setting: Setting) -> None:
    """Measure the embedded model and the student, at several backends and precisions."""
    batch_size, batches, rounds = (2, 2, 1) if setting.tiny else (128, 8, 3)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    drawn = draw_photos(2 if setting.tiny else 128)
    photos = drawn * (batches * batch_size // len(drawn))
    setting.progress(f"{len(drawn)} photos are drawn")
    options = argparse.Namespace(device=setting.device, batch_size=batch_size, rounds=rounds, workers=cores)
    for name, options.backend, options.precision, options.resize_on_gpu in CHOICES[-1:] if setting.tiny else CHOICES:
        resized = ", resized on the GPU" if options.resize_on_gpu else ""
        title = f"{name}, {options.backend} {options.precision}{resized}"
        try:
            figures = measure_own(options, name, photos) | {"threads": cores}
        except Exception as error:  # such as a missing compiler, which must not end the other choices
            figures = {"failed": f"{type(error).__name__}: {error}"[:300]}
        setting.note(title, figures)
