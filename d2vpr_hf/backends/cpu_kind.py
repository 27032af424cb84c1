"""The kind of processor: the instruction sets that decide which kernels a runtime uses."""

import os
import platform
import re
from pathlib import Path

_INSTRUCTION_SETS = {  # in the order of the text: the name in torch, and in Linux's list of a processor's features
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512_bw": "avx512bw",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
}
_CPU_INFO = Path("/proc/cpuinfo")


def cpu_kind() -> str:
    """Return the kind of this processor, such as `"x86_64 avx2 avx512_bw avx512_vnni"`.

    Runtimes may round differently on two kinds. `ONEDNN_MAX_CPU_ISA`, which limits OpenVINO's kernels, is part of the kind.
    """
    names = _named_by_linux()
    names = _named_by_torch() if names is None else names
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if limit:
        names.append(f"ONEDNN_MAX_CPU_ISA={limit}")
    return " ".join([platform.machine(), *names])


def _named_by_linux() -> list[str] | None:
    """Return the instruction sets that Linux lists for this processor; `None` on another system."""
    try:
        features = re.search(r"^(?:flags|Features)\s*:(.*)$", _CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    if features is None:
        return None
    words = set(features[1].split())
    return [name for name, word in _INSTRUCTION_SETS.items() if word in words]


def _named_by_torch() -> list[str]:
    """Return the instruction sets that torch finds; none where torch is not installed."""
    try:
        import torch
    except ImportError:
        return []
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return [name for name in _INSTRUCTION_SETS if capabilities.get(name)]
    return [torch.backends.cpu.get_cpu_capability().lower()]  # an older torch
