"Laws of the evaluation rooms: intervals that cover, features that repeat."

import json

import numpy as np
import pytest
import torch

from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits
from ambient_nb.features import DigitsEncoder, PixelEncoder, encoder_for, train_digits_encoder
from ambient_nb.stats import Estimate, bootstrap, over_seeds, paired, wilson


def normal(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=torch.float64).numpy()


@pytest.fixture(scope='module')
def shipped():
    return DigitsEncoder()


@pytest.fixture(scope='module')
def heldout():
    return digits()[1].pixels


# stats


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


# features


def test_features_do_not_depend_on_batching(shipped, heldout):
    whole = shipped(heldout)
    for a, b in ((0, 1), (5, 9), (1, 258), (250, 262), (300, 797)):
        assert torch.equal(whole[a:b], shipped(heldout[a:b]))


def test_identity_follows_weights_and_reference(shipped):
    pool, held = digits()
    assert shipped.id == DigitsEncoder().id != DigitsEncoder(train_digits_encoder(1, steps=2)).id
    assert PixelEncoder(pool).id == PixelEncoder(pool.take(range(1000))).id != PixelEncoder(held).id
    assert encoder_for('digits', held).id == shipped.id and encoder_for('cifar10', held).name == 'pixels'


def test_training_an_encoder_repeats_itself():
    a, b = (train_digits_encoder(0, steps=5).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(
        a['0.weight'], train_digits_encoder(1, steps=5).state_dict()['0.weight']
    )


def test_shipped_encoder_knows_unseen_digits(shipped):
    assert shipped.accuracy(digits()[1]) > 0.96


def test_pixel_features_are_centred():
    assert PixelEncoder(digits()[1])(digits()[1].pixels).double().mean(0).abs().max() < 1e-6


def test_encoders_refuse(shipped, heldout):
    for bad in (heldout.float(), heldout[0], torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(BadInput):
            shipped(bad)
