"""Steps that the tests of the stores of services share: records of searches, another user's machine, builds that are killed."""

import json
from pathlib import Path

import pytest

from d2vpr_hf.index import PlaceIndex, derived_store
from d2vpr_hf.utils import confirmed_names
from tests.index.test_compression import check_exact, named, unit
from tests.index.workers import begin

DAMAGES = {  # part of the warning for each damage of the 23 rows at a service
    "gone": "is gone",
    "of other rows": "holds 5 rows, the descriptors are 23",
    "unreachable": "did not answer",
}


def record_searches(monkeypatch, store):
    """Return a list that gets the number of queries of each search of a store: else an exact search could pass for one."""
    counts, search = [], store.search
    monkeypatch.setattr(store, "search", lambda self, q, *rest: counts.append(len(q)) or search(self, q, *rest))
    return counts


def forget_addresses(monkeypatch, folder: Path) -> None:
    """Confirm no address, as on the machine of another user, whose settings are in a folder."""
    monkeypatch.setenv(confirmed_names.FOLDER_VARIABLE, str(folder))
    monkeypatch.setattr(confirmed_names, "_given", {"models": set(), "addresses": set()})


def redirect(index: PlaceIndex, file: str, uri: str, data: dict[str, str]) -> None:
    """Record another, confirmed address of the data of a store, and hide the change from the checksums."""
    confirmed_names.confirm("addresses", uri)
    store = next(index.folder.glob("derived-*"))
    (store / file).write_text(json.dumps({"uri": uri} | data))
    (store / "checksums.json").unlink()


def check_damage(index: PlaceIndex, damage: str, searches: list[int], caplog) -> None:
    """Check that damaged data at a service are named and not searched, and that a build writes new ones."""
    opened = PlaceIndex.open(index.folder)
    assert opened.store_is_fresh is False
    assert DAMAGES[damage] in caplog.text and "The search is exact" in caplog.text
    check_exact(opened)
    assert not searches
    opened.build_store()
    check_exact(PlaceIndex.open(index.folder))
    assert searches == [5]


def check_killed_build(folder: Path, monkeypatch, list_data, **store: str) -> None:
    """Check that data of a build that was killed are removed by the next one, which writes others as rows have changed."""
    index = begin(folder)
    index.add(unit(9, 0), named("a", 9))
    index.flush()

    class Killed(BaseException):
        pass

    def killed(folder, name, write):
        write(folder / f"{name}.tmp")
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(derived_store.atomic_files, "store_folder", killed)
        index.build_store(**store)
    (left,) = list_data()
    again = PlaceIndex.open(folder)
    again.remove(["a1.jpg"])
    again.build_store()
    assert len(list_data()) == 1 and left not in list_data()
    check_exact(again)


def check_not_contacted(folder: Path, uri: str, connections: list, caplog) -> None:
    """Check that an index is searched and changed without a connection to an address that is not confirmed."""
    opened = PlaceIndex.open(folder)
    check_exact(opened)
    assert f"set the environment variable D2VPR_ADDRESSES={uri}" in caplog.text and "The search is exact" in caplog.text
    opened.remove(["a1.jpg"])
    opened.build_store()
    opened.build_store("none", store="faiss")
    assert not connections and "were not removed" in caplog.text
