"Searches in processes of their own: settings, rounds, mistakes that are found."

import pytest
import torch

from ambient_nb import memorization, searches
from ambient_nb.checkpoints import load_json


def test_two_searches_in_turn(tmp_path, monkeypatch):
    "And one that is not installed, which is left out."
    case = searches.Search(30, 80, 48, k=3)
    rows = searches.search_rows(case, 2, ('ours', 'torch', 'usearch, int8'))
    assert [r['who'] for r in rows][:2] == ['ours', 'torch'] and all(len(r['seconds']) == 2 for r in rows)
    assert all(r['d'] == 48 and r['k'] == 3 and r['mib'] >= 0 for r in rows)
    assert (rows[0]['wrong'], rows[0]['off']) == (0, 0)
    kept = load_json(searches.keep_searches(tmp_path / 'rows.json', rows))
    assert kept['rows'] == rows and kept['provenance']['torch'] == torch.__version__
    assert len(searches.searches_table(rows)) == len(rows)


def test_a_process_finds_its_settings_and_ours_stay(monkeypatch):
    monkeypatch.setenv('OPENBLAS_CORETYPE', 'ZEN')
    with searches.environment(OPENBLAS_CORETYPE='HASWELL'):
        assert searches.os.environ['OPENBLAS_CORETYPE'] == 'HASWELL'
    assert searches.os.environ['OPENBLAS_CORETYPE'] == 'ZEN' and 'OPENBLAS_NUM_THREADS' not in searches.os.environ


@pytest.mark.parametrize('name', ['ours', 'faiss flat', 'torch', 'usearch, float32', 'usearch, int8'])
def test_every_contender_finds_the_neighbours(name):
    q, b = searches.Search(20, 60, 16).images()
    try:
        squared, positions = searches.CONTENDERS[name][0](q, b, 3)()
    except ImportError as e:
        pytest.skip(str(e))
    truth = memorization.nearest(q, b, 3)
    assert torch.equal(torch.as_tensor(positions), truth[1])
    assert torch.allclose(torch.as_tensor(squared).double(), truth[0].square(), atol=1.0)
