"""Items, arms, plans: every table and figure asks what it says it asks, and every claim has a notebook."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tree import NBS, ROOT, notebooks

from ambient_nb import draw, papers as papering, publish, repro
from ambient_nb.collect import collect, measured, row_of
from ambient_nb.core import BadInput, content_hash
from ambient_nb.papers import papers, set_printed
from ambient_nb.plans import plan
from ambient_nb.rows import Row, load_rows, save_rows
from ambient_nb.stats import Estimate
from ambient_nb.datasets import DATASETS
from ambient_nb.settings import SETTINGS, constant_ema, propose, quick_setup
from ambient_nb.suite import ITEMS, THREE
from ambient_nb.runs import load_split
from ambient_nb.training import TrainConfig, ema_beta, identity

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
    assert draw.arms_table(rows).loc['training images', 'Fréchet distance'] == draw.shown('frechet', own.ours)
    last = next(r for r in rows if r.kind == 'pair' and r.labels['it'] == 12)
    other = replace(last, detail=dict(last.detail, against=dict(it=8)))
    assert (draw.iterations(last), draw.iterations(other)) == ('12', '12 against 8')


@pytest.mark.parametrize('log', [(), ('swap',)])
def test_every_point_of_a_figure_is_inside_it(split_plan, log):
    import matplotlib

    matplotlib.use('Agg')
    rows, names = collect(split_plan), [a.name for a in split_plan.arms if a.name.startswith('two-regime above')]
    ax = draw.arms_figure(rows, {'swap': names}, log=log).axes[0]
    ax.figure.canvas.draw()
    points = [
        line.get_transform().transform((x, y))
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata())
        if line.get_marker() in 'os'
    ]
    box = ax.get_window_extent()
    assert len(points) == 2 * len(names) and all(
        box.x0 + 5 < x < box.x1 - 5 and box.y0 <= y <= box.y1 for x, y in points
    )
    assert len({round(x) for x, _ in points}) == 2 * len(names), 'the two budgets hide each other'


def test_sizes_of_one_arm_get_a_panel_each(split_plan):
    rows = collect(split_plan)
    twice = [*rows, *(replace(r, labels=dict(r.labels, n=21)) for r in rows)]
    import matplotlib

    matplotlib.use('Agg')
    titles = [ax.get_title() for ax in draw.arms_figure(twice, {'swap': ['baseline', 'two-regime']}).axes]
    assert titles == ['swap, n = 20', 'swap, n = 21'] and [
        ax.get_title() for ax in draw.arms_figure(rows, {'swap': ['baseline']}).axes
    ] == ['swap']


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
    judged = replace(row, labels=dict(row.labels, method='difference'), claim='table1/direction/frechet')
    assert draw.table([row, judged]).printed.tolist() == ['Fréchet distance 12.50']
    assert draw.printed_values('repro_table1').loc[('cifar10', 'baseline', 'Fréchet distance'), 300] == '12.50'
    papers.cache_clear()
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'none.json'))
    assert draw.table([row, judged]).printed.tolist() == ['not available']
    papers.cache_clear()


def test_every_claim_is_listed_with_what_it_expects():
    for key, paper in papers().items():
        table = draw.claims_table(key, [], ('direction', 'law', 'value')).set_index('claim')
        assert set(table.index) == {c.id for c in paper.claims} and set(table.ours) == {'no row yet'}
        expected = table['printed or expected'].to_dict()
        for c in paper.claims:
            assert expected[c.id] == (
                c.printed_text
                if c.kind == 'value'
                else f'{c.inequality} 0'
                if c.expected is None
                else f'{c.expected:g}'
            )


def test_a_share_is_shown_within_0_and_100():
    wide = Estimate(0.9, 0.7, 1.1, 3, 'seeds')
    assert (
        draw.shown('memorized', draw.bounded('memorized', wide)) == '90.0 [70.0, 100.0]'
        and draw.bounded('frechet', wide) == wide
    )
    assert (
        draw.bounded('memorized', Estimate(0.1, -0.1, 0.3, 3, 'seeds')).lo == 0
        and draw.bounded('memorized', Estimate(0.1, None, None, 1)).hi is None
    )


def test_arms_that_share_a_training_cost_it_once(split_plan):
    rows = collect(split_plan)
    assert draw.cost(rows).startswith('2 trainings, ') and len(split_plan.arms) == 12
    one = next(r for r in rows if r.claim == 'ablation_split/above/memorized')
    table = draw.claims_table('main', rows).set_index('claim')
    assert set(table['cost of the notebook'][one.claim]) == {draw.cost(rows).split(';')[0]} and set(
        table['cost of the notebook'].drop(['ablation_split/above/memorized', 'ablation_split/below/memorized'])
    ) == {''}


def test_a_difference_nobody_claims_is_shown_too(split_plan):
    rows = [replace(r, claim=None) for r in collect(split_plan)]
    table = draw.differences(rows)
    assert (
        set(table.claim) == {'none'}
        and set(table.of) == {'% memorized (1/3 rule)'}
        and len(table) == 2 * len(split_plan.pairs)
    )


# the suite


@pytest.fixture
def two_notebooks(tmp_path, monkeypatch):
    "A checkout with the names of the real notebooks, and a `run` that stores rows without running anything."
    calls = []
    row = Row(
        id='a/b',
        kind='arm',
        labels=dict(dataset='digits', n=1, method='m', it=0, metric='memorized'),
        ours=Estimate(0.5, 0.4, 0.6, 10),
        detail={},
        verdict='no claim',
        metric_id='m',
        data={},
        made_by={},
        seeds=(1,),
        selection='',
        profile='smoke',
        numerics=1,
        provenance={},
    )

    def run(name, parameters, out):
        calls.append((name, parameters))
        if name == 'repro_fig1' and run.broken:
            raise RuntimeError('the kernel died')
        save_rows(
            [replace(row, profile=parameters['profile'])], out / 'rows' / f'{name.removeprefix("repro_")}-smoke-0.json'
        )
        (out / f'{name}.ipynb').write_text(f'run {len(calls)}')
        return out / f'{name}.ipynb'

    run.broken = False
    return tmp_path / 'out', run, calls


def test_the_suite_runs_what_is_missing_in_order_and_goes_on_after_a_failure(two_notebooks):
    out, run, calls = two_notebooks
    run.broken, said = True, []
    table = publish.run_suite('smoke', out=out, run=run, say=said.append)
    names = [name for name, _ in calls]
    assert (
        names[: len(ITEMS)] == [f'repro_{i}' for i in ITEMS]
        and set(names) == {nb.stem for nb in REPROS}
        and len(said) == len(names)
    )
    assert (
        table.state['repro_fig1'].startswith('failed: the kernel died')
        and (table.state.drop('repro_fig1') == 'run').all()
    )
    calls.clear()
    run.broken = False
    table = publish.run_suite('smoke', out=out, run=run, say=said.append)
    assert (
        [name for name, _ in calls] == ['repro_fig1']
        and table.state['repro_fig1'] == 'run'
        and (table.state.drop('repro_fig1') == 'was done').all()
    )


def test_only_a_key(two_notebooks):
    out, run, calls = two_notebooks
    publish.run_suite('smoke', 'diffmem', out=out, run=run, say=lambda line: None)
    assert {name for name, _ in calls} == {nb.stem for nb in REPROS if nb.stem.startswith('repro_diffmem')} and calls
    with pytest.raises(BadInput, match='only'):
        publish.run_suite('smoke', 'mnist', out=out, run=run)


def test_published_parameters_reach_the_notebook(two_notebooks):
    out, run, calls = two_notebooks
    publish.run_suite('quick', 'table1', out=out, run=run, say=lambda line: None)
    assert calls == [('repro_table1', dict(n='50,100,300', seeds='1,2,3', profile='quick'))]


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


# what is published


@pytest.fixture
def pages(two_notebooks, tmp_path, monkeypatch):
    "The names of the real notebooks in a checkout of their own, and what would be published there."
    shown = []
    (tmp_path / 'nbs').mkdir()
    for nb in REPROS:
        (tmp_path / 'nbs' / nb.name).write_bytes((NBS / nb).read_bytes())
    monkeypatch.setattr(publish, 'repro_folder', lambda: tmp_path / 'nbs')
    monkeypatch.setattr(
        publish, 'publish_outputs', lambda executed, committed: shown.append((executed.read_text(), committed.name))
    )
    return (*two_notebooks, tmp_path / 'nbs', shown)


def test_outputs_and_rows_of_one_run_are_published(pages):
    "What ran later in the same folder, with other parameters, is not what the mark is of."
    out, run, calls, folder, shown = pages
    publish.run_suite('quick', 'table1', out=out, run=run, say=lambda line: None)
    later = run('repro_table1', dict(profile='custom'), out)
    assert later.read_text() == 'run 2' and load_rows(out / 'rows' / 'table1-smoke-0.json')[0].profile == 'custom'
    table = publish.run_suite('quick', 'table1', out=out, run=run, publish=True, say=lambda line: None)
    assert table.state['repro_table1'] == 'was done' and shown == [('run 1', 'repro_table1.ipynb')]
    assert [f.name for f in (folder / 'results').iterdir()] == ['repro_table1.quick.json']


def test_a_run_without_rows_is_no_run(pages):
    "A dry run beside older rows leaves no mark, and nothing is published."
    out, run, calls, folder, shown = pages
    run('repro_table1', dict(profile='quick'), out)
    table = publish.run_suite(
        'quick',
        'table1',
        out=out,
        run=lambda name, parameters, out: out / f'{name}.ipynb',
        publish=True,
        say=lambda line: None,
    )
    assert (
        table.state['repro_table1'].startswith('failed: rows=')
        and not shown
        and not list((out / 'done').glob('*.json'))
    )


def test_a_notebook_publishes_the_rows_that_it_stored(pages, monkeypatch):
    import papermill

    out, run, calls, folder, shown = pages
    run('repro_table1', dict(profile='quick'), out)
    stores = dict(rows=False)

    def execute(source, executed, parameters, **kwargs):
        Path(executed).write_text('executed')
        if stores['rows']:
            run('repro_table1', parameters, out)

    monkeypatch.setattr(papermill, 'execute_notebook', execute)
    with pytest.raises(BadInput, match='it stored none'):
        publish.run_notebook('repro_table1', dict(profile='quick'), out=out, publish=True)
    assert not shown and not (folder / 'results').exists()
    stores['rows'] = True
    publish.run_notebook('repro_table1', dict(profile='quick'), out=out, publish=True)
    assert calls[-1][1] == dict(n='50,100,300', seeds='1,2,3', profile='quick', out=str(out)) and shown == [
        ('run 2', 'repro_table1.ipynb')
    ]


@pytest.mark.parametrize(
    'asked',
    [
        dict(profile='smoke'),
        dict(profile='quick', dry_run='True'),
        dict(profile='quick', n='20'),
        dict(profile='quick', iters=None),
        dict(profile='quick', n='50,100,300', seeds='1'),
    ],
)
def test_another_run_is_not_published(asked, pages, monkeypatch):
    import papermill

    out, run, calls, folder, shown = pages
    monkeypatch.setattr(papermill, 'execute_notebook', lambda *args, **kwargs: pytest.fail('it ran'))
    with pytest.raises(BadInput, match='publish must be left out'):
        publish.run_notebook('repro_table1', asked, out=out, publish=True)
    if set(asked) == {'profile'}:
        with pytest.raises(BadInput, match='publish must be left out'):
            publish.run_suite(asked['profile'], out=out, run=run, publish=True)
    assert not calls and publish.published('repro_table1', dict(profile='quick', n='50,100,300')) == dict(
        n='50,100,300', seeds='1,2,3', profile='quick'
    )


def test_another_library_or_another_claim_is_run_again(two_notebooks, tmp_path, monkeypatch):
    out, run, calls = two_notebooks
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'mine.json'))

    def states():
        return publish.run_suite('smoke', 'table1', out=out, run=run, say=lambda line: None).state.tolist()

    assert states() + states() == ['run', 'was done']
    (tmp_path / 'mine.json').write_text(
        json.dumps({'table1/cifar10/300/baseline/frechet': dict(printed=12.5, reading_error=0.0)})
    )
    assert states() + states() == ['run', 'was done']
    shutil.copytree(papering.asset('papers'), tmp_path / 'papers')
    monkeypatch.setattr(publish, 'asset', lambda name: tmp_path / name)
    assert states() == ['was done']
    (tmp_path / 'papers' / 'main.json').write_text('{}')
    assert states() + states() == ['run', 'was done']
    shutil.copytree(
        Path(publish.core.__file__).parent, tmp_path / 'ambient_nb', ignore=shutil.ignore_patterns('__pycache__')
    )
    monkeypatch.setattr(publish.core, '__file__', str(tmp_path / 'ambient_nb' / 'core.py'))
    assert states() == ['was done']
    with open(tmp_path / 'ambient_nb' / 'sampling.py', 'a') as f:
        f.write('\n')
    assert states() + states() == ['run', 'was done']


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


def test_plans_are_as_they_were():
    "All arms, settings, questions and exact optima, as on the day when their rows were published."

    def line(a):
        train, partner = (c and content_hash(identity(c)) for c in (a.train, a.partner))
        recipe = [list(r) for r in a.recipe]
        return [a.name, a.n, a.x, train, list(a.budgets), list(a.curve), recipe, a.size, partner, a.split]

    golden = json.loads((ROOT / 'tests' / 'golden' / 'plans.json').read_text())
    assert set(golden) == {f'{item}/{profile}' for item in ITEMS for profile in ('smoke', 'quick', 'paper')}
    for name, wanted in golden.items():
        item, profile = name.split('/')
        p = plan(item, profile=profile, dry_run=True, device='cpu')
        assert wanted == dict(
            dataset=p.dataset,
            n=list(p.ns),
            seeds=list(p.seeds),
            sampler=[p.setup.steps, p.setup.samples],
            sigma_n=p.setup.sigma_n,
            arms=[line(a) for a in p.arms],
            pairs=[[q.topic, q.a.name, q.b.name, q.a.n] for q in p.pairs],
            optima=[[a.name, a.n] for a in p.optima],
        ), name


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
