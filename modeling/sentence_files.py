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
"""The files next to the weights by which sentence-transformers (5.4 and later) loads a model.

`SentenceTransformer(folder, trust_remote_code=True).encode(photo)` is then the descriptor, by modules of sentence-transformers.
Without these files it would average the tokens.
"""

import json
from pathlib import Path
from typing import Any

_MODULES = "sentence_transformers.models"
_SETTINGS = "config_sentence_transformers.json"
_POOLING_FOLDER = "1_Pooling"


def write_sentence_files(folder: Any, config: Any) -> None:
    """Write the files for a model of a configuration.

    A folder that sentence-transformers saved itself is left alone: it may have more modules, and its settings have a version.
    """
    settings_file = Path(folder) / _SETTINGS
    if settings_file.exists() and "__version__" in json.loads(settings_file.read_text()):
        return
    for name, content in sentence_files(config).items():
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")


def sentence_files(config: Any) -> dict[str, Any]:
    """Return the contents of the files by their names."""
    has_unit_length = not config.projection_dim or config.normalize_projection
    modules = (("Transformer", ""), ("Pooling", _POOLING_FOLDER))
    return {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}
            for number, (kind, path) in enumerate(modules)
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"image": {"method": "descriptor_tokens", "method_output_name": None}},
            "module_output_name": "token_embeddings",
        },
        # takes the only token of an image; the module before it would report the width of tokens as that of descriptors
        f"{_POOLING_FOLDER}/config.json": {
            "word_embedding_dimension": config.descriptor_dim,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
        _SETTINGS: {
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if has_unit_length else "euclidean",
        },
    }


__all__ = ["sentence_files", "write_sentence_files"]
