"Laws of the evaluation rooms: intervals that cover, distances that agree with others', copies that are found."

import json

import numpy as np
import pandas as pd
import pytest
import torch

from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits, subset
from ambient_nb.features import DigitsEncoder, PixelEncoder
from ambient_nb.fidelity import frechet, frechet_estimate, frechet_gaussians
from ambient_nb.memorization import is_memorized, metric_id, nearest, per_sample, save_table, similarity, summarize
from ambient_nb.stats import Estimate, bootstrap, over_seeds, paired, wilson


def normal(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=torch.float64).numpy()


@pytest.fixture(scope='module')
def shipped():
    return DigitsEncoder()


@pytest.fixture(scope='module')
def train():
    return subset(digits()[0], 300)[0].pixels


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


def test_metric_ids_follow_encoders(shipped):
    held = digits()[1]
    assert metric_id('sim>0.9', shipped) != metric_id('sim>0.9', PixelEncoder(held)) and metric_id(
        'memorized', shipped
    ) == metric_id('memorized', PixelEncoder(held))


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


# memorization


@pytest.mark.parametrize('k', [1, 2, 5])
def test_nearest_equals_brute_force_with_ties_and_copies(k):
    g = rng(0, 'knn')
    base = torch.randint(0, 256, (400, 3, 6, 6), dtype=torch.uint8, generator=g)
    base[300:] = base[:100]
    queries = torch.cat([base[[7, 307, 150]], torch.randint(0, 256, (60, 3, 6, 6), dtype=torch.uint8, generator=g)])
    whole = (queries.flatten(1).long()[:, None] - base.flatten(1).long()).square().sum(2)
    order = torch.from_numpy(np.argsort(whole.numpy(), axis=1, kind='stable')[:, :k])
    for chunk in (7, 512):
        d, i = nearest(queries, base, k, chunk=chunk)
        assert torch.equal(i, order) and torch.equal(d, whole.gather(1, order).double().sqrt())
    assert (d[:3, 0] == 0).all() and i[:3, 0].tolist() == [7, 7, 150]


def test_one_third_rule():
    d1, d2 = np.array([0.0, 0.0, 1.0, 1.0, 2.0]), np.array([0.0, 5.0, 3.0, 3.01, 3.0])
    assert is_memorized(d1, d2).tolist() == [True, True, False, True, False]


def test_distances_are_rms_in_byte_units(shipped, train):
    q = train[:1].clone()
    q[0, 0, 0, 0] += 16
    assert per_sample(q, train, shipped).d1[0] == pytest.approx(16 / 8)


@pytest.mark.parametrize('copies', [1, 30, 150])
def test_planted_copies_are_all_found(shipped, train, heldout, copies):
    df = per_sample(torch.cat([train[:copies], heldout[: 300 - copies]]), train, shipped)
    out = summarize(df, per_sample(heldout[300:], train, shipped))
    assert out['memorized'].value == copies / 300 and out['memorized'].lo <= copies / 300 <= out['memorized'].hi
    assert (
        (df.d1[:copies] == 0).all()
        and (df.nearest[:copies] == np.arange(copies)).all()
        and (df.similarity[:copies] > 1 - 1e-6).all()
    )


def test_copies_of_a_doubled_training_image_count(shipped, train):
    assert per_sample(train[:5], torch.cat([train, train[:5]]), shipped).memorized.all()


def test_null_is_near_zero(shipped, train, heldout):
    null = per_sample(heldout, train, shipped)
    out = summarize(null, null)
    assert out['memorized'].value < 0.01 and out['sim>null99'].value == pytest.approx(0.01, abs=0.003)
    assert set(out) == {
        'memorized',
        'sim>0.9',
        'sim>0.95',
        'sim>0.99',
        'sim>null99',
        'similarity_mean',
        'distance_median',
    }


def test_similarity_equals_numpy():
    a, b = normal(30, 5), normal(40, 5, name='y')
    whole = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    sim, where = similarity(torch.from_numpy(a), torch.from_numpy(b), chunk=7)
    assert np.allclose(sim, whole.max(1), atol=1e-12) and (where.numpy() == whole.argmax(1)).all()


def test_a_stored_table_gives_the_summary_again(tmp_path, shipped, train, heldout):
    df, null = (per_sample(x, train, shipped) for x in (torch.cat([train[:20], heldout[:80]]), heldout[80:]))
    for name, read in (('t.parquet', pd.read_parquet), ('t.csv', pd.read_csv)):
        assert summarize(read(save_table(df, tmp_path / name)), null) == summarize(df, null)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['t.csv', 't.parquet']
    with pytest.raises(BadInput):
        save_table(df, tmp_path / 't.xlsx')


def test_memorization_refuses(shipped, train, heldout):
    for call in (
        lambda: nearest(heldout, train, k=0),
        lambda: nearest(heldout, train, k=301),
        lambda: nearest(heldout.float(), train),
        lambda: nearest(heldout[:, :, :4], train),
        lambda: nearest(torch.full((2, 3), torch.nan), torch.ones(4, 3)),
        lambda: similarity(torch.full((2, 3), torch.inf), torch.ones(4, 3)),
        lambda: per_sample(heldout, train[:1], shipped),
        lambda: per_sample(heldout.float(), train, shipped),
    ):
        with pytest.raises(BadInput):
            call()


# laws that came with the fixes


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


def test_nearest_features_are_exact():
    base = torch.from_numpy(normal(500, 64)).float()
    base[400:450] = base[:50]
    d, i = nearest(base[:50], base)
    assert (d == 0).all() and i.tolist() == [[k, 400 + k] for k in range(50)]


def test_evaluation_refuses_the_rest(shipped, train):
    x = normal(20, 3)
    for call in (
        lambda: per_sample(train[:0], train, shipped),
        lambda: frechet_estimate(x, x, level=2.0, generator=rng(0)),
        lambda: frechet_gaussians(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)),
    ):
        with pytest.raises(BadInput):
            call()
