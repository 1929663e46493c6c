"The page on noisy images against quality, and what laws its rows obey."

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from page_rows import judged, rows_of

from ambient_nb.collect import Measured
from ambient_nb.data import digits, to_float, to_uint8
from ambient_nb.papers import claim, known
from ambient_nb.plans import plan
from ambient_nb.residual import noise_scale, plant_noise
from ambient_nb.stats import Estimate
from ambient_nb.tweediefid import known_noise, question_row, questions_of, share_topic

POOL, HELDOUT = digits()
SCALE = noise_scale(HELDOUT.pixels)


ROWS = rows_of('tweedie_fid')
PLAN = plan(**ROWS[0].made_by, dry_run=True, device='cpu')


def arm_of(name):
    "An arm of the page's plan as if it were measured."
    (arm,) = (a for a in PLAN.arms if a.name == name)
    runs = tuple(PLAN.run(arm, s) for s in PLAN.seeds)
    return Measured(arm, runs, SimpleNamespace(id='planted'), None, (), {}, {}, [], {})


def test_each_claim_of_the_page_has_a_row_that_is_judged_by_todays_rule():
    found = {id: claim(id) for id in judged('tweedie_fid')}
    assert {c.kind for c in found.values()} == {'direction'} and len(found) == 14


def test_a_question_is_the_difference_of_the_rows_that_it_names():
    asked, arms = {q.name: q.topic for q in questions_of(PLAN)}, {}
    for r in (r for r in ROWS if r.kind == 'arm'):
        name, metric = r.labels['method'], r.labels['metric']
        arms[name, metric] = r.detail.get('values')
        if metric == 'noise_share':
            speaks = f'tweedie_fid/{share_topic(name)}/noise_share'
            level = float(name.partition(' at ')[2].partition(',')[0])
            assert r.claim == (speaks if speaks in known() else None), r.id
            assert np.multiply(level, r.detail['values']) == pytest.approx(arms[name, 'noise']), r.id
    pairs = [r for r in ROWS if r.kind == 'pair']
    assert {r.labels['pair'] for r in pairs} == set(asked)
    for r in pairs:
        pair, metric = r.labels['pair'], r.labels['metric']
        a, b = (arms[name, metric] for name in pair.split(' − '))
        assert r.detail['values'] == pytest.approx(np.subtract(a, b), abs=1e-9), r.id
        assert r.claim in (None, f'tweedie_fid/{asked[pair]}/{metric}'), r.id


def test_a_question_takes_the_second_way_from_the_first():
    (q,) = (q for q in questions_of(PLAN) if q.topic == 'consistency-truncated-0.4')
    found = {way: [dict(kid=Estimate(v, None, None, 9)) for v in vs] for way, vs in WAYS.items()}
    seen = {
        q.a: (arm_of(q.a.name), [{'': kid} for kid in found['a']]),
        q.b: (
            arm_of(q.b.name),
            [{'': kid, ', truncated': other} for kid, other in zip(found['b'], found['b stopped'])],
        ),
    }
    row = question_row(PLAN, q, 'kid', seen, dict(kid='planted'))
    assert row.detail['values'] == pytest.approx([-2.0, -2.1, -2.2]) and row.ours.value == pytest.approx(-2.1)
    assert row.verdict == 'same direction' and row.labels['pair'] == f'{q.a.name} − {q.b.name}, truncated'
    assert len(row.runs) == 6 and row.metric_id == 'kid @ planted'


WAYS = {'a': (1.0, 1.0, 1.0), 'b': (5.0, 5.0, 5.0), 'b stopped': (3.0, 3.1, 3.2)}


def test_the_copies_hold_their_own_noise():
    "What the scale finds in committed rows where the noise is known, and here again."
    rows = [r for r in ROWS if r.kind == 'null' and r.labels['metric'] == 'noise']
    found = {r.labels['x']: r.ours.value for r in rows}
    assert set(found) == {0.0, 0.2, 0.4} and all(abs(found[s] - s) < 0.03 for s in (0.2, 0.4)) and abs(found[0.0]) < 0.1
    for name, level in (('100% clean', 0.0), ('100% noisy at 0.4', 0.4)):
        again = known_noise(PLAN, arm_of(name), SCALE, 'planted')
        assert again.ours.value == pytest.approx(found[level], abs=1e-3) and again.labels['x'] == level


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('sigma', [0.2, 0.4, 0.8])
def test_planted_noise_is_found(sigma, seed):
    "To a few hundredths; and what is not known of real images widens the interval too."
    e = SCALE.left(noisy := plant_noise(POOL.pixels[:500], sigma, seed))
    assert e.lo - 0.02 < sigma < e.hi + 0.02 and e.n == 500 and e.hi - e.lo < 0.05
    few = replace(SCALE, real=SCALE.real[:10]).left(noisy)
    assert few.hi - few.lo > 1.1 * (e.hi - e.lo)


def test_more_noise_is_never_less():
    "And the scale of three-channel images is that of grey ones, said three times."
    found = [SCALE.left(plant_noise(POOL.pixels[:300], sigma)).value for sigma in (0.0, 0.1, 0.2, 0.3, 0.6, 1.2)]
    assert found == sorted(found) and SCALE.growth[0] == 0 < SCALE.growth[1]
    between = (SCALE.growth[-2:] ** 0.5).mean() ** 2
    assert SCALE.sigma(between) == pytest.approx(1.75) and SCALE.sigma(-between) == pytest.approx(-1.75)
    grey = HELDOUT.pixels.repeat(1, 3, 1, 1)
    assert noise_scale(grey).sigma(0.0) == 0 and noise_scale(grey).growth[-1] > 0


def test_samples_like_real_images_have_none():
    assert SCALE.left(HELDOUT.pixels[398:]).value == 0
    faded = to_uint8(0.5 * to_float(POOL.pixels) + 0.5 * to_float(POOL.pixels).mean(0))
    assert SCALE.left(faded).hi < 0 and torch.equal(plant_noise(faded, 0.0), faded)
