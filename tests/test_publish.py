"""Publishing: the suite runs what is missing, and nbs/ shows one run of a profile and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tree import NBS, notebooks

from ambient_nb import papers as papering, publish
from ambient_nb.checkpoints import save_json
from ambient_nb.core import BadInput
from ambient_nb.rows import Row, load_rows, save_rows
from ambient_nb.stats import Estimate
from ambient_nb.suite import ITEMS

REPROS = [nb for nb in notebooks() if nb.name.startswith('repro_')]


def row_by_hand() -> Row:
    "One row, of nothing."
    labels = dict(dataset='digits', n=1, method='m', it=0, metric='memorized')
    about = dict(verdict='no claim', metric_id='m', kind='law', made_by={}, selection='', data={})
    return Row(
        id='a/b',
        labels=labels,
        ours=Estimate(0.5, 0.4, 0.6, 10),
        detail={},
        seeds=(1,),
        profile='smoke',
        numerics=1,
        provenance={},
        **about,
    )


@pytest.fixture
def two_notebooks(tmp_path, monkeypatch):
    "A checkout with the names of the real notebooks, and a `run` that stores rows without running anything."
    calls, row = [], row_by_hand()

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


@pytest.mark.parametrize('place', ['nbs', 'nbs/results', 'nbs/new/deep'])
def test_a_run_does_not_write_among_the_notebooks(place):
    with pytest.raises(BadInput, match='^out=.*outside nbs/'):
        publish.run_notebook('repro_table1', dict(profile='smoke'), out=NBS.parent / place)
    assert not (NBS / 'new').exists()


def test_a_relative_folder_is_the_same_in_a_kernel(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(publish, 'repro_folder', lambda: NBS)
    monkeypatch.setattr(publish, 'execute', lambda source, executed, parameters: seen.append((executed, parameters)))
    monkeypatch.chdir(tmp_path)
    publish.run_notebook('repro_theory_feldman', dict(profile='smoke'), out=Path('out'))
    executed, parameters = seen[0]
    assert parameters['out'] == str(tmp_path / 'out') and executed == tmp_path / 'out' / 'repro_theory_feldman.ipynb'
    assert [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('lost', ['.ipynb', '.rows.json'])
def test_a_mark_without_what_it_marks_is_no_mark(lost, tmp_path):
    (done := tmp_path / 'done').mkdir()
    for end in ('.ipynb', '.rows.json'):
        (done / f'repro_table1-smoke{end}').write_text('{}')
    save_json(done / 'repro_table1-smoke.json', dict(key=publish.suite_key('repro_table1', dict(profile='smoke'))))

    def never(*args, **kwargs):
        raise LookupError('it runs')

    assert publish.run_once('repro_table1', dict(profile='smoke'), tmp_path, never)[2] is False
    (done / f'repro_table1-smoke{lost}').unlink()
    with pytest.raises(LookupError, match='it runs'):
        publish.run_once('repro_table1', dict(profile='smoke'), tmp_path, never)
