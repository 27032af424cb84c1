"""Photos a second from JPEG files to descriptors, next to the network on ready pixels, by benchmarks.encoder_overhead."""

import argparse
import os

from benchmarks.encoder_overhead import draw_photos, measure_own
from benchmarks.gpu.part import Setting

CHOICES = (("torch", "bf16"), ("torch", "fp32"), ("torch-compiled", "bf16"))  # backend and precision of the student


def measure(setting: Setting) -> None:
    """Measure the embedded model and the student, at several backends and precisions."""
    batch_size, batches, rounds = (2, 2, 1) if setting.tiny else (128, 8, 3)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    drawn = draw_photos(2 if setting.tiny else 128)
    photos = drawn * (batches * batch_size // len(drawn))
    setting.progress(f"{len(drawn)} photos are drawn")
    options = argparse.Namespace(device=setting.device, batch_size=batch_size, rounds=rounds, workers=cores)
    choices = [("embedded", "torch", "fp32")]
    if not setting.tiny:
        choices += [("embedded", "torch", "bf16"), *(("student", *choice) for choice in CHOICES)]
    for name, options.backend, options.precision in choices:
        setting.note(f"{name}, {options.backend} {options.precision}", measure_own(options, name, photos) | {"threads": cores})
