"The room of theory: what it refuses, how it judges, what its notebooks' committed rows say."

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ambient_nb import rows as rowing
from ambient_nb import theory
from ambient_nb.core import BadInput
from ambient_nb.papers import Claim, papers
from tree import NBS

SIZES = dict(seeds=(2, 20, 20), n=(10, 300, 300), sigma_n=((0.4,), (0.2, 0.4), (0.2, 0.4)), data=(None, None, None))
NOTEBOOKS = {
    'algorithm1': 'repro_algorithm1',
    'theory_optimum': 'repro_theory_optimum',
    'theory_leakage': 'repro_theory_leakage',
    'theory_feldman': 'repro_theory_feldman',
}


def plan(profile='quick', item='demo', **given):
    return theory.plan_theory(item, SIZES, (0.1, 2, None), profile=profile, **given)


def committed(item):
    return rowing.load_rows(NBS / 'results' / f'{NOTEBOOKS[item]}.quick.json')


def named(item):
    return {r.id.split('/', 1)[1]: r for r in committed(item)}


@pytest.mark.parametrize(
    'name, value',
    [
        ('n', 0),
        ('n', '3x'),
        ('n', 2.5),
        ('sigma_n', 0),
        ('sigma_n', float('nan')),
        ('sigma_n', '.2,.2'),
        ('sigma_n', ''),
        ('sigma_n', []),
        ('seeds', -1),
        ('seeds', '1,1'),
        ('seeds', 'a'),
        ('seeds', []),
        ('profile', 'fast'),
        ('dry_run', 'perhaps'),
        ('data', 3),
        ('sigma_m', 0.4),
    ],
)
def test_bad_parameters(name, value, tmp_path):
    with pytest.raises(BadInput) as error:
        plan(**{'profile': 'quick', 'out': tmp_path / 'runs', name: value})
    assert name in str(error.value) and not (tmp_path / 'runs').exists()


def test_a_plan_takes_numbers_as_papermill_passes_them(tmp_path, monkeypatch):
    same = plan(n='300', sigma_n='0.2, 0.4', seeds='0,1', out=str(tmp_path), dry_run='false')
    assert (same.profile, same['n'], same['sigma_n'], same.seeds, same.dry_run) == (
        'quick',
        300,
        (0.2, 0.4),
        (0, 1),
        False,
    )
    assert theory.as_size('names', 'a, b', ('c',)) == ('a', 'b')
    assert (
        plan(n=301).profile == 'custom'
        and plan('smoke', n=301).profile == 'smoke'
        and plan(data='some.zip')['data'] == 'some.zip'
    )
    assert (
        plan().minutes == 2
        and plan(seeds='0,1').minutes == 0.2
        and plan(n=301).minutes is None
        and plan('paper').minutes is None
    )
    monkeypatch.setenv('AMBIENT_NB_PROFILE', 'paper')
    assert plan('auto').profile == 'paper'
    monkeypatch.delenv('AMBIENT_NB_PROFILE')
    assert plan('auto').profile == 'quick' and plan('auto').seeds == tuple(range(20))


def test_a_dry_run_does_and_writes_nothing(tmp_path):
    dry = plan(out=tmp_path / 'runs', dry_run=True)

    def never(seed):
        raise AssertionError('a dry run drew something')

    rows = theory.simulate(dry, never, {})
    assert (
        rows == []
        and theory.save(dry, rows) is None
        and theory.table(rows) == 'no rows'
        and not len(theory.verdicts(rows))
        and not (tmp_path / 'runs').exists()
    )


IDENTITY = Claim('demo/x', 'law', 'none', 'none', 'zero', law='identity', expected=0.0, tolerance=1e-12)
BELOW = Claim('demo/x', 'law', 'none', 'none', 'below', law='ordering', inequality='<')
RANGE = Claim('demo/x', 'law', 'none', 'none', 'elsewhere', law='range', expected=0.15, tolerance=0.005)


@pytest.mark.parametrize(
    'found, values, expected',
    [
        (IDENTITY, [0, 1e-12, -1e-12], 'holds'),
        (IDENTITY, [0, 0, 1.1e-12], 'fails'),
        (IDENTITY, [-1, 1], 'fails'),  # the mean is no excuse
        (BELOW, [-1, -1e-9], 'same direction'),
        (BELOW, [-9, 1e-9], 'mixed (1 of 2 draws)'),
        (BELOW, [0, 1], 'opposite direction'),
        (replace(BELOW, inequality='>'), [1, 2], 'same direction'),
        (RANGE, [0.1, 0.146], 'holds'),
        (RANGE, [0.154, 0.2], 'holds'),
        (RANGE, [0.1, 0.144], 'fails'),
        (RANGE, [0.156, 0.2], 'fails'),
        (None, [1], 'no claim'),
    ],
)
def test_a_law_is_judged_in_every_draw(found, values, expected):
    assert theory.judge(found, values, profile='quick') == theory.judge(found, values, profile='paper') == expected
    if found:
        assert theory.judge(found, values, profile='smoke') == 'smoke: no verdict'
    if found and found.law == 'range':
        assert theory.judge(found, values, profile='custom') == 'not comparable'


@pytest.mark.parametrize(
    'missing',
    [
        dict(law='identity'),
        dict(law='range'),
        dict(law='ordering'),
        dict(law='ordering', inequality='<='),
        dict(law='theorem'),
        dict(),
    ],
)
def test_a_law_says_what_it_expects(missing):
    with pytest.raises(BadInput):
        Claim('demo/x', 'law', 'none', 'none', 'x', **missing)


def test_draws_become_rows(tmp_path):
    p = plan(item='theory_leakage', out=tmp_path, seeds='3,5')
    rows = theory.simulate(
        p,
        lambda seed: {'T3/1/error': seed * 1e-13, 'T3/9/error': 7.0},
        dict(error='largest difference'),
        n=12,
        data='here',
    )
    first, second = rows
    assert (first.id, first.name, first.claim, first.verdict, first.printed) == (
        'theory_leakage/T3/1/error',
        (12, 'T3/1', 0, 'error'),
        'theory_leakage/T3/1/error',
        'holds',
        None,
    )
    assert (first.ours.lo, first.ours.hi, first.ours.n, first.ours.over, first.ours.level) == (
        3 * 1e-13,
        5 * 1e-13,
        2,
        'seeds',
        1 / 3,
    ) and first.seeds == (3, 5)
    assert (second.claim, second.verdict, second.ours.lo, second.ours.hi) == (
        None,
        'no claim',
        7.0,
        7.0,
    ) and second.metric_id == 'error: largest difference'
    assert rowing.same_numbers(rows, rowing.load_rows(theory.save(p, rows))) and theory.against(rows) == []
    with pytest.raises(BadInput, match='different names'):
        theory.save(p, rows + rows[:1])
    with pytest.raises(BadInput, match='^values=.*finite'):
        theory.over_draws([1.0, np.nan])
    with pytest.raises(BadInput, match='^values=.*finite'):
        theory.over_draws([])


def test_the_range_of_n_draws_holds_one_more_as_often_as_it_says():
    "For n draws of anything continuous, (n-1)/(n+1)."
    x = np.random.default_rng(0).exponential(size=(20_000, 6))
    estimates = [theory.over_draws(v) for v in x[:2000, :5]]
    assert estimates[0].level == 4 / 6 and all(e.lo == v.min() and e.hi == v.max() for e, v in zip(estimates, x[:, :5]))
    inside = (x[:, 5] >= x[:, :5].min(1)) & (x[:, 5] <= x[:, :5].max(1))
    assert abs(inside.mean() - estimates[0].level) < 0.015


def test_slider_and_picture():
    "The same function feeds both; the slider's picture changes with it."
    drawn = []

    def draw(ax, value):
        drawn.append(value)
        ax.plot([0, value])

    figure = theory.slide(draw, [0.1, 0.2, 0.4], [0.1, 0.4], live=False)
    assert len(figure.axes) == 2 and drawn == [0.1, 0.4]
    box = theory.slide(draw, [0.1, 0.2, 0.4], [0.2, 0.4], live=True)
    slider, picture = box.children
    assert slider.value == 0.2 and drawn[-1] == 0.2
    slider.value = 0.4
    assert drawn[-1] == 0.4 and not any('Error' in str(o) for o in picture.outputs)
    plt.close('all')


def test_every_law_has_its_row():
    "Each law of the main paper's theory is judged by its notebook, in the committed rows, by today's rule."
    laws = [c for c in papers()['main'].claims if c.kind == 'law']
    assert {c.id.split('/')[0]: c.notebook for c in laws} == NOTEBOOKS
    judged = {r.claim: r for item in NOTEBOOKS for r in committed(item) if r.claim}
    assert {c.id for c in laws} == set(judged)
    for c in laws:
        assert judged[c.id].verdict == theory.judge(c, judged[c.id].detail['values'], profile='quick'), c.id


@pytest.mark.parametrize('item', NOTEBOOKS)
def test_committed_rows(item):
    "Identities and orderings hold in every draw; of the ranges, chance alone takes at most one in ten (2/(n+1))."
    rows = committed(item)
    law = {c.id: c.law for c in papers()['main'].claims}
    assert {r.profile for r in rows} == {'quick'} and len({r.id for r in rows}) == len(rows)
    for r in rows:
        if law.get(r.claim) in ('identity', 'ordering'):
            assert r.verdict in ('holds', 'same direction'), r.id
    ranges = [r for r in rows if law.get(r.claim) == 'range']
    assert all(len(r.detail['values']) == 20 for r in ranges)
    assert sum(r.verdict != 'holds' for r in ranges) <= 2 / 21 * len(ranges)


def test_what_the_issue_asks_to_see():
    optimum, leakage = named('theory_optimum'), named('theory_leakage')
    assert optimum['T1/plain/memorized'].detail['values'] == [1.0] * 20
    assert all(
        v == 1
        for name, r in optimum.items()
        if name.startswith('T5/') and r.labels['metric'] == 'memorized'
        for v in r.detail['values']
    )
    assert sum(name.startswith('T5/') and name.endswith('memorized') for name in optimum) == 7
    assert all(v <= 1e-12 for name, r in leakage.items() if name.startswith('T3/') for v in r.detail['values'])
    assert [
        f'{leakage[f"T7/closed/{s}/nats"].ours.value:.3f}' for s in ('0.05', '0.1', '0.2', '0.4', '0.8', '1.6')
    ] == ['1.335', '0.781', '0.394', '0.177', '0.073', '0.027']


def test_no_slider_in_the_committed_pages():
    "A widget without a kernel shows nothing: the committed pages hold pictures."
    for name in NOTEBOOKS.values():
        kinds = {
            kind
            for c in json.loads((NBS / f'{name}.ipynb').read_text())['cells']
            for o in c.get('outputs', [])
            for kind in o.get('data', {})
        }
        assert 'image/png' in kinds and not any('widget' in kind for kind in kinds), name
