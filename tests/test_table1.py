"""Table 1 as a user runs it: bad input, the same numbers twice, kill -9, damage, publishing."""

import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import nbformat, pytest
from ambient_nb import plans, publish, repro, rows as rowing, settings
from ambient_nb.checkpoints import Damaged
from ambient_nb.core import BadInput
from ambient_nb.datasets import DATASETS

NOTEBOOK = Path(__file__).parents[1] / 'nbs' / 'repro_table1.ipynb'
SMALL = dict(n=20, profile='smoke', seeds='0', device='cpu')


def papermill(out, *extra, wait=True):
    "Run the notebook as a user does, in a folder of its own."
    out.mkdir(exist_ok=True)
    args = [
        sys.executable,
        '-m',
        'papermill',
        str(NOTEBOOK),
        str(out / 'out.ipynb'),
        '--no-progress-bar',
        '-p',
        'n',
        '20',
        '-p',
        'profile',
        'smoke',
        '-p',
        'seeds',
        '0',
        '-p',
        'out',
        str(out / 'runs'),
        *extra,
    ]
    env = {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'}  # figures as a user sees them
    process = subprocess.Popen(args, cwd=out, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return (process.wait(), process.stdout.read()) if wait else process


def rows_of(out):
    return rowing.load_rows(next((out / 'runs' / 'rows').glob('*.json')))


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp('table1') / 'run'
    code, text = papermill(out)
    assert code == 0, text
    return out


def test_rows_hold_what_the_design_says(done):
    rows = rows_of(done)
    metrics = {r.labels['metric'] for r in rows}
    assert set(rowing.TABLE_METRICS) <= metrics and {r.labels['method'] for r in rows} == {
        'baseline',
        'two-regime',
        'held-out',
        'training images',
        'exact optimum',
        'difference',
    }
    assert all(r.verdict in ('smoke: no verdict', 'no claim') for r in rows) and all(r.printed is None for r in rows)
    assert all(r.provenance['torch'] and len(r.data['train']) == 64 and r.numerics for r in rows)
    assert len({r.id for r in rows}) == len(rows)


def test_the_same_command_twice_gives_identical_rows(done):
    before = rows_of(done)
    trained = sorted(p.stat().st_mtime_ns for p in (done / 'runs' / 'train').glob('*/snapshot-*'))
    code, text = papermill(done)
    assert code == 0, text
    assert rowing.same_numbers(before, rows_of(done)) and trained == sorted(
        p.stat().st_mtime_ns for p in (done / 'runs' / 'train').glob('*/snapshot-*')
    )


def test_kill_9_and_again(done, tmp_path):
    process = papermill(tmp_path, wait=False)
    while not list((tmp_path / 'runs' / 'train').glob('*/snapshot-*.json')):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    children = subprocess.run(
        ['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    for pid in (process.pid, *map(int, children)):  # papermill and its kernel; the workers must notice by themselves
        os.kill(pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.5)
    assert not list((tmp_path / 'runs').glob('rows/*.json')), 'killed too late to show anything'
    code, text = papermill(tmp_path)
    assert code == 0, text
    assert rowing.same_numbers(rows_of(done), rows_of(tmp_path))


def test_damage_is_refused(done, tmp_path):
    out = tmp_path / 'copy'
    shutil.copytree(done, out)
    plan = plans.plan('table1', **SMALL, out=out / 'runs')
    rows = next((out / 'runs' / 'rows').glob('*.json'))
    rows.write_text(rows.read_text().replace('"value": ', '"value": 1', 1))
    with pytest.raises(Damaged, match=rows.name):
        rowing.load_rows(rows)
    for pattern in ('train/*/eval-*.parquet', 'train/*/eval-*.json', 'train/*/eval-*.safetensors'):
        victim = sorted((out / 'runs').glob(pattern))[0]
        whole = victim.read_bytes()
        victim.write_bytes(whole[:-20] + b'x' * 20)
        with pytest.raises(Damaged, match='damaged'):
            rowing.collect(plan)
        victim.write_bytes(whole)
    assert rowing.same_numbers(rowing.collect(plan), rows_of(done))


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
        plans.plan('table1', **given)
    if name == 'sigman':
        name, value = 'parameter', 'sigman'
    assert e.value.name == name and repr(value) in str(e.value) and 'must be' in str(e.value)
    assert not list(tmp_path.rglob('*.json')), 'something was written'


def test_an_unwritable_out_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BadInput, match='out='):
        plans.plan('table1', **SMALL, out=tmp_path / 'file' / 'runs')


def test_bad_input_in_the_notebook_is_one_clear_error(tmp_path):
    code, text = papermill(tmp_path, '-p', 'n', '-5')
    assert code == 1 and 'n=-5 is not allowed: n must be a whole number from' in text
    assert not list((tmp_path / 'runs').rglob('*.json'))


@pytest.mark.parametrize('dataset', ['cifar10', 'ffhq', 'tinyimagenet'])
def test_the_papers_plan_needs_neither_data_nor_gpu(dataset):
    plan = plans.plan('table1', n='300,1000,3000', dataset=dataset, profile='paper', dry_run=True, device='cpu')
    words = plans.describe(plan).value
    c = plan.setup.train
    assert (c.lr, c.weight_decay, c.batch * c.iters, plan.setup.steps, plan.setup.samples, c.ema_kimg) == (
        1e-4,
        0.01,
        40_960_000 if dataset == 'tinyimagenet' else 7_680_000,
        40,
        50_000,
        500,
    )
    assert 'hours' in words['on an H200'] and 'PFLOP' in words['operations']
    assert rowing.reproduce(plan) == []


def test_flops_of_the_papers_network():
    "EDM’s own network was measured at 42.4 GFLOP a forward image; ours leaves out its depthwise resampling filters (2 %)."
    assert abs(plans.forward_flops(settings.SETTINGS['main']['cifar10'].train.net, (3, 32, 32)) / 41.5e9 - 1) < 0.01


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
    assert plans.plan('table1', n=20, profile='quick', iters=10, device='cpu').profile == 'custom'


def test_publishing_changes_no_source(done, tmp_path):
    committed = tmp_path / 'repro_table1.ipynb'
    shutil.copy(NOTEBOOK, committed)
    before = nbformat.read(committed, 4)
    publish.publish_outputs(done / 'out.ipynb', committed)
    after = nbformat.read(committed, 4)
    assert [(c.cell_type, c.source, c.id, c.metadata) for c in before.cells] == [
        (c.cell_type, c.source, c.id, c.metadata) for c in after.cells
    ] and before.metadata == after.metadata
    assert '"smoke"' not in json.dumps([c.source for c in after.cells]) and any(
        'image/png' in json.dumps(c.get('outputs', [])) for c in after.cells
    )
    after.cells[1].source += ' changed'
    nbformat.write(after, committed)
    with pytest.raises(BadInput, match='sources differ'):
        publish.publish_outputs(done / 'out.ipynb', committed)


def test_the_parameters_cell_is_tagged():
    tagged = [c for c in nbformat.read(NOTEBOOK, 4).cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == 1
    names = [line.split(' =')[0] for line in tagged[0].source.splitlines()]
    assert names == 'n dataset profile sigma_n iters seeds out device data size dry_run'.split()


@pytest.mark.real_data
def test_real_images(tmp_path, data_dir):
    "The same cells on real CIFAR-10; the last tenth of a lone zip is held out."
    code, text = papermill(
        tmp_path, '-p', 'dataset', 'cifar10', '-p', 'data', str(data_dir / 'cifar10-32x32-test.zip'), '-p', 'size', '16'
    )
    assert code == 0, text
    rows = rows_of(tmp_path)
    assert {r.labels['dataset'] for r in rows} == {'cifar10'} and any('pixels-' in r.metric_id for r in rows)


def test_a_dry_run_checks_what_is_given():
    with pytest.raises(BadInput, match='data='):
        plans.plan('table1', dataset='cifar10', profile='paper', data='/no/such.zip', dry_run=True, device='cpu')
    words = plans.describe(plans.plan('table1', n=20, profile='smoke', dry_run=True, device='cpu')).value
    assert 'minutes on cpu' in words['here'] and 'on an H200' not in words
