"""What students are distilled from: a teacher, and the same with CricaVPR's cross-image encoder."""

from pathlib import Path

_RATE = "1.5e-4"  # 3e-4 was slower, and 1e-3 forgot what stage 0 had taught: docs/LOG.md


def list_teachers(work: Path) -> dict[str, list[str]]:
    """List the commands by the folders that they make, as arguments of `python -m`."""
    return {
        "teacher": _tune(work / "teacher0" / "best", work / "teacher", work, "--max-steps", "1500"),
        "cross-image-teacher": _tune(
            *(work / "teacher" / "best", work / "cross-image-teacher", work),
            *("--max-steps", "300", "--cross-image-encoder", "add"),
        ),
    }


def _tune(model: Path, out: Path, work: Path, *options: str) -> list[str]:
    paths = ["--photos", str(work / "places"), "--model", str(model), "--out", str(out)]
    cities = [f"Gridtown{seed}" for seed in range(101, 111)]
    often = ["--validate-every", "250", "--checkpoint-every", "250"]
    return [
        *("d2vpr_hf.training.finetune", "teacher_gridtown_small", *paths, "--cities", *cities),
        *("--learning-rate", _RATE, *often, *options, "--resume"),
    ]


__all__ = ["list_teachers"]
