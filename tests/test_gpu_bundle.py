"The half hour on a GPU, with two iterations of a tiny network: packed, unpacked elsewhere, stopped, killed, continued."

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from tree import NBS, ROOT

from ambient_nb.core import BadInput, rng
from ambient_nb.data import Images, load, write_zip
from ambient_nb.rows import load_rows, save_rows

BLOCKED = '''
import sys
from importlib.machinery import ModuleSpec
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {
            'papermill', 'ipykernel', 'ipywidgets', 'IPython', 'nbformat', 'nbdev', 'fastcore', 'execnb', 'faiss',
            'torch_fidelity', 'torchvision', 'seaborn', 'sklearn', 'typer'
        }: return ModuleSpec(name, self)
    def create_module(self, spec): raise ModuleNotFoundError(spec.name)
    def exec_module(self, module): pass
sys.meta_path.insert(0, Absent())
'''


def bundle(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / 'tools' / 'gpu_bundle.py', '--no-wheels', *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def imported(name: str):
    "A script of tools/ as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.fixture(scope='module')
def gpu():
    return imported('gpu_table1')


@pytest.fixture
def bundler(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return imported('gpu_bundle')


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    "CIFAR-10's zips in miniature: 310 smooth random images, 40 held out."
    folder = tmp_path_factory.mktemp('data')
    for name, n in (('train', 310), ('test', 40)):
        small = torch.rand(n, 3, 4, 4, generator=rng(0, 'gpu', name))
        pixels = (255 * torch.nn.functional.interpolate(small, size=(32, 32), mode='bilinear')).to(torch.uint8)
        write_zip(
            folder / f'cifar10-32x32-{name}.zip', Images(pixels, torch.arange(n) % 10, torch.arange(n), 'cifar10')
        )
    return folder


@pytest.fixture(scope='module')
def packed(data, tmp_path_factory) -> Path:
    "The bundle, moved to a place of its own, beside a Python without what it can do without."
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    done = bundle('--data', data, '--out', elsewhere / 'made')
    assert done.returncode == 0 and 'MiB' in done.stdout, done.stderr
    (elsewhere / 'made').rename(elsewhere / 'gpu')
    (elsewhere / 'gpu' / 'sitecustomize.py').write_text(BLOCKED)
    return elsewhere


def start(packed: Path, *args) -> subprocess.Popen:
    "The command, with the bundle and nothing else of ours to import."
    env = {k: v for k, v in os.environ.items() if not k.startswith('AMBIENT_NB')} | dict(
        PYTHONPATH=str(packed / 'gpu'), OMP_NUM_THREADS='1', OUT=str(packed / 'out')
    )
    (packed / 'out').mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, 'gpu/gpu_table1.py', '--smoke', '--out', 'run', *args],
        cwd=packed,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    text = process.communicate()[0]
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope='module')
def story(packed) -> dict:
    "A command that stops in time, one that is killed between the two methods, one that comes to the end."

    def trained():
        return {f: f.stat().st_mtime_ns for f in (packed / 'run' / 'train').glob('*/snapshot-0000002.json')}

    said = finish(start(packed, '--minutes', '.001'))
    states = list((packed / 'run' / 'train').glob('*/state-0000001.json'))
    process = start(packed)
    while not trained():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = trained()
    return dict(stopped=said, states=states, killed=before, end=finish(start(packed)), after=trained())


@pytest.fixture
def whole(story, packed) -> Path:
    return packed / 'out'


def test_it_runs_on_the_bundle_alone(whole, packed, data):
    rows = load_rows(whole / 'gpu_table1.paper.json')
    names = {r.labels['method'] for r in rows}
    assert names == {
        'held-out',
        'training images',
        'exact optimum',
        'baseline',
        'two-regime',
        'difference',
        "baseline, the paper's ramp",
        "two-regime, the paper's ramp",
    }
    assert len({r.id for r in rows}) == len(rows) and {r.verdict for r in rows} <= {'smoke: no verdict', 'no claim'}
    last = {r.labels['method']: r for r in rows if r.labels['metric'] == 'memorized' and r.labels['it'] == 2}
    for name in ('baseline', 'two-regime'):
        assert (
            last[name].cost['mfu'] > 0
            and last[name].cost['gpu_minutes'] > last[name].cost['training_sec'] / 60
            and '2 iterations, lr 0.0002, ramp 100 kimg, bf16' in last[name].selection
        )
    assert 'lr 0.0001, ramp 10000 kimg' in last["baseline, the paper's ramp"].selection
    assert {r.labels['it'] for r in rows if r.labels['method'] == 'baseline'} == {1, 2}, 'half-time and end'
    manifest = json.loads((packed / 'gpu' / 'manifest.json').read_text())
    assert {r.provenance['commit'] for r in rows} == {manifest['commit']}
    pool = load('cifar10', data).pool.take(range(300))
    assert {r.data['train'] for r in rows} == {pool.sha} == {manifest['sha256']}
    assert (whole / 'gpu_table1.png').read_bytes()[:4] == b'\x89PNG' and {f.name for f in whole.iterdir()} == {
        'gpu_table1.paper.json',
        'gpu_table1.png',
        'bench_edm.json',
        'steps.json',
        'session.json',
    }
    assert sum(f.stat().st_size for f in whole.iterdir()) < 2**20


def test_stopped_killed_and_continued(story, packed):
    assert 'stopped in time' in story['stopped'] and len(story['states']) == 1 and 'done' in story['end']
    assert len(story['killed']) == 1, 'killed too late to show anything'
    assert len(story['after']) == 4 and story['killed'].items() <= story['after'].items(), 'trained again'
    (baseline,) = story['killed']
    assert [
        line.split()[5] for line in (baseline.parent / 'log.txt').read_text().splitlines() if 'from iteration' in line
    ] == ['0', '1'], 'the second command went on where the first one stopped'


def test_a_bundle_that_is_too_large(data, tmp_path):
    done = bundle('--data', data, '--out', tmp_path / 'gpu', '--limit', '.5')
    assert (
        done.returncode == 1
        and 'limit=0.5 is not allowed: limit must be at least' in done.stderr
        and len(done.stderr.splitlines()) == 1
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_left_alone(data, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years')
    done = bundle('--data', data, '--out', tmp_path / 'mine')
    assert (
        done.returncode == 2
        and "out='" in done.stderr
        and 'an earlier bundle' in done.stderr
        and 'Traceback' not in done.stderr
    )
    assert [f.name for f in tmp_path.iterdir()] == ['mine'] and (
        tmp_path / 'mine' / 'thesis.txt'
    ).read_text() == 'years'
    (tmp_path / 'mine' / 'manifest.json').write_text('{}')
    (tmp_path / 'mine' / 'gpu_table1.py').write_text('')
    done = bundle('--data', data, '--out', tmp_path / 'mine')
    assert (
        done.returncode == 0
        and not (tmp_path / 'mine' / 'thesis.txt').exists()
        and (tmp_path / 'mine' / 'ambient_nb').is_dir()
    ), done.stderr


def test_wheels_go_in_as_far_as_there_is_room(data, tmp_path, monkeypatch, bundler):
    tool = bundler

    def download(name, python, to):
        (wheel := to / f'{name}-1-py3-none-any.whl').write_bytes(bytes(2**20))
        return wheel

    monkeypatch.setattr(tool, 'download', download)
    full = (
        tool.size(tmp_path)
        + sum(
            f.stat().st_size for f in (ROOT / 'ambient_nb').rglob('*') if f.is_file() and '__pycache__' not in f.parts
        )
        / 2**20
    )
    said = tool.pack(tmp_path / 'part', str(data), '3.12', True, full + 4)
    packed, left = said.split('wheels: ')[1].split('; no room for ')
    assert (
        packed.split(', ') + left.split(', ') == list(tool.WHEELS.values())
        and len(list((tmp_path / 'part' / 'wheels').iterdir())) == len(packed.split(', ')) >= 1
    )
    assert tool.size(tmp_path / 'part') <= (full + 4) * 2**20


@pytest.mark.parametrize('missing', ['train', 'test'])
def test_missing_images_are_refused(missing, data, tmp_path, bundler):
    shutil.copytree(data, tmp_path / 'data')
    (tmp_path / 'data' / f'cifar10-32x32-{missing}.zip').unlink()
    with pytest.raises(BadInput, match=f'cifar10-32x32-{missing}.zip') as e:
        bundler.pack(tmp_path / 'part', str(tmp_path / 'data'), '3.12', False, 60)
    assert e.value.name == 'data' and not (tmp_path / 'part').exists()


@pytest.mark.parametrize(
    'args, name',
    [('--smoke', 'data'), ('--smoke --minutes many', 'minutes'), ('--smoke --session 0', 'session'), ('', 'device')],
)
def test_bad_input_of_the_command(args, name, gpu, packed, tmp_path, monkeypatch):
    "Without a bundle, with odd numbers, without a GPU: refused before anything is written."
    if name == 'device' and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    if name != 'data':
        monkeypatch.setattr(gpu, 'HERE', packed / 'gpu')
    monkeypatch.setattr(sys, 'argv', ['gpu_table1.py', '--out', str(tmp_path / 'out'), *args.split()])
    with pytest.raises(BadInput) as e:
        gpu.parse()
    assert e.value.name == name and not (tmp_path / 'out').exists()


def test_the_budget_is_kept(gpu):
    for seconds in (300, 1000, 5000):
        b = gpu.budget(seconds, 0.13, 0.022, 15)
        spent = 2 * b['iters'] * 0.13 + (2 * b['samples'] + b['half']) * 0.022 + 45
        assert seconds - 0.3 < spent <= seconds and 2 * b['samples'] * 0.022 <= 0.3 * seconds and b['samples'] <= 10_000
    assert gpu.budget(10**5, 0.13, 0.022, 15)['samples'] == 10_000 and gpu.budget(60, 0.13, 0.022, 30)['iters'] < 2


def test_a_compiled_step_must_be_worth_it(gpu):
    def steps(fast, loss):
        return dict(eager=dict(seconds=[1.0, 1.1, 0.9], loss=1.0), compiled=dict(seconds=[30.0, fast, fast], loss=loss))

    assert (
        gpu.is_worth_compiling(steps(0.5, 1.02))
        and not gpu.is_worth_compiling(steps(0.9, 1.0))
        and not gpu.is_worth_compiling(steps(0.5, 1.3))
    )
    assert not gpu.is_worth_compiling(dict(eager=dict(seconds=[1.0], loss=1.0)))


def test_a_process_that_takes_too_long_is_ended(gpu):
    begun = time.monotonic()
    assert not gpu.limited(0.5, time.sleep, 60) and time.monotonic() - begun < 30


def test_a_baseline_that_copies_nothing_gives_no_verdict(gpu, whole):
    row = next(r for r in load_rows(whole / 'gpu_table1.paper.json') if r.labels['method'] == 'difference' and r.claim)
    assert (
        gpu.judged(row, 0.04, False).verdict == 'underpowered (at half-time the baseline memorized 4.0%, less than 10%)'
    )
    assert (
        gpu.judged(row, 0.4, False) == row == gpu.judged(row, 0.04, True)
        and gpu.judged(replace(row, claim=None), 0.04, False).verdict == row.verdict
    )


def test_make_prints_the_commands():
    done = subprocess.run(['make', '-n', 'gpu-table1'], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (
        done.returncode == 0
        and lines
        and all(line.startswith('python3 build/gpu/gpu_table1.py --minutes ') for line in lines)
    )
    minutes = [float(line.split()[-1]) for line in lines]
    assert max(minutes) < 10 and 24 < sum(minutes) < 28
    assert subprocess.run(['git', 'check-ignore', '-q', 'build/gpu'], cwd=ROOT).returncode in (0, 128), (
        'git must ignore the bundle'
    )


def test_the_page_shows_rows_when_there_are_some(whole, tmp_path, monkeypatch, capsys):
    "The committed page, once with the rows of this test beside it and once without."
    (tmp_path / 'nbs' / 'results').mkdir(parents=True)
    (tmp_path / 'settings.ini').write_text('')
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools' / 'gpu_table1.py', tmp_path / 'tools')
    monkeypatch.chdir(tmp_path / 'nbs')

    def outputs():
        from IPython.core.interactiveshell import InteractiveShell

        shell, found = InteractiveShell(), []
        for c in nbformat.read(NBS / 'gpu_table1.ipynb', 4).cells:
            if c.cell_type == 'code':
                done = shell.run_cell(c.source)
                done.raise_error()
                found.append(done.result)
        return found

    assert any('still to come' in str(o) for o in outputs())
    save_rows(load_rows(whole / 'gpu_table1.paper.json'), tmp_path / 'nbs' / 'results' / 'gpu_table1.paper.json')
    shutil.copy(whole / 'gpu_table1.png', tmp_path / 'nbs' / 'results')
    shown = outputs()
    assert not any('still to come' in str(o) for o in shown) and any('two-regime' in str(o) for o in shown)
    assert any(type(o).__name__ == 'Image' for o in shown)
