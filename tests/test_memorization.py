"Calibrated detection: planted copies are found, intervals cover, three other readings of memorization agree with their definitions."

import numpy as np
import pytest
import torch

from ambient_nb.calibration import (
    KINDS,
    EMM,
    auth_pct,
    authentic,
    c_t,
    cells_of,
    crossing,
    emm,
    near_copy,
    one_third,
    planted,
    z_u,
)
from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits, subset
from ambient_nb.memorization import is_memorized, nearest
from ambient_nb.stats import Estimate, over_seeds, wilson


@pytest.fixture(scope='module')
def train():
    return subset(digits()[0], 500)[0].pixels


@pytest.fixture(scope='module')
def heldout():
    return digits()[1].pixels


def normal(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=torch.float64)


# planted copies


@pytest.mark.parametrize('rate', [0.001, 0.01, 0.1, 0.5])
def test_exact_copies_are_all_found_at_any_contamination(train, heldout, rate):
    "1,000 samples, the others held-out digits (some of them twice)."
    others = torch.cat([heldout, heldout])[:1000]
    row = planted(train, others, kinds=['exact'], rates=[rate], generator=rng(0, 'p')).iloc[0]
    assert (
        row.copies == 1000 * rate == row.recall.n
        and row.recall.value == 1
        and row.false_positive.n == 1000 - row.copies
    )
    assert (
        row.flagged.value == pytest.approx((row.copies + row.false_positive.value * row.false_positive.n) / 1000)
        and row.false_positive.value < 0.01
    )


def test_recall_and_false_alarms_are_counted_apart(train, heldout):
    "A rule that flags every bright image, copy or not, is seen through."
    bright = lambda images, _: (images.double().mean((1, 2, 3)) > 78).numpy()
    row = planted(train, heldout, bright, kinds=['exact'], rates=[0.3], generator=rng(0, 'p')).iloc[0]
    everyone = bright(heldout, None).mean()
    assert (
        row.false_positive.lo < everyone < row.false_positive.hi
        and abs(row.recall.value - bright(train, None).mean()) < 0.1
        and 0.1 < everyone < 0.9
    )


def test_disguises(train):
    x, g = train[:40], rng(0, 'k')
    assert torch.equal(near_copy(x, 'exact', generator=g), x) and torch.equal(
        near_copy(x, 'flip', generator=g), x[:, :, :, [7, 6, 5, 4, 3, 2, 1, 0]]
    )
    shifted = near_copy(x, 'shift', generator=g)
    assert torch.equal(shifted[..., 1:], x[..., :-1]) and torch.equal(shifted[..., 0], x[..., 0])
    noise = (near_copy(x, 'noise', generator=rng(0, 'k')).int() - x.int())[(x > 40) & (x < 215)].double()
    assert (
        abs(noise.std() - 8) < 0.5
        and abs(noise.mean()) < 0.5
        and torch.equal(near_copy(x, 'noise', generator=rng(0, 'k')), near_copy(x, 'noise', generator=rng(0, 'k')))
    )
    for colour in (x, x.expand(-1, 3, -1, -1)):
        changed = near_copy(colour, 'jpeg', generator=g)
        assert changed.shape == colour.shape and 0 < (changed.int() - colour.int()).abs().double().mean() < 12


def test_the_rule_forgives_noise_and_jpeg_but_not_a_mirror(train, heldout):
    df = planted(train, heldout, rates=[0.3], generator=rng(0, 'p')).set_index('kind')
    assert (
        list(df.index) == list(KINDS)
        and df.recall['noise'].value > 0.95
        and df.recall['jpeg'].value > 0.9
        and df.recall['flip'].value < 0.1
    )


def test_the_interval_covers_at_every_contamination(train, heldout):
    "2,000 studies of 10,000 samples, drawn from the verdicts on real images."
    innocent, caught, n = one_third(heldout, train).mean(), one_third(train, train).mean(), 10_000
    for p in (0.001, 0.01, 0.1, 0.5):
        copies = torch.binomial(
            torch.full((2000,), float(n)), torch.full((2000,), p), generator=rng(1, 'copies', str(p))
        )
        flagged = sum(
            torch.binomial(c, torch.full((2000,), float(s)), generator=rng(1, name, str(p)))
            for name, c, s in (('c', copies, caught), ('i', n - copies, innocent))
        )
        covered = np.mean(
            [e.lo <= p * caught + (1 - p) * innocent <= e.hi for e in (wilson(int(k), n) for k in flagged)]
        )
        assert 0.925 <= covered <= 0.98


def test_one_third_is_the_rule(train, heldout):
    x = torch.cat([train[:5], heldout[:50]])
    d = nearest(x, train)[0].numpy()
    assert (one_third(x, train) == is_memorized(d[:, 0], d[:, 1])).all()


# AuthPct


def test_authenticity_by_brute_force(train, heldout):
    x, y = normal(40, 5), normal(60, 5, name='y')
    df = authentic(x, y)
    d, own = torch.cdist(x, y), torch.cdist(y, y).fill_diagonal_(torch.inf).min(1).values
    assert (
        (df.nearest == d.argmin(1).numpy()).all()
        and np.allclose(df.own, own[d.argmin(1)])
        and (df.authentic == (d.min(1).values > own[d.argmin(1)]).numpy()).all()
    )
    assert auth_pct(df).value == df.authentic.mean() and auth_pct(df).n == 40


def test_copies_are_not_authentic_even_of_a_doubled_image(train):
    assert (
        not authentic(train[:20], train).authentic.any()
        and not authentic(train[:5], torch.cat([train, train[:5]])).authentic.any()
    )


# C_T


@pytest.mark.parametrize('zeros', [0, 30])
def test_z_is_scipys_mann_whitney(zeros):
    from scipy.stats import mannwhitneyu

    a, b = (normal(n, name=str(n)).abs().numpy() for n in (80, 120))
    a[:zeros] = 0
    b[: zeros // 10] = 0
    r = mannwhitneyu(a, b, use_continuity=False, method='asymptotic', alternative='less')
    from scipy.stats import norm

    assert norm.cdf(z_u(a, b)) == pytest.approx(r.pvalue, rel=1e-9) and z_u(a, b) == pytest.approx(-z_u(b, a))
    assert z_u(np.zeros(5), np.zeros(7)) == 0


def test_c_t_tells_copies_from_new_images(train, heldout):
    fresh, copied, noise = (
        c_t(x, train, heldout[400:], n_boot=50, generator=rng(0, 'c'))
        for x in (
            heldout[:300],
            torch.cat([train[:100], heldout[:200]]),
            torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=rng(0, 'n')),
        )
    )
    assert (
        abs(fresh.value) < 3
        and copied.hi < -3
        and noise.lo > 10
        and copied
        == c_t(torch.cat([train[:100], heldout[:200]]), train, heldout[400:], n_boot=50, generator=rng(0, 'c'))
    )


def test_cells_see_copying_in_a_corner():
    "Two clusters; the generator copies in one and is too far out in the other, so that the whole looks innocent."
    far = torch.tensor([100.0, 0.0])

    def cloud(n, name):
        return torch.cat([normal(n, 2, name=name), normal(n, 2, name=name + 'far') + far])

    train, held, new = cloud(150, 'train'), cloud(150, 'held'), cloud(150, 'new')
    new[:150] = train[:150] + 1e-4
    new[150:] = far + 3 * (new[150:] - far)
    centres = train[[0, 150]]
    assert (cells_of(held, centres) == np.repeat([0, 1], 150)).all()
    parts = [
        z_u(*(nearest(x[r], train, 1)[0][:, 0].numpy() for x in (new, held))) for r in (slice(150), slice(150, 300))
    ]
    assert parts[0] < -10 and parts[1] > 3
    two = next(
        e
        for s in range(20)
        if abs((e := c_t(new, train, held, cells=2, n_boot=20, generator=rng(s, 'two'))).value - sum(parts) / 2) < 1e-9
    )
    assert two.n == 300
    with pytest.raises(BadInput):
        c_t(new, train, held, cells=2, least=400, generator=rng(0))


# EMM


def test_crossing_by_hand():
    s = np.array([100.0, 200.0, 400.0])
    for ratios, truth in (
        ([1, 0.95, 0.85], 300),
        ([0.95, 0.8, 0.95], np.inf),
        ([0.8, 0.7, 0.6], 0),
        ([0.9, 0.5, 0.1], 100),
        ([1.0, 0.8, 0.9], np.inf),
        ([0.85, 0.95, 0.5], 200 + 200 * 0.05 / 0.45),
        ([1.0, 0.9, 0.9 - 1e-9], 200),
    ):
        assert crossing(s, np.array(ratios)) == pytest.approx(truth, rel=1e-6)
    assert crossing(s, np.array([[1, 0.95, 0.85], [0.8, 0.7, 0.6]])).tolist() == pytest.approx([300, 0])


def test_emm_covers_and_repeats():
    sizes = np.array([250, 500, 1000, 2000])
    p = np.array([0.99, 0.96, 0.8, 0.3])
    truth = crossing(sizes, p)
    ks = (
        torch.binomial(
            torch.full((2000, 4), 500.0), torch.tensor(p, dtype=torch.float32).expand(2000, 4), generator=rng(0, 'emm')
        )
        .int()
        .tolist()
    )
    found = [emm(sizes, [wilson(k, 500) for k in row], n_boot=300, generator=rng(i, 'b')) for i, row in enumerate(ks)]
    assert 0.925 <= np.mean([e.lo <= truth <= e.hi for e in found]) <= 0.98 and found[0] == emm(
        sizes, [wilson(k, 500) for k in ks[0]], n_boot=300, generator=rng(0, 'b')
    )


def test_emm_outside_the_grid():
    def of(*shares):
        return emm([100, 200, 400], [wilson(round(1000 * s), 1000) for s in shares], generator=rng(0, 'b'))

    high, low, edge, under = of(1, 1, 0.99), of(0.5, 0.3, 0.1), of(1, 1, 0.905), of(0.89, 0.5, 0.1)
    assert str(high) == '≥ 400' and high.value is None and high.beyond and high.lo == 400 and high.hi is None
    assert str(low) == '< 100' and low.value is None and not low.beyond and low.hi == 100 and low.lo is None
    assert edge.value is None and 300 < edge.lo < 400 and edge.hi is None and str(edge).startswith('≥ 400 [3')
    assert (
        under.value is None and under.lo is None and 100 < under.hi < 130 and str(under).startswith('< 100 [< 100, 1')
    )
    assert of(1, 0.95, 0.5).lo < of(1, 0.95, 0.5).value < of(1, 0.95, 0.5).hi and isinstance(high, EMM)


def test_emm_takes_seeds_and_their_wider_interval():
    images, seeds = (
        [wilson(960, 1000), wilson(700, 1000)],
        [over_seeds([0.93, 0.96, 0.99]), over_seeds([0.64, 0.70, 0.76])],
    )
    a, b = (emm([100, 200], r, generator=rng(0, 'b')) for r in (images, seeds))
    assert a.value == pytest.approx(b.value) and (b.lo is None or b.lo < a.lo) and (b.hi is None or b.hi > a.hi)


def test_calibration_refuses(train, heldout):
    g, one = rng(0), [wilson(9, 10)] * 2
    for call in (
        lambda: near_copy(train, 'rotate', generator=g),
        lambda: near_copy(train[:0], 'exact', generator=g),
        lambda: near_copy(train.float(), 'exact', generator=g),
        lambda: planted(train, heldout, rates=[0.0], generator=g),
        lambda: planted(train, heldout, rates=[1e-5], generator=g),
        lambda: planted(train[:10], heldout, rates=[0.5], generator=g),
        lambda: authentic(train, train[:1]),
        lambda: c_t(train, train, heldout, cells=0, generator=g),
        lambda: emm([100], one[:1], generator=g),
        lambda: emm([200, 100], one, generator=g),
        lambda: emm([100, 200], [over_seeds([0.9])] * 2, generator=g),
        lambda: emm([100, 200], [Estimate(90.0, 80.0, 95.0, 10)] * 2, generator=g),
        lambda: emm([100, 200, 300], one, generator=g),
    ):
        with pytest.raises(BadInput):
            call()
