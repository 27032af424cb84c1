"""Take five steps of the recipe for 8 GPUs with tiny models; `test_eight_processes.py` starts this as torchrun does.

Usage: eight_processes.py OUT ROOT TEACHER STUDENT
"""

import sys

from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.options import DistillOptions, parse_options
from tests.training.places import CITIES
from tests.training.two_processes import compute_in_float64


def main():
    out, root, teacher, student = sys.argv[1:]
    compute_in_float64()
    flags = ["--out", out, "--photos", root, "--teacher", teacher, "--model", student, "--cities", *CITIES, "--max-steps", "5"]
    flags += ["--image-size", "42", "42", "--num-workers", "0", "--log-every", "1", "--checkpoint-every", "100"]
    distill(parse_options(DistillOptions, ["distill_gsv_cities_8_gpus", *flags]))


if __name__ == "__main__":
    main()
