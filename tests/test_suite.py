"""Items, arms, plans: every table and figure asks what it says it asks, and every claim has a notebook."""

import json
import re
from dataclasses import replace

import pytest
from tree import NBS, ROOT, notebooks

from ambient_nb import laws, papers as papering, publish, repro, sweeps, tables, tweediefid
from ambient_nb.collect import collect
from ambient_nb.core import BadInput, content_hash
from ambient_nb.papers import papers, set_printed
from ambient_nb.plans import plan
from ambient_nb.datasets import DATASETS
from ambient_nb.draws import image_data
from ambient_nb.drive import identity
from ambient_nb.settings import SETTINGS, constant_ema, propose, quick_setup
from ambient_nb.suite import ITEMS, THREE
from ambient_nb.timescales import EXPONENTS
from ambient_nb.runs import load_split
from ambient_nb.training import TrainConfig, ema_beta

PLANS = ROOT / 'tests' / 'golden' / 'plans.json'
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
            for m in ('memorized', 'sim>null99', 'similarity_mean', *(laws.MEASURES if 'laws' in item else ['frechet']))
        } | {f'timescales/{topic}/exponent' for topic in EXPONENTS}
        if item == 'tweedie_fid':  # other ways down, which no arm is
            ways = {a.name + way for a in p.arms for way in ('', ', truncated')}
            asked |= {f'{item}/{q.topic}/{m}' for q in tweediefid.questions_of(p) for m in tweediefid.QUALITIES}
            asked |= {f'{item}/{tweediefid.share_topic(name)}/noise_share' for name in ways}
        wanted = {
            c.id
            for paper in papers().values()
            for c in paper.claims
            if c.notebook == f'repro_{item}' and c.kind == 'direction'
        }
        assert wanted <= asked


def test_headline_claims_have_three_seeds():
    "Table 1's three are in its published parameters; its notebook's own default is one seed, for a laptop."
    assert {i for i, it in ITEMS.items() if it.seeds == THREE} >= {
        'fig1',
        'ablation_noise',
        'ablation_split',
        'diffmem_fig1',
        'diffmem_fig4',
        'diffmem_fig5',
        'laws_tables',
        'tweedie_fid',
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


def test_the_laws_print_a_value_for_each_of_our_arms():
    "By name, so that printed and own values stand in one line."
    arms = {a.name for a in plan('laws_tables', profile='paper', dry_run=True, device='cpu').arms}
    assert len(arms) == 13 and arms <= set(laws.printed_scores('cifar10'))
    assert {a.name for a in plan('laws_tables', profile='quick', dry_run=True, device='cpu').arms} <= arms


def test_the_few_clean_images_are_those_that_are_clean_in_the_mixture():
    p = plan('laws_tables', profile='quick', dry_run=True, device='cpu')
    few, mixed = (p.run(next(a for a in p.arms if a.name.startswith(name)), 1) for name in ('10% clean', '10% clean, '))
    clean = image_data(mixed.config.loss, mixed.images.ids, mixed.shape)['clean']
    assert len(few.images) == 30 and few.images.ids.tolist() == mixed.images.ids[clean].tolist()
    assert {a.train.iters for a in p.arms} == {330}
    asked = plan('laws_tables', profile='quick', iters=7, dry_run=True, device='cpu')
    assert {a.train.iters for a in asked.arms} == {7}


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


def test_references_and_other_iterations_are_shown(split_plan):
    rows = collect(split_plan)
    own = next(r for r in rows if r.kind == 'copier')
    assert sweeps.arms_table(rows).loc['training images', 'Fréchet distance'] == tables.shown('frechet', own.ours)
    last = next(r for r in rows if r.kind == 'pair' and r.labels['it'] == 12)
    other = replace(last, detail=dict(last.detail, against=dict(it=8)))
    assert (tables.iterations(last), tables.iterations(other)) == ('12', '12 against 8')


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
    assert papering.checked_value('laws_tables/cifar10/50000/price at 0.1, most/price', 1.5)['printed'] == 1.5
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


@pytest.mark.parametrize('item, dataset', [('diffmem_fig2', 'ffhq'), ('diffmem_fig5', 'ffhq')])
@pytest.mark.parametrize('profile', ['quick', 'paper'])
def test_data_without_labels_is_refused(item, dataset, profile):
    with pytest.raises(BadInput, match='dataset must be one with labels'):
        plan(item, dataset=dataset, profile=profile, dry_run=True, device='cpu')
    assert plan('diffmem_fig3', dataset='ffhq', profile='paper', dry_run=True, device='cpu').dataset == 'ffhq'


@pytest.mark.parametrize('item', [item for item in ITEMS if item.startswith('diffmem')])
def test_data_without_settings_is_refused_in_the_papers_profile(item):
    with pytest.raises(BadInput, match='smoke or quick for tinyimagenet: diffmem has settings for cifar10, ffhq only'):
        plan(item, dataset='tinyimagenet', profile='paper', dry_run=True, device='cpu')
    assert plan(item, dataset='tinyimagenet', profile='quick', dry_run=True, device='cpu').profile == 'custom'


def told(item: str, profile: str) -> dict:
    "All arms, settings, questions and exact optima of a plan, as JSON."

    def line(a):
        train, partner = (c and content_hash(identity(c)) for c in (a.train, a.partner))
        recipe = [list(r) for r in a.recipe]
        return [a.name, a.n, a.x, train, list(a.budgets), list(a.curve), recipe, a.size, partner, a.split]

    p = plan(item, profile=profile, dry_run=True, device='cpu')
    return dict(
        dataset=p.dataset,
        n=list(p.ns),
        seeds=list(p.seeds),
        sampler=[p.setup.steps, p.setup.samples],
        sigma_n=p.setup.sigma_n,
        arms=[line(a) for a in p.arms],
        pairs=[[q.topic, q.a.name, q.b.name, q.a.n] for q in p.pairs],
        optima=[[a.name, a.n] for a in p.optima],
    )


def published_plans() -> dict:  # item/profile -> the item and the profile
    "The plans of all items with rows in nbs/."
    items = [item for item in ITEMS if (NBS / 'results' / f'repro_{item}.quick.json').exists()]
    return {f'{item}/{profile}': (item, profile) for item in items for profile in repro.PROFILES}


def test_plans_are_as_they_were():
    "As on the day when their rows were published; `python tests/test_suite.py` adds those of a new item."
    golden = json.loads(PLANS.read_text())
    assert set(golden) == set(published_plans()) and len(golden) >= 33
    for name, asked in published_plans().items():
        assert golden[name] == told(*asked), name


def test_every_sweep_has_a_line_for_every_profile():
    for item in ITEMS.values():
        assert set(item.ns) == set(item.seeds) == set(repro.PROFILES) and set(item.sweep) in (
            set(),
            set(repro.PROFILES),
        )
        assert item.paper in SETTINGS


@pytest.mark.real_data
def test_cifar10s_own_proposal_is_edms(data_dir):
    "What `propose` says of CIFAR-10 is what EDM chose for it; half of all looks are then below .3."
    pool = load_split('cifar10', str(data_dir / 'cifar10-32x32-test.zip'), None).pool
    found = {name: p.value for name, p in propose(pool).items()}
    c = TrainConfig()
    assert (found['sigma_data'], found['P_mean'], found['P_std']) == (c.sigma_data, c.P_mean, c.P_std)
    assert found['sigma_n'][1] == 0.3 and quick_setup(DATASETS['cifar10'], pool) == quick_setup(DATASETS['cifar10'])


def test_ten_random_labels_need_more_than_ten_images():
    for profile in ('smoke', 'quick'):
        with pytest.raises(BadInput, match='n must be a whole number from 11 to'):
            plan('diffmem_fig5', n=10, profile=profile, dry_run=True, device='cpu')
    p = plan('diffmem_fig5', n=11, profile='quick', dry_run=True, device='cpu')
    assert next(pair for pair in p.pairs if pair.topic == 'random-labels').a.name == '10 random labels'
    with pytest.raises(BadInput, match='n must be a whole number from 2 to'):
        plan('diffmem_fig3', n=1, profile='quick', dry_run=True, device='cpu')


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


if __name__ == '__main__':
    known = json.loads(PLANS.read_text())
    new = {name: told(*asked) for name, asked in published_plans().items() if name not in known}
    PLANS.write_text(json.dumps(known | new, separators=(',', ':')))
    print('added:', ', '.join(new) or 'nothing')
