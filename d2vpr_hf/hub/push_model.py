"""Upload a model to the Hugging Face Hub, complete enough to be used without this package."""

import shutil
import tempfile
from pathlib import Path

from d2vpr_hf.hub.uploads import upload_files
from d2vpr_hf.pretrained.loading import load_image_processor, load_model


def push_model(
    source: str | Path,
    name: str,
    *,
    private: bool | None = None,
    commit_message: str = "Upload a model",
    token: str | None = None,
) -> str:
    """Upload a model folder in one commit; return the URL of the commit."""
    model, processor = load_model(source), load_image_processor(source)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        if (Path(source) / "README.md").is_file():
            shutil.copy(Path(source) / "README.md", scratch)
        files = {path.name: path for path in Path(scratch).iterdir() if path.is_file()}
        return upload_files(name, files, kind="model", private=private, commit_message=commit_message, token=token)
