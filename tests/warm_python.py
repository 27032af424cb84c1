"""New processes without the seconds that imports take: each is forked from one that has imported libraries.

Use `subprocess` where the imports themselves, or the start of Python, are tested.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = "import torch, transformers.modeling_utils, transformers.pipelines"
PACKAGE = "import d2vpr_hf.backends.torch_backend, d2vpr_hf.cli.commands, d2vpr_hf.modeling"
SERVER = """
import json, os, sys
exec(json.loads(sys.stdin.readline()))
for line in sys.stdin:
    code, sys.argv, folder, variables, *files = json.loads(line)
    if os.fork() == 0:
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
for descriptor, path in enumerate(files):
    os.dup2(os.open(path, os.O_RDWR), descriptor)
os.chdir(folder)
os.environ.clear()
os.environ.update(variables)
sys.stdin = open(0)
exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
"""


class WarmPython:
    """A process that has imported libraries, and runs programs in forks of itself as `python -c` does.

    Args:
        prelude: Code that the process runs once, before the first program; it prints nothing.
        environment: Environment of the process; libraries may read it when they are imported.
    """

    def __init__(self, prelude: str, environment: dict[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=os.sep,  # Python would find packages in the current folder first
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(prelude)

    def run(self, code: str, *arguments, cwd=".", environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """Run a program with arguments, a working folder, and an environment (`None`: that of this process); stdin is empty."""
        variables = dict(os.environ) if environment is None else environment
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("out", "err")]
            for file in files:
                file.touch()
            words = ["-c", *map(str, arguments)]
            self._send([code, words, str(Path(cwd).absolute()), variables, os.devnull, *map(str, files)])
            status = self._server.stdout.readline()
            assert status, "the process that forks has ended"
            return subprocess.CompletedProcess(words, int(status), *(file.read_text() for file in files))

    def _send(self, message) -> None:
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()


@functools.cache
def warm_libraries() -> WarmPython:
    """Return the process with torch and transformers, but without this package."""
    return WarmPython(LIBRARIES, dict(os.environ) | {"HF_HUB_OFFLINE": "1"})


@functools.cache
def warm_package() -> WarmPython:
    """Return the process with this package's command line and models."""
    return WarmPython(PACKAGE, dict(os.environ) | {"HF_HUB_OFFLINE": "1"})
