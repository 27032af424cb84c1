"""A stand-in for the Hugging Face Hub that keeps its repositories in a folder with the layout of the Hub cache."""

import fnmatch
import shutil
from types import SimpleNamespace


class FakeHub:
    """Replaces `HfApi`; it has only the methods that this package calls."""

    def __init__(self, cache):
        self.cache = cache
        self.created = {}
        self.variables = {}

    def __call__(self, token=None):
        return self

    def snapshot(self, name, repo_type):
        return self.cache / f"{repo_type}s--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)

    def create_repo(self, name, *, repo_type, private, exist_ok, **options):
        assert exist_ok
        self.created[name] = {"repo_type": repo_type, "private": private, **options}
        snapshot = self.snapshot(name, repo_type)
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
        return SimpleNamespace(repo_id=name)

    def add_space_variable(self, name, key, value):
        self.variables[key] = value

    def upload_folder(self, *, repo_id, repo_type, folder_path, delete_patterns, commit_message, allow_patterns=("*",)):
        snapshot = self.snapshot(repo_id, repo_type)
        for path in snapshot.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in delete_patterns):
                path.unlink()
        for path in folder_path.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, snapshot)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")
