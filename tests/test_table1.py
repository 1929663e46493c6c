"""Table 1 as a user runs it: bad input, the same numbers twice, kill -9, damage, publishing."""

import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import nbformat, pytest
from ambient_nb import plans, publish, rows as rowing
from ambient_nb.checkpoints import Damaged
from ambient_nb.collect import collect
from ambient_nb.core import BadInput

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
            collect(plan)
        victim.write_bytes(whole)
    assert rowing.same_numbers(collect(plan), rows_of(done))


def test_bad_input_in_the_notebook_is_one_clear_error(tmp_path):
    code, text = papermill(tmp_path, '-p', 'n', '-5')
    assert code == 1 and 'n=-5 is not allowed: n must be a whole number from' in text
    assert not list((tmp_path / 'runs').rglob('*.json'))


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


@pytest.mark.real_data
def test_real_images(tmp_path, data_dir):
    "The same cells on real CIFAR-10; the last tenth of a lone zip is held out."
    code, text = papermill(
        tmp_path, '-p', 'dataset', 'cifar10', '-p', 'data', str(data_dir / 'cifar10-32x32-test.zip'), '-p', 'size', '16'
    )
    assert code == 0, text
    rows = rows_of(tmp_path)
    assert {r.labels['dataset'] for r in rows} == {'cifar10'} and any('pixels-' in r.metric_id for r in rows)
