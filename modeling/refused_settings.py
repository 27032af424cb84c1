# Copyright 2026 The D2-VPR for Hugging Face authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Refuse settings of a config.json that load code or other repositories, which transformers obeys without `trust_remote_code`.

`attn_implementation` can name a repository of compiled kernels; so do the words for FlashAttention where it is not installed,
and some values of `quantization_config`. Arguments of the caller are not checked: they are the caller's own choice.
"""

import re
from collections.abc import Iterator
from typing import Any

# implementations that are part of torch or transformers
_PLAIN_IMPLEMENTATIONS = (None, "", "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")
_IMPLEMENTATION = re.compile(r"_*(attn|experts)_implementation(_internal)?")
# of weights that their own installed library restores; others fetch compiled kernels from the Hub
_PLAIN_QUANTIZATION = ("bitsandbytes", "quanto", "torchao", "hqq", "compressed-tensors")
_ATTENTION = ("attn_implementation", "_attn_implementation")
_KERNELS = ("kernel_config", "kernel_mapping", "use_kernels", "use_kernel")
_CODE = ("custom_pipelines", "custom_generate")
_OTHER_MODELS = ("architecture", "backbone", "base_model_name_or_path")  # names of timm; an address is another repository
_MAX_TABLES = 10_000


def refuse_code(values: Any, source: Any) -> None:
    """Raise ValueError if the contents of a config.json, or of a table in it, would load code or another repository.

    Args:
        values: The contents.
        source: Folder or Hub id, for the message.
    """
    for key, value in _entries(values):
        reason = _problem(key, value)
        if reason is not None:
            raise ValueError(
                f"The configuration of {source} has `{key}`: {str(value)[:80]!r}, which {reason}. This is refused. If you "
                "trust the model, give a copy of its folder without this entry, or `attn_implementation` to `load_model`, "
                "which replaces a stored one."
            )


def with_attention(values: dict[str, Any], attention: Any) -> dict[str, Any]:
    """Return the contents of a config.json without their attention, if the caller names another one.

    transformers prefers the stored one to the caller's.

    Args:
        values: The contents.
        attention: The argument `attn_implementation` of the caller; only one word replaces those of all parts.
    """
    if not isinstance(attention, str):
        return values
    return {key: value for key, value in values.items() if key not in _ATTENTION}


def _problem(key: str, value: Any) -> str | None:
    """Return the reason why an entry is refused; `None` for an entry that is allowed."""
    if _IMPLEMENTATION.fullmatch(key):
        words = list(value.values()) if isinstance(value, dict) else [value]
        if any(not isinstance(word, str | None) or word not in _PLAIN_IMPLEMENTATIONS for word in words):
            return "may download a compiled kernel and run it"
    if key.lstrip("_") in _KERNELS and value:
        return "may download a compiled kernel and run it"
    if key.lstrip("_") in _CODE and value:
        return "names code to run"
    if key == "quantization_config" and value:
        method = value.get("quant_method") if isinstance(value, dict) else value
        is_bits = isinstance(value, dict) and method is None and (value.get("load_in_8bit") or value.get("load_in_4bit"))
        if not is_bits and str(method) not in _PLAIN_QUANTIZATION:
            return f"is restored by code that is fetched; allowed are {', '.join(_PLAIN_QUANTIZATION)}"
    if key == "auto_map" and "--" in str(value):
        return "names code in another repository"
    if key in _OTHER_MODELS and isinstance(value, str) and re.search(r"[/:\\]", value):
        return "names another repository"
    return None


def _entries(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of a table and of all tables and lists in it.

    Raises:
        ValueError: If there are more tables than any configuration has.
    """
    pending = [values]
    for _ in range(_MAX_TABLES):
        if not pending:
            return
        current = pending.pop()
        if isinstance(current, dict):
            yield from ((str(key), value) for key, value in current.items())
            pending += [value for value in current.values() if isinstance(value, dict | list | tuple)]
        elif isinstance(current, list | tuple):
            pending += [value for value in current if isinstance(value, dict | list | tuple)]
    raise ValueError(f"The configuration has more than {_MAX_TABLES} tables and lists, more than any model has.")


__all__ = ["refuse_code", "with_attention"]
