"""The table of recall against width is computed from prefixes and a PCA of the same photos."""

from benchmarks.descriptor_widths import widths_table
from d2vpr_hf import PlaceEncoder
from d2vpr_hf.projection import fit_projection
from d2vpr_hf.readers import read_places
from tests.conftest import save_folder, tiny_model
from tests.photos import save_row


def test_a_model_and_its_own_pca_agree(tmp_path):
    """The first numbers of a model with a PCA are a PCA to fewer numbers, so both columns have photos that find themselves."""
    save_row(tmp_path / "photos")
    plain = str(save_folder(tiny_model(), tmp_path / "plain"))
    fit_projection(tmp_path / "photos", tmp_path / "short", PlaceEncoder(plain), 6)
    table = read_places(tmp_path / "photos")
    lines = widths_table(str(tmp_path / "short"), plain, table, (table, table), [3, 6]).splitlines()
    assert lines[2:] == ["| 3 | 100.0 | 100.0 | 3 |", "| 6 | 100.0 | 100.0 | 6 |", "| all: 6 and 672 | 100.0 | 100.0 | |"]
