"""The folder of an index is recognised by its manifest; a manifest that cannot be read at this moment is an error."""

import errno
import os
from pathlib import Path

import pytest

from d2vpr_hf.index import check_out, is_index
from tests.index.workers import begin


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, monkeypatch, number):
    """An index on a failing disk was called no index, with the advice to give another folder."""
    begin(tmp_path / "index").close()

    def fail(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    for function in (is_index, check_out):
        with pytest.raises(OSError, match=r"manifest cannot be read, so that nothing was changed .*manifest\.json") as caught:
            function(tmp_path / "index")
        assert caught.value.errno == number and not isinstance(caught.value, FileExistsError)


def test_other_folders_are_not_indexes(tmp_path):
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    (tmp_path / "file").write_text("text")
    assert is_index(begin(tmp_path / "index").folder)
    assert not any(is_index(tmp_path / name) for name in ("folder", "file", "missing"))
