"""Shared by all tests: nothing may reach the network, and the markers of transformers' own suite are known."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

TRANSFORMERS_MARKERS = (
    "accelerate_tests",
    "bitsandbytes",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_kernels_test",
    "generate",
    "torch_compile_test",
    "torch_export_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' common model tests")
