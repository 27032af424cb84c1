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
"""The modes of the files that `save_pretrained` writes."""

import secrets
from pathlib import Path
from typing import Any


def set_new_file_mode(folder: Any) -> None:
    """Set the mode of weights and code in a folder to the one that the umask gives new files.

    safetensors creates files for their owner alone since version 0.8, and transformers copies code with the mode of its source.
    """
    new_file = Path(folder) / f".{secrets.token_hex(8)}.tmp"
    new_file.touch(exist_ok=False)
    mode = new_file.stat().st_mode
    new_file.unlink()
    for path in Path(folder).iterdir():
        if path.suffix in (".safetensors", ".py") and not path.is_symlink():
            path.chmod(mode)
