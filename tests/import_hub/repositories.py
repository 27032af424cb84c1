"""Repositories with code for torch.hub: a good one, and hostile or faulty variants of it."""

import io
import os
from typing import Any

import torch
from safetensors.torch import save

LICENSE = "MIT License\n\nPermission is hereby granted, free of charge, to any person\n"

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, scale=1.0):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, 4)
        self.scale = scale
    def forward(self, x):
        x = self.conv(x).relu().mean(dim=(2, 3))
        return nn.functional.normalize(x, dim=1) * self.scale
"""

HUBCONF = """
dependencies = ["torch"]
import torch
from net import Net

def tiny(width=8, address=None, scale=1.0):
    print("making", width)
    net = Net(width, scale)
    if address is not None:
        net.load_state_dict(torch.hub.load_state_dict_from_url(address, map_location="cpu"))
    return net

def from_safetensors(address, width=8):
    from pathlib import Path
    from safetensors.torch import load_file
    net = Net(width)
    file = Path(torch.hub.get_dir()) / "checkpoints" / "weights.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(file), progress=False)
    net.load_state_dict(load_file(file))
    return net

def parallel():
    return torch.nn.DataParallel(tiny())

class Several(torch.nn.Module):
    def __init__(self, form):
        super().__init__()
        self.net, self.form = Net(8), form
    def forward(self, x):
        descriptor, attention = self.net(x), x.mean(dim=1)
        if self.form == "tuple":
            return descriptor, attention
        if self.form == "dict":
            return {"attention": attention, "short": descriptor[:, :4] * 2, "descriptor": descriptor}
        return attention

def several(form="tuple"):
    return Several(form)

def text():
    return "not a network"

def missing_weights(address):
    return tiny(address=address)

class Broken(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = Net(8), kind
    def forward(self, x):
        y = self.net(x)
        return y / (y - y) if self.kind == "nan" else torch.nn.functional.normalize(y - 0.5 * y.mean(0), dim=1)

def broken(kind):
    return Broken(kind)

def nested():
    return torch.hub.load("other/backbone", "tiny", trust_repo=True, width=4)

def fail():
    raise RuntimeError("the authors' own error")

def leave():
    raise SystemExit(3)

def wait():
    import time
    time.sleep(60)

def environment():
    import os, json
    print("VARIABLES", json.dumps(dict(os.environ)), "STDIN", repr(__import__("sys").stdin.read()))
    raise RuntimeError("enough")
"""

FILES: dict[str, bytes | str] = {"hubconf.py": HUBCONF, "net.py": NET, "LICENSE": LICENSE, "README.md": "A network."}


def executed_at_import(marker: object) -> dict[str, bytes | str]:
    """Return a repository whose code leaves a mark when it is imported."""
    return FILES | {"net.py": f"open({str(marker)!r}, 'a').write('executed ')\n{NET}"}


def state_dict(width: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"conv.weight": torch.randn(width, 3, 4, 4, generator=generator), "conv.bias": torch.ones(width)}


def expected_descriptors(pixel_values: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the network's descriptors by functions of torch."""
    out = torch.nn.functional.conv2d(pixel_values, weights["conv.weight"], weights["conv.bias"], stride=4)
    return torch.nn.functional.normalize(out.relu().mean(dim=(2, 3)), dim=1)


class _Payload:
    def __init__(self, marker: object) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def weights_file(payload: object = None) -> bytes:
    """Return a state dict as torch saves it; with a payload, unpickling it touches a file."""
    out = io.BytesIO()
    extra: dict[str, Any] = {} if payload is None else {"payload": _Payload(payload)}
    torch.save(state_dict() | extra, out)
    return out.getvalue()


def safetensors_file() -> bytes:
    return save(state_dict())
