"""Build the source distribution and the wheel into dist/, equal to the byte on every machine: `make dist`.

Times are those of SOURCE_DATE_EPOCH, or of the last commit; modes, owners and the order of files are fixed. The wheel is built
from the source distribution, so that both have the same files.
"""

import argparse
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def source_date(root: Path) -> int:
    """Return the time of SOURCE_DATE_EPOCH, or of the last commit, in seconds.

    Raises:
        SystemExit: If there is neither.
    """
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{root} has no commit whose time the files could get; set SOURCE_DATE_EPOCH to seconds since 1970.")
    return int(done.stdout)


def normalize(archive_path: Path, seconds: int) -> None:
    """Write a source distribution again, with one time, owner and mode for all files, in the order of their names."""
    packed = io.BytesIO()
    with tarfile.open(archive_path) as source, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target:
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.size = member.type, member.size
            entry.mtime = seconds
            entry.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            target.addfile(entry, source.extractfile(member) if member.isfile() else None)
    archive_path.write_bytes(gzip.compress(packed.getvalue(), mtime=seconds))


def build(root: Path, folder: Path) -> None:
    """Build both distributions of the project in `root` into `folder`, with the installed setuptools."""
    os.umask(0o022)  # modes of files in the wheel
    seconds = source_date(root)
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(seconds)}
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, "--sdist", str(root)], check=True, env=environment)
    archive_path = max(folder.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime_ns)
    normalize(archive_path, seconds)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(archive_path) as archive:
            archive.extractall(scratch, filter="tar")
        subprocess.run([*command, "--wheel", str(next(Path(scratch).iterdir()))], check=True, env=environment)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the project")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the distributions")
    options = parser.parse_args()
    build(options.root, options.out)
