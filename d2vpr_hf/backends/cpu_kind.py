"""The kind of processor: the instruction sets that decide which kernels a runtime uses."""

import os
import platform

import torch

_INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512_bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "dotprod", "i8mm")


def cpu_kind() -> str:
    """Return the kind of this processor, such as `"x86_64 avx2 avx512_bw avx512_vnni"`.

    Runtimes may round differently on two kinds. `ONEDNN_MAX_CPU_ISA`, which limits OpenVINO's kernels, is part of the kind.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        names = [name for name in _INSTRUCTION_SETS if capabilities.get(name)]
    else:  # an older torch
        names = [torch.backends.cpu.get_cpu_capability().lower()]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if limit:
        names.append(f"ONEDNN_MAX_CPU_ISA={limit}")
    return " ".join([platform.machine(), *names])
