"Evidence: what a verdict promises holds when it is counted out."

import numpy as np
import pandas as pd
import pytest
from ambient_nb.evidence import Tally, above_null, by_chance, copy_verdict, excess, leaks, tally
from ambient_nb.memorization import each_once

PATTERNS = dict(
    none=[1] * 500,
    pairs=[2] * 250,
    fives=[5] * 20 + [1] * 400,
    tens=[10] * 50,
    one=[50] + [1] * 450,
    some=[100, 50, 25, 12, 6] + [1] * 307,
    half=[250] + [1] * 250,
    zipf=[max(1, 120 // i) for i in range(1, 121)],
    collapsed=[25] * 20,
)


def lines(hits, group=None, similarity=None):
    "Lines of a table."
    n = len(hits)
    values = np.zeros(n) if similarity is None else similarity
    group = np.arange(n) if group is None else group
    return pd.DataFrame(dict(memorized=hits, exact=False, similarity=values, group=group))


@pytest.mark.slow
@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize(
    'p, q, m', [(0.02, 0.02, 500), (0.05, 0.01, 500), (0.1, 0.002, 1000), (0.3, 0.02, 500), (0.5, 0.05, 300)]
)
def test_the_interval_covers_and_the_innocent_are_spared(pattern, p, q, m, reps=2000):
    "2,000 imaginary audits of samples that repeat each other: 92.5 to 98 % cover; at most 5 % say more where p is q."
    draw = np.random.default_rng([len(pattern), int(1000 * p), m])
    times = np.array(PATTERNS[pattern])
    group = np.repeat(np.arange(len(times)), times)
    covered, more = [], []
    for copies, h in zip(draw.random((reps, len(times))) < p, draw.binomial(m, q, reps)):
        units = each_once(copies[group], group)
        e = excess(int(units[:, 0].sum()), len(units), int(h), m)
        covered.append(e.lo <= p - q <= e.hi)
        if p == q:
            beside = np.stack([np.arange(m) < h, np.ones(m, dtype=int)], 1).astype(int)
            more.append(by_chance(units, beside, 999) < 0.05)
    assert 0.925 <= np.mean(covered) <= 0.98 and np.mean(more or [0]) <= 0.05


@pytest.mark.parametrize('pattern', ['none', 'tens', 'some', 'collapsed'])
def test_drawn_alike_few_are_called_nearer(pattern):
    "The samples of a group are equally similar; at p < 0.01 at most 2 % of 600 audits object."
    draw, times = np.random.default_rng(3), np.array(PATTERNS[pattern])
    group = np.repeat(np.arange(len(times)), times)
    null = lines(np.zeros(300, dtype=bool))
    called = []
    for values in draw.random((600, len(times) + 300)):
        samples = lines(np.zeros(len(group), dtype=bool), group, values[300:][group])
        called.append(above_null(samples, null.assign(similarity=values[:300]))[2] < 0.01)
    assert np.mean(called) <= 0.02


@pytest.mark.parametrize('rate', [0.001, 0.01, 0.05])
def test_natural_near_duplicates_are_no_leak_and_make_nobody_guilty(rate):
    """Training, held-out and generated images that are alike have near-duplicates of training images alike often. The
    held-out ones are called leaks, and the samples more than the null, no oftener than promised."""
    draw, m, n, N = np.random.default_rng(5), 500, 500, 5000
    leaked, more = [], []
    for _ in range(300):
        null = lines(draw.random(m) < rate)
        left_out = leaks(null, draw.binomial(N, rate), N)
        leaked.append(left_out.any())
        more.append(copy_verdict(tally(lines(draw.random(n) < rate), null[~left_out]))[1] == 'more')
    assert np.mean(leaked) <= 0.005 and np.mean(more) <= 0.05


@pytest.mark.parametrize('m', range(1, 31, 7))
@pytest.mark.parametrize('n, k', [(500, 0), (500, 10), (20, 0), (3, 0), (3, 3)])
def test_with_a_handful_of_held_out_images_nobody_is_cleared(n, k, m):
    samples = lines(np.arange(n) < k, similarity=np.arange(n) / n).assign(exact=np.arange(n) < k)
    words, tone = copy_verdict(tally(samples, lines(np.zeros(m, dtype=bool), similarity=np.ones(m))))
    assert tone in ('open', 'more') and 'excluded' not in words and (not k or 'to the byte' in words)


def test_no_count_is_called_none_with_exact_copies():
    for exact in (1, 3, 30):
        for h, m in ((0, 100), (0, 5000), (400, 1000)):
            t = Tally(30, 1000, exact, 30, 1000, h, m, 0.9, 0, 1, 0.9)
            assert copy_verdict(t)[1] in ('doubt', 'open')
