"""Time of `import d2vpr_hf` and of `d2vpr --help`, the start of the interpreter included.

    python benchmarks/import_time.py [--rounds 10]

Times are the least of some rounds, because other work on the machine only adds time. tests/test_packaging.py checks the modules
that each command loads, which cause most of the time.
"""

import argparse
import subprocess
import sys
import time

CASES = {
    "interpreter alone": ("-c", "pass"),
    "import d2vpr_hf": ("-c", "import d2vpr_hf"),
    "d2vpr --help": ("-m", "d2vpr_hf", "--help"),
}


def seconds(arguments: tuple[str, ...]) -> float:
    """Return the seconds that a new interpreter takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print a table of the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="runs of each case")
    rounds = parser.parse_args().rounds
    print("| command | seconds |\n| --- | --- |")
    for name, arguments in CASES.items():
        print(f"| `{name}` | {min(seconds(arguments) for _ in range(rounds)):.2f} |")


if __name__ == "__main__":
    main()
