"""Code is taken from full commits only, and unpacked within one folder."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.import_hub import archive
from d2vpr_hf.import_hub.archive import fetch_code, hash_files
from d2vpr_hf.import_hub.hub_source import HubSource, parse_entry, parse_source
from tests.import_hub.fake_github import COMMIT, NEW_COMMIT, FakeGitHub, zip_of

FILES = {"hubconf.py": "dependencies = ['torch']\n", "models/net.py": "WIDTH = 4\n", "LICENSE": "MIT License\n"}


def test_a_commit_of_a_repository_is_unpacked_without_its_top_folder(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    digest = fetch_code(HubSource("owner/name", COMMIT), tmp_path / "code")
    files = {path.relative_to(tmp_path / "code").as_posix() for path in (tmp_path / "code").rglob("*") if path.is_file()}
    assert files == set(FILES)
    assert digest == hash_files(tmp_path / "code")
    assert github.requests == [f"/owner/name/archive/{COMMIT}.zip"]


def test_a_folder_and_a_zip_file_of_the_same_files_have_the_same_hash(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (tmp_path / "code.zip").write_bytes(zip_of({f"code/{name}": content for name, content in FILES.items()}))
    first = fetch_code(HubSource(str(folder), None), tmp_path / "first")
    assert fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / "second") == first
    (folder / "models" / "net.py").write_text("WIDTH = 5\n")
    assert fetch_code(HubSource(str(folder), None), tmp_path / "third") != first


@pytest.mark.parametrize("name", ["../evil.py", "name/../../evil.py", "/etc/evil.py", "C:/evil.py", "name\\..\\evil.py"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "code.zip").write_bytes(zip_of({"name/hubconf.py": "", name: "print()"}))
    with pytest.raises(ValueError, match="leaves its folder"):
        fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / "in" / "code")
    assert not list(tmp_path.rglob("evil.py"))
    assert not list((tmp_path / "in").rglob("*.py"))


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "code.zip").write_bytes(zip_of({"name/hubconf.py": ""}, links={"name/data": "/etc"}))
    with pytest.raises(ValueError, match="link or special file, 'name/data'"):
        fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / "code")
    assert not any((tmp_path / "code").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["/etc", "/etc/passwd"])
def test_links_in_a_folder_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "data").symlink_to(target)
    with pytest.raises(ValueError, match="link or special file"):
        fetch_code(HubSource(str(tmp_path / "code"), None), tmp_path / "copy")


def test_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code.zip").write_bytes(zip_of({f"name/{number}": "0" * 100 for number in range(20)}))
    source = HubSource(str(tmp_path / "code.zip"), None)
    monkeypatch.setattr(archive, "MAX_FILES", 10)
    with pytest.raises(ValueError, match="has 20 files"):
        fetch_code(source, tmp_path / "first")
    monkeypatch.setattr(archive, "MAX_FILES", 100)
    monkeypatch.setattr(archive, "MAX_BYTES", 1999)
    with pytest.raises(ValueError, match="at most 100 files"):
        fetch_code(source, tmp_path / "second")


def test_an_archive_that_understates_its_size_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("hubconf.py", "0" * 100_000)
    content = out.getvalue().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "code.zip").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / "code")


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "code.zip").write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / "code")


def test_an_archive_of_another_commit_is_refused(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES, comment=NEW_COMMIT)
    with pytest.raises(ValueError, match=f"sent an archive of '{NEW_COMMIT}' for the commit {COMMIT}"):
        fetch_code(HubSource("owner/name", COMMIT), tmp_path / "code")


def test_a_commit_that_does_not_exist_is_an_error(github: FakeGitHub, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"has no commit {COMMIT}"):
        fetch_code(HubSource("owner/name", COMMIT), tmp_path / "code")


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="Without a network, give a folder or zip file"):
        fetch_code(HubSource("owner/name", COMMIT), tmp_path / "code")


@pytest.mark.parametrize("reference", ["@main", "@v1.0", f"@{COMMIT[:12]}", ""])
def test_a_reference_that_may_change_is_refused_with_its_commit(github: FakeGitHub, reference: str) -> None:
    github.files[f"/repos/owner/name/commits/{reference[1:] or 'HEAD'}"] = NEW_COMMIT.encode()
    with pytest.raises(ValueError, match=f"give owner/name@{NEW_COMMIT}"):
        parse_entry(f"owner/name{reference}:model")


def test_without_an_answer_the_error_names_the_command_that_finds_the_commit(github: FakeGitHub) -> None:
    with pytest.raises(ValueError, match=f"`git ls-remote {github.url}/owner/name main` prints the commit"):
        parse_source("owner/name@main")


@pytest.mark.parametrize(
    "text", ["owner/name", f"owner/name@{COMMIT}", f"owner/name@{COMMIT}:", f"owner/name@{COMMIT}:a-b", f"name@{COMMIT}:model"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        parse_entry(text)


def test_a_commit_and_a_folder_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_entry(f"owner/name@{COMMIT}:model") == (HubSource("owner/name", COMMIT), "model")
    assert parse_entry(f"{tmp_path}:model") == (HubSource(str(tmp_path.resolve()), None), "model")
    with pytest.raises(FileNotFoundError, match="no folder or zip file"):
        parse_entry(f"{tmp_path / 'missing'}:model")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w", method) as file:
        file.writestr("name/hubconf.py", "print()")
    with pytest.raises(ValueError, match="not compressed as usual"):
        fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / "code")


def test_damaged_archives_are_errors(tmp_path: Path) -> None:
    content = zip_of({"name/hubconf.py": "print()\n" * 9, "name/" + "a/" * 3000 + "net.py": ""})
    random = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(content)
        for position in random.integers(30, 70, 3):
            damaged[position] = random.integers(256)
        (tmp_path / "code.zip").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"code\.zip|archive"):
            fetch_code(HubSource(str(tmp_path / "code.zip"), None), tmp_path / str(number))
