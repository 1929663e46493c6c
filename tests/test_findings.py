"Findings: another threshold needs no search."

import pytest
from ambient_nb import copies
from ambient_nb.audit import audit
from ambient_nb.core import refused
from ambient_nb.data import digits

POOL, HELDOUT = digits()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


def test_another_threshold_needs_no_search(cache, monkeypatch):
    found = audit(HELDOUT.pixels[:100], POOL, HELDOUT.pixels[100:], cache=cache)
    fresh = audit(HELDOUT.pixels[:100], POOL, HELDOUT.pixels[100:], threshold=0.9, cache=cache)
    monkeypatch.setattr(copies, 'nearest_exact', None)
    assert (
        found.at(0.9).verdict == fresh.verdict != found.verdict
        and found.at(0.9).metrics['copied'] == fresh.metrics['copied']
    )
    for bad in (0, -1, 1.5, 'high'):
        assert 'threshold' in refused(found.at, bad)
