"Laws of the evaluation rooms: intervals that cover, features that repeat, distances that agree with others'."

import json

import numpy as np
import pytest
import torch

from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits
from ambient_nb.features import DigitsEncoder, PixelEncoder, encoder_for, train_digits_encoder
from ambient_nb.fidelity import frechet, frechet_estimate, frechet_gaussians
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


# fidelity


def test_frechet_equals_closed_form():
    q = np.linalg.qr(normal(6, 6))[0]
    s, t, m = np.abs(normal(6, name='s')), np.abs(normal(6, name='t')), normal(6, name='m')
    s[0] = 0  # a direction without any variance
    truth = (m**2).sum() + ((s - t) ** 2).sum()
    assert frechet_gaussians(np.zeros(6), q * s**2 @ q.T, m, q * t**2 @ q.T) == pytest.approx(truth, rel=1e-7)


@pytest.mark.parametrize('n, m, d', [(500, 400, 16), (1000, 797, 64)])
def test_frechet_equals_torch_fidelity(n, m, d, torch_fidelity):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = normal(n, d) * np.linspace(0.1, 2, d), normal(m, d, name='y') + 0.1
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False
    )['frechet_inception_distance']
    assert frechet(a, b) == pytest.approx(theirs, rel=1e-6)


def test_frechet_of_itself_is_zero_even_of_low_rank():
    for shape in ((300, 16), (10, 64), (5, 1)):
        x = normal(*shape)
        assert 0 <= frechet(x, x) < 1e-5 and frechet(x, x + 1) == pytest.approx(shape[1], rel=1e-4)


def test_frechet_interval_holds_the_estimate_and_repeats():
    a, b = normal(200, 8), normal(150, 8, name='y')
    for shift in (0, 0.5):
        e = frechet_estimate(a + shift, b, n_boot=50, generator=rng(0))
        assert (
            0 <= e.lo < e.value == frechet(a + shift, b) < e.hi
            and e.n == 200
            and e == frechet_estimate(a + shift, b, n_boot=50, generator=rng(0))
        )


def test_frechet_refuses():
    for a, b in (
        (np.full((5, 3), np.nan), np.ones((5, 3))),
        (np.ones((5, 3)), np.ones((5, 4))),
        (np.ones((1, 3)), np.ones((5, 3))),
        (np.ones(5), np.ones(5)),
    ):
        with pytest.raises(BadInput):
            frechet(a, b)


# laws that came with the fixes


def test_an_encoder_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    DigitsEncoder(), train_digits_encoder(0, steps=2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('n, m, d', [(40, 60, 64), (60, 60, 60), (10, 50, 200)])
def test_both_routes_to_frechet_agree(n, m, d):
    a, b = normal(n, d) * np.linspace(0.1, 2, d), normal(m, d, name='y') + 0.1
    assert frechet(a, b) == pytest.approx(
        frechet_gaussians(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)), rel=1e-6
    )


def test_frechet_of_colour_pixels_is_fast():
    import time

    a, b = normal(200, 3072), normal(200, 3072, name='y')
    start = time.process_time()
    frechet(a, b)
    assert time.process_time() - start < 1


def test_evaluation_refuses_the_rest():
    x = normal(20, 3)
    for call in (
        lambda: frechet_estimate(x, x, level=2.0, generator=rng(0)),
        lambda: frechet_gaussians(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)),
    ):
        with pytest.raises(BadInput):
            call()
