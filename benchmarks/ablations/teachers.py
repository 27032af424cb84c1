"""The second teacher of the table: the embedded model's, given CricaVPR's cross-image encoder and tuned with it."""

from pathlib import Path

from d2vpr_hf.assets.make_tiny import first_cities


def cross_image_teacher(work: Path) -> list[str]:
    """Give the command that makes it, as arguments of `python -m`."""
    return [
        *("d2vpr_hf.training.finetune", "teacher_gridtown_small", "--photos", str(work / "places")),
        *("--model", str(work / "teacher" / "best"), "--out", str(work / "cross-image-teacher")),
        *("--cities", *first_cities(10), "--max-steps", "300", "--cross-image-encoder", "add", "--resume"),
    ]


__all__ = ["cross_image_teacher"]
