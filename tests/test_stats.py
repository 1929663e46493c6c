"Intervals equal to those of scipy, and they cover."

import json

import numpy as np
import pytest
import torch

from ambient_nb.core import BadInput, rng
from ambient_nb.stats import Estimate, bootstrap, over_seeds, paired, wilson


def normal(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=torch.float64).numpy()


@pytest.mark.parametrize('k, n', [(0, 50), (1, 50), (17, 50), (50, 50), (541, 1000)])
def test_wilson_equals_scipy(k, n):
    from scipy.stats import binomtest

    e, ci = wilson(k, n), binomtest(k, n).proportion_ci(0.95, 'wilson')
    assert (e.value, e.lo, e.hi) == pytest.approx((k / n, ci.low, ci.high), abs=1e-12) and e.over == 'images'


def test_over_seeds_equals_scipy():
    from scipy.stats import t

    v = [54.1, 50.3, 57.9]
    e, (lo, hi) = over_seeds(v), t.interval(0.95, 2, np.mean(v), np.std(v, ddof=1) / 3**0.5)
    assert (e.lo, e.hi, e.n, e.over) == (pytest.approx(lo), pytest.approx(hi), 3, 'seeds')
    assert over_seeds([5.0]).lo is None and str(over_seeds([5.0])) == '5'


def test_pairing_removes_shared_luck():
    luck = 10 * normal(5)
    assert paired(luck + 1, luck).value == pytest.approx(1) and paired(luck + 1, luck).lo > 0.999
    with pytest.raises(BadInput):
        paired([1, 2], [1, 2, 3])


def test_bootstrap_is_a_function_of_its_generator():
    before, v = torch.get_rng_state(), normal(200)
    e = bootstrap(v, np.mean, generator=rng(0, 'b'))
    assert e == bootstrap(v, np.mean, generator=rng(0, 'b')) != bootstrap(v, np.mean, generator=rng(1, 'b'))
    assert e.hi - e.lo == pytest.approx(2 * 1.96 * v.std() / 200**0.5, rel=0.15)
    assert torch.equal(before, torch.get_rng_state())


def test_estimate_round_trip_and_print():
    for e in (wilson(541, 1000), over_seeds([3.0])):
        assert Estimate.from_dict(json.loads(json.dumps(e.to_dict()))) == e
    assert str(Estimate(54.1, 51.0, 57.2, 1000)) == '54.1 [51.0, 57.2]'
    for bad in ((float('nan'), None, None), (1.0, 2.0, 3.0), (1.0, None, 3.0)):
        with pytest.raises(BadInput):
            Estimate(*bad, n=1)
