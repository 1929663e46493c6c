"Plans: what a notebook is asked, what is refused, what it says it will cost."

import itertools
import time
from types import SimpleNamespace

import pytest
from tree import NBS, cells

from ambient_nb import plans, repro, settings
from ambient_nb.collect import reproduce
from ambient_nb.core import BadInput
from ambient_nb.datasets import DATASETS
from ambient_nb.plans import PARAMETERS, describe, plan, seconds_a_flop
from ambient_nb.suite import ITEMS

SMALL = dict(n=20, profile='smoke', seeds='0', device='cpu')


@pytest.mark.parametrize(
    'name, value',
    [
        ('n', 0),
        ('n', -5),
        ('n', 10**6),
        ('n', '300x'),
        ('n', '20,20'),
        ('dataset', 'mnist'),
        ('profile', 'fast'),
        ('sigma_n', -1),
        ('sigma_n', float('nan')),
        ('sigma_n', 0),
        ('iters', 0),
        ('iters', 'many'),
        ('seeds', '1,1'),
        ('seeds', -1),
        ('seeds', 'a'),
        ('device', 'tpu9'),
        ('size', 3),
        ('dry_run', 'perhaps'),
        ('sigman', 0.4),
        ('data', '/no/such.zip'),
    ],
)
def test_bad_parameters(name, value, tmp_path):
    given = {**SMALL, 'out': tmp_path / 'runs', name: value}
    if name == 'data':
        given['dataset'] = 'cifar10'
    with pytest.raises(BadInput) as e:
        plan('table1', **given)
    if name == 'sigman':
        name, value = 'parameter', 'sigman'
    assert e.value.name == name and repr(value) in str(e.value) and 'must be' in str(e.value)
    assert not list(tmp_path.rglob('*.json')), 'something was written'


def test_an_unwritable_out_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BadInput, match='out='):
        plan('table1', **SMALL, out=tmp_path / 'file' / 'runs')


@pytest.mark.parametrize('dataset', ['cifar10', 'ffhq', 'tinyimagenet'])
def test_the_papers_plan_needs_neither_data_nor_gpu(dataset):
    p = plan('table1', n='300,1000,3000', dataset=dataset, profile='paper', dry_run=True, device='cpu')
    words = describe(p).value
    c = p.setup.train
    assert (c.lr, c.weight_decay, c.batch * c.iters, p.setup.steps, p.setup.samples, c.ema_kimg) == (
        1e-4,
        0.01,
        40_960_000 if dataset == 'tinyimagenet' else 7_680_000,
        40,
        50_000,
        500,
    )
    assert 'hours' in words['on an H200'] and 'PFLOP' in words['operations']
    assert reproduce(p) == []


def test_profiles(monkeypatch):
    monkeypatch.delenv('AMBIENT_NB_PROFILE')
    assert repro.pick_profile('auto', None, None) == ('quick', 'digits')
    monkeypatch.setenv('AMBIENT_NB_PROFILE', 'smoke')
    assert repro.pick_profile('auto', None, None) == ('smoke', 'digits')
    monkeypatch.setenv('AMBIENT_NB_PROFILE', 'huge')
    with pytest.raises(BadInput, match='AMBIENT_NB_PROFILE'):
        repro.pick_profile('auto', None, None)
    with pytest.raises(BadInput, match='profile'):
        settings.setup_for('paper', DATASETS['digits'])
    assert plan('table1', n=20, profile='quick', iters=10, device='cpu').profile == 'custom'


def test_a_dry_run_checks_what_is_given():
    with pytest.raises(BadInput, match='data='):
        plan('table1', dataset='cifar10', profile='paper', data='/no/such.zip', dry_run=True, device='cpu')
    words = describe(plan('table1', n=20, profile='smoke', dry_run=True, device='cpu')).value
    assert 'minutes on cpu' in words['here'] and 'on an H200' not in words


def test_what_others_compute_meanwhile_costs_a_plan_nothing(monkeypatch):
    "On a busy machine a plan once said 884 minutes for what takes 25."
    p = plan('table1', profile='quick', dry_run=True, device='cpu')
    quiet, hours = seconds_a_flop(p), itertools.count(step=3600)
    monkeypatch.setattr(plans, 'time', SimpleNamespace(monotonic=lambda: next(hours), thread_time=time.thread_time))
    assert seconds_a_flop(p) < 20 * quiet


def test_photographs_are_trained_for_as_many_epochs_at_every_size():
    p = plan('table1', dataset='cifar10', n='100,300,1000', profile='quick', dry_run=True, device='cpu')
    kimg = {a.n: a.train.iters * a.train.batch / 1000 for a in p.arms}
    assert kimg == pytest.approx({100: 150, 300: 450, 1000: 1500}, rel=1e-3)
    assert ' 1,500 epochs' in describe(p).value['training']


@pytest.mark.parametrize('item', ITEMS)
def test_the_papers_plan_says_what_it_costs(item):
    words = describe(plan(item, profile='paper', dry_run=True, device='cpu')).value
    assert 'hours' in words['on an H200'] and 'PFLOP' in words['operations'] and 'cifar10' in words['data']
    assert len(plan(item, profile='paper', dry_run=True, device='cpu').seeds) == len(
        ITEMS[item].seeds['paper'].split(',')
    )


def test_parameters_cells():
    for item in ITEMS:
        tagged = [
            c
            for c in cells((NBS / f'repro_{item}.ipynb').relative_to(NBS))
            if 'parameters' in c['metadata'].get('tags', [])
        ]
        assert len(tagged) == 1 and [line.split(' =')[0] for line in tagged[0]['source'].splitlines()] == list(
            PARAMETERS
        )
