"""Write locks/: every package of the tests in the version of constraints.txt, with the SHA-256 of each of its files.

`make locks` calls this with the uv of locks/tools.txt. torch has files of its own, because it exists in several builds:
locks/torch.txt has the one of the package index with its GPU libraries, locks/torch-cpu.txt (by hand) the one without them.
locks/docs.txt has the packages that only the documentation site needs.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPTIONS = ["--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
PYTHON = "3.11"
DOCS_PYTHON = "3.11.5"  # the lowest of a library of mkdocs-material
TORCH = re.compile(r"(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")  # torch and the libraries that only torch needs
HEADER = "# Made by `make locks` from {source}. {use}\n"


def compile_lock(uv: str, *arguments: str, python: str = PYTHON) -> list[str]:
    """Return the pinned packages that uv resolves, each with the lines of its hashes."""
    command = [uv, "pip", "compile", *OPTIONS, "--python-version", python, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return re.findall(r"^\S.*\n(?: .*\n)*", done.stdout, re.MULTILINE)


def name_of(package: str) -> str:
    """Return the name of a pinned package."""
    return package.partition("==")[0]


def write_lock(name: str, source: str, use: str, packages: list[str]) -> None:
    """Write a file of locks/."""
    (ROOT / "locks" / f"{name}.txt").write_text(HEADER.format(source=source, use=use) + "".join(packages), encoding="utf-8")


def main(uv: str) -> None:
    """Write all files of locks/ that are not kept by hand."""
    project = ["--constraint", "constraints.txt", "pyproject.toml"]
    packages = compile_lock(uv, "--extra", "dev", *project)
    names = {name_of(package) for package in packages}
    documentation = compile_lock(uv, "--extra", "dev", "--extra", "docs", *project, python=DOCS_PYTHON)
    source = "pyproject.toml and constraints.txt"
    installed = "Install with `make locked`."
    write_lock("packages", source, installed, [package for package in packages if not TORCH.match(package)])
    write_lock("torch", source, installed, [package for package in packages if TORCH.match(package)])
    write_lock(
        "docs",
        source,
        "Only the documentation site needs these.",
        [package for package in documentation if name_of(package) not in names],
    )
    write_lock(
        "tools", ".ci/tools.in", "`make locks`, `make audit` and `make sbom` use these.", compile_lock(uv, ".ci/tools.in")
    )


if __name__ == "__main__":
    main(sys.argv[1])
