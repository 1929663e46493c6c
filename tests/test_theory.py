"Theory: what the room refuses and how it judges, what its pages' rows say, the pages' functions on other sizes."

import json
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from tree import NBS, cells

from ambient_nb import rows as rowing, theory
from ambient_nb.core import BadInput
from ambient_nb.oracles import MixtureDenoiser
from ambient_nb.papers import Claim, claim, papers
from ambient_nb.rows import verdict

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
    assert rows == [] and theory.save(dry, rows) is None and not (tmp_path / 'runs').exists()
    assert theory.laws_table(rows) == theory.verdicts(rows) == 'no rows'


PROFILES = ('smoke', 'quick', 'paper', 'custom')
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
    said = {p: verdict(found, theory.over_draws(values), values, profile=p) for p in PROFILES}
    assert said['quick'] == said['paper'] == expected
    if found:
        assert said['smoke'] == 'smoke: no verdict'
    if found and found.law == 'range':
        assert said['custom'] == 'not comparable'


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
        r = judged[c.id]
        assert r.verdict == verdict(c, r.ours, r.detail['values'], profile='quick'), c.id


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


# the pages on the optimum of diffmem, the theorem of ambient and the consistency of tweedie

PAGES = dict(diffmem='repro_diffmem_optimum', ambient='repro_ambient_theorem', tweedie='repro_tweedie_consistency')


def page_rows(key):
    "The rows behind a committed page."
    return rowing.load_rows(NBS / 'results' / f'{PAGES[key]}.quick.json')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "What a page's cells define, after a run in smoke with one draw; other parameters as given. Runs are kept."
    kept = {}

    def run(key, **parameters):
        name = key, *sorted(parameters.items())
        if name not in kept:
            space = {}
            for c in cells(f'{PAGES[key]}.ipynb'):
                if c['cell_type'] == 'code':
                    exec(compile(c['source'], PAGES[key], 'exec'), space)
                if 'parameters' in c['metadata'].get('tags', []):
                    space |= dict(profile='smoke', seeds='0', out=str(tmp_path_factory.mktemp('theory')), **parameters)
            plt.close('all')
            kept[name] = space
        return kept[name]

    return run


@pytest.mark.parametrize('key', PAGES)
def test_every_claim_has_a_row_that_holds(key):
    rows = {r.claim: r for r in page_rows(key) if r.claim}
    assert set(rows) == {c.id for c in papers()[key].claims if c.notebook == PAGES[key]}
    for id, r in rows.items():
        assert r.verdict == verdict(claim(id), r.ours, r.detail['values'], profile=r.profile) and r.verdict in (
            'holds',
            'same direction',
        ), id
        assert r.profile == 'quick' and len(r.detail['values']) == r.ours.n


def test_the_numbers_of_the_notes():
    "notation C.4 and A.4 T1: E[A^T A | A~] is .130 and .0244; the optimum memorizes 1.000 of its samples."
    ours = {r.id: r.ours.value for key in ('ambient', 'diffmem') for r in page_rows(key)}
    for p, printed in (('0.4', 0.130), ('0.8', 0.0244)):
        assert round(ours[f'ambient_theorem/full_rank/{p}/formula'], 3 if p == '0.4' else 4) == printed
        assert abs(ours[f'ambient_theorem/full_rank/{p}/hidden'] - printed) < 0.002
    assert ours['diffmem_optimum/T1/digits/memorized'] == ours['diffmem_optimum/T1/cifar10/memorized'] == 1
    assert next(r for r in page_rows('diffmem') if r.id == 'diffmem_optimum/T1/cifar10/memorized').labels['n'] == 50_000


def test_least_squares_reaches_the_optimum_and_not_without_further_masking(page):
    at = page('ambient')
    cov = at['covariance'](7)
    exact = at['optimum'](cov)
    for delta in (0.1, 0.5):
        (few, _), (many, graded) = at['regressions'](7, delta, [5000, 100_000])
        errors = [at['distance'](W, exact, delta, ~at['SEEN']) for W in (few, many)]
        assert errors[1] < errors[0] / 2 and 0.4 < errors[1] / at['predicted'](cov, exact, delta, 100_000) < 1.6
        assert (graded > 0).all()
    ((W, graded),) = at['regressions'](7, 0.0, [100_000])
    assert (
        graded[~at['SEEN']].sum() == 0
        and at['distance'](W, exact, 0.0, ~at['SEEN']) == 1
        and at['distance'](W, exact, 0.0, at['SEEN']) < 0.05
    )


def test_the_fixed_mask_sampler_keeps_seen_and_loses_hidden_variance(page):
    at = page('ambient', steps=40)
    for seed in (5, 6):
        v = at['sampler_variance'](seed)
        assert (
            abs(v['sampler/seen/variance'] - 1) < 0.02
            and v['sampler/hidden/difference'] < 0.02
            and v['sampler/hidden/variance'] < 0.95
        )


def test_a_fixed_mask_names_its_image(page):
    v = page('ambient')['finite_optimum'](3)
    assert v['masks/both_fixed/own_weight'] == v['masks/B_anew/own_weight'] == 1 > v['masks/both_anew/own_weight']
    assert v['masks/both_fixed/seen'] < 0.95 and v['masks/B_anew/seen'] > 0.999 and v['masks/sampler/fits'] == 0


def test_the_density_is_found_from_the_answers(page):
    at = page('tweedie')
    for seed in (4, 5):
        exact = at['density'](at['law'](seed), at['GRID'], 0.4)
        assert torch.allclose(at['known_density'](at['law'](seed), 0.4), exact / exact.sum(), rtol=1e-3, atol=1e-12)


def test_the_fixed_point_converges_to_the_truth_of_another_law(page):
    "A Gaussian: its consistent denoiser is known without the page."
    at = page('tweedie', points=200)
    D = MixtureDenoiser(torch.tensor([[0.3]]), torch.tensor([0.25]))
    errors = [
        max(
            abs(at['on'](h, at['GRID'][50:150], s) - at['on'](D, at['GRID'][50:150], s)).max().item()
            for s in (0.4, 0.2, 0.05)
        )
        for h in at['fixed_point'](D, 0.4, [0, 10, 100])
    ]
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.03 < 0.1 < errors[0]


def test_the_reverse_process_of_the_truth_ends_at_the_law(page):
    at = page('tweedie', points=200)
    truth = at['law'](6)
    ends = {
        name: at['area'](*at['simulated'](D, at['known_density'](truth, 0.4), 0.4, 50), truth)
        for name, D in dict(truth=truth, frozen=at['frozen'](truth, 0.4)).items()
    }
    assert ends['truth'] < 0.02 < 0.1 < ends['frozen']


def test_the_optimum_returns_its_images_and_the_third_rule_errs_as_it_should(page):
    at = page('diffmem', points=20_000)
    assert at['two_forms'](9)['T1/forms/error'] < 1e-9
    v = at['labelled'](9)
    assert v['labels/unique/error'] == v['labels/one/error'] == 0 and v['labels/true/share'] == 1
    assert at['digits_come_out'](9)['T1/digits/memorized'] == 1
    u = at['uniform_points'](9)
    assert (
        all(abs(u[f'third/uniform/{d}/standard_errors']) < 4 for d in (2, 5, 8))
        and abs(u['third/uniform/2/share'] - 1 / 9) < 0.01
    )


def test_the_collapse_is_complete(page):
    "All images in play at the first level, one at the last."
    levels, crowd = page('diffmem')['choosing']('digits', 8, seed=2)
    assert crowd[0] > 900 and crowd[-1] < 1.001 and levels[0] == pytest.approx(80) and np.all(np.diff(crowd) < 1e-6)


@pytest.mark.real_data
@pytest.mark.slow
def test_cifar_takes_part_where_it_is(page, data_dir):
    at = page('diffmem', data=str(data_dir / 'cifar10-32x32-test.zip'), cifar10=2, samples=4, heldout=20)
    assert (
        list(at['SETS']) == ['digits', 'cifar10']
        and len(at['TRAIN']['cifar10']) == 9000
        and at['cifar_comes_out'](3)['T1/cifar10/exact'] == 1
    )


def test_a_zip_that_is_not_there_is_refused(page):
    with pytest.raises(BadInput, match='data='):
        page('diffmem', data=os.sep + 'no' + os.sep + 'such.zip')


def test_eight_steps_leave_a_bias_and_a_line_leaves_none(page):
    "A Gaussian's answers are linear, so no step biases them; a mixture's one step, against draws of the loss itself."
    from ambient_nb.tweedie import ConsistencyLoss

    at = page('tweedie', points=200)
    assert at['bias'](MixtureDenoiser(torch.tensor([[0.3]]), torch.tensor([0.25])), 4) < 1e-9
    truth, count, generator = at['law'](6), 200_000, torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, 1, 1, 1, generator=generator, dtype=torch.float64)

    which = torch.multinomial(truth.log_weights.exp(), count, replacement=True, generator=generator)
    clean = (truth.means[which, 0] + truth.values[which, 0].sqrt() * draw(count).flatten()).reshape(-1, 1, 1, 1)
    level = torch.full((count,), 0.4, dtype=torch.float64)
    told = ConsistencyLoss(0.4, steps=1)(
        truth, clean + 0.4 * draw(count), level / 2, draw(2, 1, count), level, draw(count)
    )
    exact = at['bias'](truth, 1)
    assert abs(told.mean() - exact) < 4 * told.std() / count**0.5 < exact


def test_the_truths_loss_is_not_called_zero():
    values = {r.labels['method']: r.detail['values'] for r in page_rows('tweedie') if r.id.endswith('/standard_errors')}
    pooled = {name: sum(z) / len(z) ** 0.5 for name, z in values.items()}
    text = ' '.join(c['source'] for c in cells(f'{PAGES["tweedie"]}.ipynb') if c['cell_type'] == 'markdown')
    assert f'pools to {pooled["loss/truth"]:.1f} standard errors' in text and pooled['loss/truth'] > 2
    assert f'frozen denoiser’s {pooled["loss/frozen"]:.0f} are' in text


def test_the_sigma_n_in_use_lies_where_memorizing_is_worth_much():
    "Read off the committed curve by another way than the page's: a line between the two neighbours."
    from ambient_nb.settings import QUICK_DIGITS, SETTINGS

    rows = named('theory_feldman')
    worth = {
        float(name.split('/')[1]): r.ours.value
        for name, r in rows.items()
        if name.endswith('/ratio') and name[3].isdigit()
    }
    text = ' '.join(c['source'] for c in cells('repro_theory_feldman.ipynb') if c['cell_type'] == 'markdown')
    said = []
    for setup in (QUICK_DIGITS, SETTINGS['main']['cifar10']):
        sigma = setup.sigma_n / setup.train.sigma_data
        low, high = max(s for s in worth if s <= sigma), min(s for s in worth if s > sigma)
        share = np.log(sigma / low) / np.log(high / low)
        said.append(worth[low] ** (1 - share) * worth[high] ** share)
    assert f'a factor of about {said[0]:.0f} and {said[1]:.0f}' in text and min(said) > 8
