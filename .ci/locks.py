"""Write locks/: every package of the tests in the version of constraints.txt, with the SHA-256 of each of its files.

`make locks` calls this with the uv of locks/tools.txt. torch has files of its own, because it exists in several builds:
locks/torch.txt has the one of the package index with its GPU libraries, locks/torch-cpu.txt (by hand) the one without them.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPTIONS = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
TORCH = re.compile(r"(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")  # torch and the libraries that only torch needs
HEADER = "# Made by `make locks` from {source}. Install with `make locked`.\n"


def compile_lock(uv: str, *arguments: str) -> list[str]:
    """Return the pinned packages that uv resolves, each with the lines of its hashes."""
    command = [uv, "pip", "compile", *OPTIONS, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return re.findall(r"^\S.*\n(?: .*\n)*", done.stdout, re.MULTILINE)


def write_lock(name: str, source: str, packages: list[str]) -> None:
    """Write a file of locks/."""
    (ROOT / "locks" / f"{name}.txt").write_text(HEADER.format(source=source) + "".join(packages), encoding="utf-8")


def main(uv: str) -> None:
    """Write all files of locks/ that are not kept by hand."""
    packages = compile_lock(uv, "--extra", "dev", "--constraint", "constraints.txt", "pyproject.toml")
    source = "pyproject.toml and constraints.txt"
    write_lock("packages", source, [package for package in packages if not TORCH.match(package)])
    write_lock("torch", source, [package for package in packages if TORCH.match(package)])
    write_lock("tools", ".ci/tools.in", compile_lock(uv, ".ci/tools.in"))


if __name__ == "__main__":
    main(sys.argv[1])
