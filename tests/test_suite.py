"""Items, arms, plans: every table and figure asks what it says it asks, and every claim has a notebook."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tree import NBS, cells, notebooks

from ambient_nb import papers as papering, publish, repro, tables
from ambient_nb.core import BadInput
from ambient_nb.data import digits
from ambient_nb.papers import Claim, papers, set_printed
from ambient_nb.plans import PARAMETERS, describe, plan
from ambient_nb.repro import (
    RECIPES,
    Run,
    execute_all,
    load_split,
    measure,
    measure_all,
    told_labels,
    training_images,
    trainings,
)
from ambient_nb.rows import (
    SELECTION,
    TRIED,
    collect,
    combine,
    load_rows,
    measured,
    pair_rows,
    row_of,
    verdict,
)
from ambient_nb.stats import Estimate
from ambient_nb.suite import ITEMS, THREE, constant_ema
from ambient_nb.training import TrainConfig, ema_beta

REPROS = [nb for nb in notebooks() if nb.name.startswith('repro_')]


def test_every_claim_has_a_notebook_and_every_notebook_a_claim():
    claimed = {c.notebook for p in papers().values() for c in p.claims}
    assert claimed == {nb.stem for nb in REPROS}
    assert {f'repro_{item}' for item in ITEMS} <= claimed


def test_every_question_with_a_claim_is_asked():
    "A direction that no pair of arms could answer would stay without a row for ever."
    for item in ITEMS:
        p = plan(item, profile='quick', dry_run=True, device='cpu')
        asked = {
            f'{item}/{pair.topic}/{m}'
            for pair in p.pairs
            for m in ('memorized', 'frechet', 'sim>null99', 'similarity_mean')
        }
        wanted = {
            c.id
            for paper in papers().values()
            for c in paper.claims
            if c.notebook == f'repro_{item}' and c.kind == 'direction'
        }
        assert wanted <= asked


@pytest.mark.parametrize('item', ITEMS)
def test_the_papers_plan_says_what_it_costs(item):
    words = describe(plan(item, profile='paper', dry_run=True, device='cpu')).value
    assert 'hours' in words['on an H200'] and 'PFLOP' in words['operations'] and 'cifar10' in words['data']
    assert len(plan(item, profile='paper', dry_run=True, device='cpu').seeds) == len(
        ITEMS[item].seeds['paper'].split(',')
    )


def test_headline_claims_have_three_seeds():
    "Table 1's three are in its published parameters; its notebook's own default is one seed, for a laptop."
    assert {i for i, it in ITEMS.items() if it.seeds == THREE} == {
        'fig1',
        'fig_histograms',
        'ablation_noise',
        'ablation_split',
        'diffmem_fig1',
        'diffmem_fig4',
        'diffmem_fig5',
    }
    assert publish.PUBLISHED['repro_table1']['quick']['seeds'] == '1,2,3'


def test_the_papers_values_meet_the_papers_arms():
    "A printed value is found by the name of an arm, so the names must be those of the paper's plan."
    for item in ('diffmem_fig1', 'diffmem_fig2', 'diffmem_fig3', 'diffmem_fig4', 'diffmem_tables', 'diffmem_fig5'):
        ns = {
            c.id.split('/')[2]
            for c in papers()['diffmem'].claims
            if c.kind == 'value' and c.notebook == f'repro_{item}'
        }
        names = set()
        for n in ns if not ITEMS[item].several else [','.join(sorted(ns, key=int))]:
            names |= {
                f'{item}/cifar10/{a.n}/{a.name}/memorized'
                for a in plan(item, n=n, profile='paper', dry_run=True, device='cpu').arms
            }
        missing = {
            c.id for c in papers()['diffmem'].claims if c.kind == 'value' and c.notebook == f'repro_{item}'
        } - names
        assert not missing


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


def test_every_size_gets_as_many_epochs():
    p = plan('diffmem_fig1', n='25,50,300', profile='quick', dry_run=True, device='cpu')
    assert [a.train.iters for a in p.arms] == [275, 550, 3300] and [a.budgets[0] for a in p.arms] == [183, 367, 2200]
    assert {
        a.train.iters
        for a in plan('diffmem_fig1', n='25,50', iters=60, profile='quick', dry_run=True, device='cpu').arms
    } == {60}
    paper = plan('diffmem_fig1', n='1000,50000', profile='paper', dry_run=True, device='cpu').arms
    assert [round(a.train.iters * 512 / a.n) for a in paper] == [40_000, 40_000] and [
        a.train.ramp_kimg * 1000 / a.n for a in paper
    ] == [200, 200]
    assert (paper[0].train.precond, paper[0].train.net.num_blocks, paper[0].train.lr) == ('vp', 2, 2e-4)


def test_batches_see_as_many_images():
    arms = [
        a
        for a in plan('diffmem_tables', profile='quick', dry_run=True, device='cpu').arms
        if a.name.startswith('batch')
    ]
    assert [a.train.batch for a in arms] == [64, 128, 256] and [a.train.iters * a.train.batch for a in arms] == [
        70_400
    ] * 3
    assert [a.train.lr / a.train.batch for a in arms] == [arms[0].train.lr / 64] * 3


@pytest.mark.parametrize('beta', [0.99929, 0.9, 0.0])
def test_a_constant_ema(beta):
    assert ema_beta(512, 10**6, constant_ema(beta, 512) * 1000, None) == pytest.approx(beta, abs=1e-12)


def test_recipes():
    run = Run('digits', 30, TrainConfig(), (), 18, 8)
    plain = training_images(run)
    made = {
        name: training_images(replace(run, recipe=((name, value),)))
        for name, value in (('classes', 2), ('diversity', 0.5), ('random labels', 3), ('unique labels', 1))
    }
    assert set(made) == set(RECIPES) and len({m.sha for m in made.values()} | {plain.sha}) == 5
    assert set(made['classes'].labels.tolist()) == {0, 1} and len(made['classes']) == 30
    same = (made['diversity'].pixels == plain.pixels).flatten(1).all(1)
    assert same[15:].all() and not same[:15].any()
    assert torch.equal(made['random labels'].pixels, plain.pixels) and set(made['random labels'].labels.tolist()) == {
        0,
        1,
        2,
    }
    more = training_images(replace(run, n=60, recipe=(('random labels', 3),)))
    assert torch.equal(more.labels[:30], made['random labels'].labels), 'an image keeps its label in a larger set'
    assert made['unique labels'].labels.tolist() == list(range(30))
    with pytest.raises(BadInput, match='recipe'):
        training_images(replace(run, recipe=(('colours', 3),)))


def test_samples_are_told_labels_of_the_training_set():
    run = Run('digits', 30, TrainConfig(label_dim=10), (), 18, 200)
    labels = told_labels(run, training_images(run))
    assert labels.shape == (200, 10) and set(labels.argmax(1).tolist()) == set(training_images(run).labels.tolist())
    assert (
        torch.equal(labels[:50], told_labels(replace(run, samples=50), training_images(run)))
        and told_labels(replace(run, config=TrainConfig()), training_images(run)) is None
    )


@pytest.fixture(scope='module')
def split_plan(tmp_path_factory):
    p = plan('ablation_split', profile='smoke', seeds='0', device='cpu', out=tmp_path_factory.mktemp('split'))
    execute_all(p.runs, p.out, p.device)
    return p


def test_shared_trainings_are_done_once(split_plan):
    p = split_plan
    assert len(p.runs) == 12 and len(trainings(p.runs, p.out)) == 2 and len(list((p.out / 'train').iterdir())) == 2
    apart = trainings([*p.runs, replace(p.runs[0], snapshots=(4, 12))], p.out)
    assert {t.snapshots for t in apart} == {(4, 8, 12), (8, 12)}


def test_swapped_networks_end_where_one_of_them_does_everything(split_plan):
    p = split_plan
    baseline, method = p.arms[:2]

    def images(run):
        return measure(run, 12, p.out)[2]

    both = p.run(p.arms[2], 0)
    assert both.partner.sigma_n > 0 == both.config.sigma_n
    assert torch.equal(images(replace(both, split=0.0)), images(p.run(method, 0))) and torch.equal(
        images(replace(both, split=1e3)), images(p.run(baseline, 0))
    )
    assert not torch.equal(images(replace(both, split=0.8)), images(p.run(baseline, 0)))


def test_rows_of_a_sweep(split_plan):
    rows = collect(split_plan)
    assert len({r.id for r in rows}) == len(rows)
    shares = {r.labels['method']: r for r in rows if r.labels['metric'] == 'memorized' and r.labels['it'] == 12}
    assert (
        set(shares) == {a.name for a in split_plan.arms} | {'difference'}
        and shares['two-regime above 0.4'].labels['x'] == 0.4
    )
    pairs = {
        r.labels['pair']: r
        for r in rows
        if r.labels['method'] == 'difference' and r.labels['metric'] == 'memorized' and r.labels['it'] == 12
    }
    one = pairs['two-regime above 0.4 − baseline']
    assert one.claim == 'ablation_split/above/memorized' and one.detail['values'] == [
        shares['two-regime above 0.4'].ours.value - shares['baseline'].ours.value
    ]
    assert {r.verdict for r in rows if r.claim} == {'smoke: no verdict'}


def test_printed_values_stand_beside_rows_of_another_scale(split_plan):
    m = measured(split_plan, split_plan.arms[0])
    cifar = replace(split_plan, dataset='cifar10', profile='custom', item='diffmem_fig5')
    row = row_of(
        cifar,
        replace(m, arm=replace(m.arm, n=1000)),
        'unconditional',
        12,
        'memorized',
        Estimate(0.9, 0.88, 0.92, 1000),
        {},
        'diffmem_fig5/cifar10/1000/unconditional/memorized',
    )
    assert (row.printed, row.verdict) == (0.92, 'not comparable')
    paper = row_of(
        replace(cifar, profile='paper'),
        m,
        'unconditional',
        12,
        'memorized',
        Estimate(0.9, 0.88, 0.92, 3, 'seeds'),
        {},
        'diffmem_fig5/cifar10/1000/unconditional/memorized',
    )
    assert paper.verdict == 'not comparable' and (row.selection, paper.selection) == (TRIED, SELECTION), (
        'our subset is not the first of each class, and no maximum over snapshots is taken'
    )


@pytest.mark.parametrize(
    'ours, said',
    [
        (Estimate(0.9, 0.88, 0.92, 3, 'seeds'), 'agree'),
        (Estimate(0.8, 0.78, 0.82, 3, 'seeds'), 'disagree'),
        (Estimate(0.9, 0.88, 0.92, 1000), 'underpowered'),
        (Estimate(0.9, 0.88, 0.92, 2, 'seeds'), 'underpowered'),
    ],
)
def test_a_printed_value_is_judged_by_three_seeds(ours, said):
    value = Claim('x/cifar10/1000/y/memorized', 'value', 'repro_x', '', '', printed=0.92, reading_error=0.03)
    assert verdict(value, ours, profile='paper', comparable=True).startswith(said)


def test_where_all_seeds_found_none_the_images_are_counted():
    none = combine([Estimate(0.0, 0.0, 0.004, 1000)] * 3)
    assert (none.value, none.lo, none.n, none.over) == (0.0, 0.0, 3000, 'images') and 0 < none.hi < 0.002
    assert (
        combine([Estimate(0.5, 0.4, 0.6, 100)] * 3).over == 'seeds'
        and combine([Estimate(1.0, 0.99, 1.0, 1000)] * 3).lo > 0.998
    )


def test_a_difference_knows_both_its_sides(split_plan):
    "Another iteration, other data and another encoder on the other side are never hidden."
    a, b = (measured(split_plan, split_plan.arms[k]) for k in (0, 1))
    pair = split_plan.pairs[0]
    short = replace(pair, b=replace(pair.b, budgets=(4, 8), train=replace(pair.b.train, iters=8)))
    b = replace(b, tables={4: b.tables[8], 8: b.tables[12]}, metas={4: b.metas[8], 8: b.metas[12]})
    rows = pair_rows(split_plan, short, a, b)
    last = next(r for r in rows if r.labels['it'] == 12 and r.labels['metric'] == 'memorized')
    assert last.detail['against'] == dict(it=8, data=b.shas['train']) and tables.iterations(last) == '12 against 8'
    assert {r.labels['metric'] for r in rows} > {'memorized', 'frechet'}

    class Other:
        id = 'other'

    assert {r.labels['metric'] for r in pair_rows(split_plan, short, a, replace(b, encoder=Other()))} == {'memorized'}


def test_a_distance_of_another_encoder_is_no_fid(split_plan, tmp_path, monkeypatch):
    "A reader's FID is shown beside our Fréchet distance, and never judged by it."
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'mine.json'))
    papers.cache_clear()
    id = 'table1/cifar10/300/baseline/frechet'
    (tmp_path / 'given.json').write_text(json.dumps({id: 12.5}))
    set_printed(tmp_path / 'given.json')
    m = measured(split_plan, split_plan.arms[0])
    cifar = replace(split_plan, dataset='cifar10', profile='paper', item='table1')
    row = row_of(
        cifar,
        replace(m, arm=replace(m.arm, n=300)),
        'baseline',
        12,
        'frechet',
        Estimate(12.5, 12.4, 12.6, 3, 'seeds'),
        {},
        id,
    )
    assert (row.printed, row.verdict) == (12.5, 'not comparable')
    papers.cache_clear()


@pytest.mark.parametrize(
    'lo, hi, said',
    [(-0.02, 0.03, 'same'), (-0.06, 0.02, 'underpowered'), (0.01, 0.2, 'opposite'), (0.01, 0.04, 'same')],
)
def test_an_equality_needs_a_narrow_interval(lo, hi, said):
    equal = Claim('x/y/memorized', 'direction', 'repro_x', '', '', metric='memorized', inequality='=', margin=0.05)
    assert verdict(equal, Estimate((lo + hi) / 2, lo, hi, 3, 'seeds'), profile='quick').startswith(said)


# a reader's printed values


def test_a_readers_values_are_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'mine.json'))
    papers.cache_clear()
    id = 'table1/cifar10/300/baseline/frechet'
    (tmp_path / 'given.json').write_text(json.dumps({id: 12.5}))
    assert papering.claim(id).printed is None and set_printed(tmp_path / 'given.json') == 1
    assert papering.claim(id).printed == 12.5 and 'by the reader' in papering.claim(id).source
    (tmp_path / 'more.json').write_text(
        json.dumps({'diffmem_fig5/cifar10/1000/unconditional/memorized': dict(printed=0.9, reading_error=0.01)})
    )
    assert set_printed(tmp_path / 'more.json') == 2 and papering.claim(id).printed == 12.5
    papers.cache_clear()


@pytest.mark.parametrize(
    'content, said',
    [
        ('{', 'readable JSON'),
        ('[]', 'JSON object'),
        ('{"table1/x": 1}', 'claims show'),
        ('{"table1/direction/memorized": 1}', 'claims show'),
        ('{"table1/cifar10/300/baseline/frechet": "low"}', 'printed'),
        ('{"table1/cifar10/300/baseline/frechet": {"value": 1}}', 'reading_error'),
    ],
)
def test_bad_values_leave_nothing(content, said, tmp_path, monkeypatch):
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'mine.json'))
    papers.cache_clear()
    (tmp_path / 'given.json').write_text(content)
    with pytest.raises(BadInput, match=re.escape(said)):
        set_printed(tmp_path / 'given.json')
    assert not (tmp_path / 'mine.json').exists()
    papers.cache_clear()


def test_committed_rows_follow_the_rule_that_was_written_before():
    "Every committed verdict is what the rule says of the committed numbers."
    for file in sorted((NBS / 'results').glob('repro_*.json')):
        for r in load_rows(file):
            found = next((c for p in papering.shipped().values() for c in p.claims if c.id == r.claim), None)
            if found is not None and found.kind != 'law':
                assert r.verdict == verdict(found, r.ours, profile=r.profile), r.id
            if found is not None and r.labels['method'] == 'difference' and len(r.seeds) < 3:
                assert r.verdict.startswith('underpowered')


def test_digits_are_as_the_recipes_expect():
    pool = digits()[0]
    assert pd.Series(pool.labels.tolist()).value_counts().min() >= 50, (
        'one class of 50 images for the sweep over classes'
    )
    assert len(load_split('digits', None, 4).pool) == len(pool)


# plans that say early what would fail late


@pytest.mark.parametrize('dataset, batch', [('cifar10', 512), ('ffhq', 256)])
def test_diffmems_ema_has_one_weight_at_every_batch_size(dataset, batch):
    p = plan('diffmem_tables', dataset=dataset, profile='paper', dry_run=True, device='cpu')
    arms = [a for a in p.arms if a.name.startswith(('batch', 'weight decay'))]
    assert p.setup.train.batch == batch and len({a.train.batch for a in arms}) > 2
    for a in arms:
        assert ema_beta(a.train.batch, 10**9, a.train.ema_kimg * 1000, a.train.ema_ramp) == pytest.approx(
            0.99929, abs=1e-9
        ), a.name
    quick = plan('diffmem_tables', profile='quick', dry_run=True, device='cpu').arms
    assert {(a.train.ema_kimg, a.train.ema_ramp) for a in quick if not a.name.startswith('EMA')} == {(500.0, 0.05)}


@pytest.mark.parametrize(
    'item, dataset',
    [(item, 'tinyimagenet') for item in ITEMS if item.startswith('diffmem')]
    + [('diffmem_fig2', 'ffhq'), ('diffmem_fig5', 'ffhq')],
)
@pytest.mark.parametrize('profile', ['quick', 'paper'])
def test_data_without_settings_or_labels_is_refused(item, dataset, profile):
    with pytest.raises(BadInput, match='dataset must be one of digits, cifar10'):
        plan(item, dataset=dataset, profile=profile, dry_run=True, device='cpu')
    assert plan('diffmem_fig3', dataset='ffhq', profile='paper', dry_run=True, device='cpu').dataset == 'ffhq' and plan(
        'table1', dataset='tinyimagenet', profile='paper', dry_run=True, device='cpu'
    )


def test_ten_random_labels_need_more_than_ten_images():
    for profile in ('smoke', 'quick'):
        with pytest.raises(BadInput, match='n must be a whole number from 11 to'):
            plan('diffmem_fig5', n=10, profile=profile, dry_run=True, device='cpu')
    p = plan('diffmem_fig5', n=11, profile='quick', dry_run=True, device='cpu')
    assert next(pair for pair in p.pairs if pair.topic == 'random-labels').a.name == '10 random labels'
    with pytest.raises(BadInput, match='n must be a whole number from 2 to'):
        plan('diffmem_fig3', n=1, profile='quick', dry_run=True, device='cpu')


def test_one_class_has_so_many_images():
    one = int((digits()[0].labels == 0).sum())
    run = Run('digits', one + 1, TrainConfig(), (), 18, 8, recipe=(('classes', 1),))
    with pytest.raises(BadInput, match=f'n must be at most {one}: so many images one class has'):
        training_images(run)
    assert len(training_images(replace(run, n=one))) == one


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_arms_that_are_the_same_are_measured_once(device, tmp_path, monkeypatch):
    run, jobs = Run('digits', 20, TrainConfig(), (5,), 18, 8), []
    monkeypatch.setattr(
        repro,
        'side_by_side',
        lambda pool, work, given, *args: jobs.extend(job[0] for job in given if work is measure_all),
    )
    monkeypatch.setattr(repro, 'train', lambda *args: None)
    if device != 'cpu':
        monkeypatch.setattr(repro, 'measure_all', lambda run, *args: jobs.append(run))
    execute_all([run, replace(run, samples=9), replace(run)], tmp_path, torch.device(device))
    assert jobs == [run, replace(run, samples=9)]


@pytest.mark.parametrize(
    'content',
    [
        '{',
        '[1]',
        '3',
        '{"id": 3}',
        '{"id": {}}',
        '{"id": {"printed": "low"}}',
        '{"id": {"printed": 1, "value": 2}}',
        '{"id": {"printed": true}}',
    ],
)
def test_a_broken_file_of_printed_values_is_one_error(content, tmp_path, monkeypatch):
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'mine.json'))
    papers.cache_clear()
    (tmp_path / 'mine.json').write_text(content)
    with pytest.raises(BadInput, match='AMBIENT_NB_CLAIMS must be a JSON file'):
        papers()
    (tmp_path / 'mine.json').write_text('{"table1/cifar10/300/baseline/frechet": {"printed": 12}}')
    assert papering.claim('table1/cifar10/300/baseline/frechet').printed == 12
    papers.cache_clear()
