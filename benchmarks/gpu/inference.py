"""Part (b): latency and throughput of the network on a GPU, next to bare Dinov2-small and -base in the same run.

Pixels are on the device already. Rivals of a batch size and a precision take turns, call by call. A compiled rival has its
kernels also recorded as a CUDA graph. Shares of the peak relate to the measured product of large matrices.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.parity import number_type
from benchmarks.gpu.part import Setting
from benchmarks.network_timing import GMAC, alternate, bare_dinov2, finished, gemm_gflops, student
from d2vpr_hf.backends.cuda_graphs import ReplayedNetwork
from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.backends.torch_backend import TORCH_TYPES
from d2vpr_hf.modeling import D2VPRModel
from tests.networks import tiny_model

Call = Callable[[torch.Tensor], torch.Tensor]

SMALL, BASE = "Dinov2-small", "Dinov2-base"
OURS = "D²-VPR"
GRAPH = ", CUDA graph"
ROUNDS = {1: 40, 256: 12}
TINY_ROUNDS = {1: 1, 4: 1}
ATTENTION = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}


def measure(setting: Setting) -> None:
    """Measure rivals, the most important ones first."""
    torch._dynamo.config.recompile_limit = 64
    with number_type("fp32", setting.device):  # TF32, which is the default of convolutions, is not float32
        measure_rivals(setting)


def measure_rivals(setting: Setting) -> None:
    """Measure rivals with the number types that are set."""
    sizes = TINY_ROUNDS if setting.tiny else ROUNDS
    largest = max(sizes)
    side = 64 if setting.tiny else 8192
    for precision in ("bf16", "fp16", "fp32"):
        setting.note(f"peak {precision}", {"tflops": gemm_gflops(TORCH_TYPES[precision], side, setting.device) / 1e3})
    cases = [(precision, batch, precision == "bf16") for batch in (largest, 1) for precision in ("bf16", "fp16", "fp32")]
    for precision, batch, is_compiled in cases[::4] if setting.tiny else cases:  # compiling takes half a minute a network
        title = f"{precision}, batch {batch}"
        race(setting, title, precision, batch, sizes[batch], is_compiled=is_compiled)
        if title == f"bf16, batch {largest}":
            compare_attention(setting, largest, sizes[largest])


def race(setting: Setting, title: str, precision: str, batch: int, rounds: int, *, is_compiled: bool) -> None:
    """Let rivals take turns, and note their times and shares of the peak."""
    side = 70 if setting.tiny else 224
    pixels = torch.randn(batch, 3, side, side, device=setting.device)
    calls = dict(rivals(setting, TORCH_TYPES[precision], batch, is_compiled=is_compiled))
    working: dict[str, Callable[[], Any]] = {}
    for name, call in calls.items():
        try:
            warm_up(call, pixels)
        except Exception as error:  # a rival that a version of torch cannot run must not end the others
            setting.note(f"{title}, {name}", {"failed": f"{type(error).__name__}: {error}"[:300]})
        else:
            working[name] = partial(lambda call, pixels: finished(call(pixels)), call, pixels)
            setting.progress(f"{title}: {name} is ready")
    rows: dict[str, dict[str, float]] = alternate(working, rounds)
    peak = setting.figures[f"peak {precision}"]["tflops"]
    for name, row in rows.items():
        row["images_per_second"] = batch / row["median_ms"] * 1e3
        gmac = next((value for model, value in GMAC.items() if name.startswith(model)), None)
        if gmac is not None:
            row["share_of_peak"] = 2 * gmac * batch / row["median_ms"] / peak  # GFLOP / ms = TFLOP/s
    setting.note(title, rows)


def warm_up(call: Call, pixels: torch.Tensor) -> None:
    """Call a rival twice: the second call records a CUDA graph.

    Raises:
        RuntimeError: If it should have one and has none, so that its time would be that of the network without one.
    """
    for _ in range(2):
        finished(call(pixels))
    if isinstance(call, ReplayedNetwork) and not call.is_recorded(pixels.shape):
        raise RuntimeError("no CUDA graph was recorded; the log has the reason")


def rivals(setting: Setting, dtype: torch.dtype, batch: int, *, is_compiled: bool) -> Iterator[tuple[str, Call]]:
    """Yield names and calls of rivals. Each maps pixels on the device to descriptors or tokens."""
    model = make_model(setting)
    small, base = (make_bare(setting, size).to(dtype) for size in ("small", "base"))
    yield f"{OURS}, plain", _call(copy.deepcopy(model).to(dtype), dtype, lambda output: output.pooler_output)
    prepared = prepare(model, dtype)
    yield f"{OURS}, prepared", _call(prepared, torch.float32, lambda output: output.pooler_output)
    if setting.on_gpu:
        graphed = ReplayedNetwork(_call(prepared, torch.float32, lambda output: output.pooler_output))
        yield f"{OURS}, prepared{GRAPH}", graphed
    yield f"{SMALL}, bare", _call(small, dtype, lambda output: output.last_hidden_state[:, 0])
    if not is_compiled:
        return
    networks = {
        OURS: (prepared, torch.float32, lambda output: output.pooler_output),
        SMALL: (small, dtype, lambda output: output.last_hidden_state[:, 0]),
    }
    if batch > 1:
        networks[BASE] = (base, dtype, lambda output: output.last_hidden_state[:, 0])
    for name, (network, input_dtype, read) in networks.items():
        compiled = _call(compile_network(setting, network), input_dtype, read)
        yield f"{name}, compiled", compiled
        if setting.on_gpu:
            yield f"{name}, compiled{GRAPH}", ReplayedNetwork(compiled)


def compile_network(setting: Setting, network: nn.Module) -> Callable[..., Any]:
    """Compile a network for its fixed sizes; with tiny sizes it is traced only, because compiling for a CPU takes a minute."""
    return torch.compile(network, fullgraph=True, dynamic=False, backend="eager" if setting.tiny else "inductor")


def make_model(setting: Setting) -> D2VPRModel:
    """Return a student on the device."""
    return (tiny_model() if setting.tiny else student()).to(setting.device)


def make_bare(setting: Setting, size: str) -> nn.Module:
    """Return a bare DINOv2 on the device."""
    return bare_dinov2("tiny" if setting.tiny else size).to(setting.device)


def _call(network: Callable[..., Any], dtype: torch.dtype, read: Callable[[Any], torch.Tensor]) -> Call:
    """Return a network as a function of pixels in float32."""

    @torch.inference_mode()
    def call(pixels: torch.Tensor) -> torch.Tensor:
        return read(network(pixels.to(dtype)))

    return call


def compare_attention(setting: Setting, batch: int, rounds: int) -> None:
    """Note the time of the prepared network in bfloat16 with each kernel of scaled dot product attention."""
    prepared = prepare(make_model(setting), torch.bfloat16)
    call = _call(prepared, torch.float32, lambda output: output.pooler_output)
    side = 70 if setting.tiny else 224
    pixels = torch.randn(batch, 3, side, side, device=setting.device)
    figures: dict[str, Any] = {}
    for name, kernel in ATTENTION.items():
        try:
            with sdpa_kernel(kernel):
                figures[name] = alternate({name: lambda: finished(call(pixels))}, rounds)[name]
        except RuntimeError as error:  # a kernel that this device does not have
            figures[name] = {"failed": str(error).splitlines()[0][:200]}
    figures["torch's choice"] = alternate({"choice": lambda: finished(call(pixels))}, rounds)["choice"]
    setting.note(f"attention, bf16, batch {batch}", figures)
