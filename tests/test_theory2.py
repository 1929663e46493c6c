"The pages on the optimum of diffmem, the theorem of ambient, the consistency of tweedie, and the ledger: what their rows say, and their own functions on other sizes."

import os
import re

import matplotlib
import numpy as np
import pytest
import torch
from tree import NBS, cells

from ambient_nb.oracles import MixtureDenoiser
from ambient_nb.papers import claim, papers
from ambient_nb.rows import load_rows
from ambient_nb.theory import judge

PAGES = dict(diffmem='repro_diffmem_optimum', ambient='repro_ambient_theorem', tweedie='repro_tweedie_consistency')
POINTS = dict(A=18, B=7, C=7, D=8)  # of the notation page, sections A.5 to D.5
NOT_SHOWN = {'A.5.11', 'A.5.12', 'B.5.1', 'D.5.6', 'D.5.8'}


def committed(key):
    "The rows behind a committed page."
    return load_rows(NBS / 'results' / f'{PAGES[key]}.quick.json')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "What a page's cells define, after a run in smoke with one draw; other parameters as given. Runs are kept."
    matplotlib.use('Agg')
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
            matplotlib.pyplot.close('all')
            kept[name] = space
        return kept[name]

    return run


def test_the_ledger_has_every_point():
    "A heading for each point; below it a cell that asserts it, or the reason why there is none."
    found, content = {}, cells('ledger.ipynb')
    for i, c in enumerate(content):
        heading = re.match(r'### ([A-D]\.5\.\d+) (.*)', c['source']) if c['cell_type'] == 'markdown' else None
        if heading:
            found[heading[1]] = (heading[2], content[i + 1] if i + 1 < len(content) else None)
    assert list(found) == [f'{paper}.5.{i}' for paper, count in POINTS.items() for i in range(1, count + 1)]
    for point, (title, following) in found.items():
        shown = following is not None and following['cell_type'] == 'code'
        assert shown == (point not in NOT_SHOWN) == (not title.endswith(': not shown')), point
        assert not shown or 'assert' in following['source'], f'{point} asserts nothing'


@pytest.mark.parametrize('key', PAGES)
def test_every_claim_has_a_row_that_holds(key):
    rows = {r.claim: r for r in committed(key) if r.claim}
    assert set(rows) == {c.id for c in papers()[key].claims if c.notebook == PAGES[key]}
    for id, r in rows.items():
        assert r.verdict == judge(claim(id), r.detail['values'], profile=r.profile) and r.verdict in (
            'holds',
            'same direction',
        ), id
        assert r.profile == 'quick' and len(r.detail['values']) == r.ours.n


def test_the_numbers_of_the_notes():
    "notation C.4 and A.4 T1: E[A^T A | A~] is .130 and .0244; the optimum memorizes 1.000 of its samples."
    ours = {r.id: r.ours.value for key in ('ambient', 'diffmem') for r in committed(key)}
    for p, printed in (('0.4', 0.130), ('0.8', 0.0244)):
        assert round(ours[f'ambient_theorem/full_rank/{p}/formula'], 3 if p == '0.4' else 4) == printed
        assert abs(ours[f'ambient_theorem/full_rank/{p}/hidden'] - printed) < 0.002
    assert ours['diffmem_optimum/T1/digits/memorized'] == ours['diffmem_optimum/T1/cifar10/memorized'] == 1
    assert next(r for r in committed('diffmem') if r.id == 'diffmem_optimum/T1/cifar10/memorized').labels['n'] == 50_000


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
    from ambient_nb.core import BadInput

    with pytest.raises(BadInput, match='data='):
        page('diffmem', data=os.sep + 'no' + os.sep + 'such.zip')
