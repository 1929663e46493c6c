"The command for a lent GPU, with a tiny network: packed here, unpacked elsewhere, killed, continued, a seed added."

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from tree import NBS, ROOT

from ambient_nb.core import BadInput, rng
from ambient_nb.data import Images, write_zip
from ambient_nb.datasets import load
from ambient_nb.mask_turns import MaskTurns
from ambient_nb.rows import METHODS, load_rows, save_rows
from ambient_nb.turn_rows import points_in
from ambient_nb.turns import MethodTurns

BLOCKED = '''
import sys
from importlib.machinery import ModuleSpec
NOTEBOOKS = 'papermill ipykernel ipywidgets IPython nbformat nbdev fastcore execnb'
OTHERS = 'faiss torch_fidelity torchvision seaborn sklearn typer'
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in f'{NOTEBOOKS} {OTHERS}'.split(): return ModuleSpec(name, self)
    def create_module(self, spec): raise ModuleNotFoundError(spec.name)
    def exec_module(self, module): pass
sys.meta_path.insert(0, Absent())
'''


def imported(name: str):
    "A script of tools/ as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.fixture(scope='module')
def gpu():
    return imported('gpu_table1')


@pytest.fixture(scope='module')
def bundler():
    return imported('gpu_bundle')


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    "CIFAR-10's zips in miniature: 310 smooth random images, 40 held out."
    folder = tmp_path_factory.mktemp('data')
    for name, n in (('train', 310), ('test', 40)):
        small = torch.rand(n, 3, 4, 4, generator=rng(0, 'gpu', name))
        pixels = (255 * torch.nn.functional.interpolate(small, size=(32, 32), mode='bilinear')).to(torch.uint8)
        images = Images(pixels, torch.arange(n) % 10, torch.arange(n), 'cifar10')
        write_zip(folder / f'cifar10-32x32-{name}.zip', images, dict(meta=dict(recipe='cifar10')))
    return folder


@pytest.fixture
def pack(bundler, monkeypatch, capsys):
    "`tools/gpu_bundle.py` with arguments: what it says, and its status."

    def packed(*args):
        monkeypatch.setattr(sys, 'argv', ['gpu_bundle.py', *map(str, args)])
        try:
            bundler.main()
        except BadInput as e:
            return str(e), 1
        except SystemExit as e:
            return capsys.readouterr().err, e.code
        return capsys.readouterr().out, 0

    return packed


@pytest.fixture(scope='module')
def packed(data, bundler, tmp_path_factory) -> Path:
    "A bundle in a place of its own, beside a Python without what it can do without."
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    assert 'MiB; 310 training images, 40 held out' in bundler.pack(elsewhere / 'gpu', str(data), 45)
    (elsewhere / 'gpu' / 'sitecustomize.py').write_text(BLOCKED)
    return elsewhere


def start(packed: Path, *args) -> subprocess.Popen:
    "The command, with the bundle and nothing else of ours to import."
    env = {k: v for k, v in os.environ.items() if not k.startswith('AMBIENT_NB')} | dict(
        PYTHONPATH=str(packed / 'gpu'), OMP_NUM_THREADS='1', OUT=str(packed / 'out')
    )
    (packed / 'out').mkdir(exist_ok=True)
    usual = '--smoke --minutes 60 --out run --rows rows/some.json'.split()
    command = [sys.executable, 'gpu/gpu_table1.py', *usual, *args]
    return subprocess.Popen(command, cwd=packed, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope='module')
def story(packed) -> dict:
    "A command that is killed after its first checkpoint, and a second seed that comes to its end."
    process, file = start(packed), packed / 'rows' / 'some.json'
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed, process = load_rows(file), start(packed, '--seed', '2')
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return dict(killed=killed, said=said, rows=load_rows(file))


def test_a_killed_command_leaves_a_pair_and_another_seed_is_added(story, packed):
    points = points_in(story['killed'])
    assert {*points} >= {('baseline', 1), ('two-regime', 1)} and len({len(points[arm, 1]) for arm in METHODS}) == 1
    both = points_in(story['rows'])
    assert {name: both[name] for name in points} == points and len(both['two-regime', 2]) == 3
    assert 'last' in str(both.keys()) and 'done' in story['said'] and 'TFLOP/s' in story['said']


def test_it_runs_on_the_bundle_alone(story, packed, data):
    rows, manifest = story['rows'], json.loads((packed / 'gpu' / 'manifest.json').read_text())
    assert {r.provenance['commit'] for r in rows} == {manifest['commit']} and {r.profile for r in rows} == {'smoke'}
    assert {r.verdict for r in rows} <= {'smoke: no verdict', 'no claim'}
    pool = load('cifar10', data).pool
    assert manifest['sha256'] == pool.sha and manifest['training_images'] == 310
    assert rows[0].data['train'] == pool.take(range(12, 24)).sha, 'the images of a seed are those of the whole pool'
    assert {f.name for f in (packed / 'out').iterdir()} == {'some.json', 'gpu_table1.png'}, 'as it goes, also in $OUT'
    assert load_rows(packed / 'out' / 'some.json') == rows
    arm = next(r for r in rows if r.labels['method'] == 'baseline')
    assert arm.cost['mfu'] > 0 and arm.cost['on'] and arm.cost['training_sec'] > 0


def test_a_bundle_that_is_too_large(data, tmp_path, pack):
    said, code = pack('--data', data, '--out', tmp_path / 'gpu', '--limit', '.5')
    assert code == 1 and 'limit=0.5 is not allowed: limit must be at least' in said and not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_left_alone(data, tmp_path, pack):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years')
    said, code = pack('--data', data, '--out', tmp_path / 'mine')
    assert code == 2 and "out='" in said and 'an earlier bundle' in said
    assert [f.name for f in tmp_path.iterdir()] == ['mine']
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'years'
    (tmp_path / 'mine' / 'manifest.json').write_text('{}')
    (tmp_path / 'mine' / 'gpu_table1.py').write_text('')
    said, code = pack('--data', data, '--out', tmp_path / 'mine')
    assert code == 0 and 'MiB' in said
    assert not (tmp_path / 'mine' / 'thesis.txt').exists() and (tmp_path / 'mine' / 'ambient_nb').is_dir()


@pytest.mark.parametrize('missing', ['train', 'test'])
def test_missing_images_are_refused(missing, data, tmp_path, bundler):
    shutil.copytree(data, tmp_path / 'data')
    (tmp_path / 'data' / f'cifar10-32x32-{missing}.zip').unlink()
    with pytest.raises(BadInput, match=f'cifar10-32x32-{missing}.zip') as e:
        bundler.pack(tmp_path / 'part', str(tmp_path / 'data'), 45)
    assert e.value.name == 'data' and not (tmp_path / 'part').exists()


@pytest.mark.parametrize(
    'args, name',
    [
        ('--smoke --minutes many', 'minutes'),
        ('--smoke --seed -1', 'seed'),
        ('--smoke --sigma-n 0', 'sigma-n'),
        ('--smoke --of all', 'of'),
        ('--smoke --of ambient --sigma-n .3', 'of'),
        ('--smoke --seed 26', 'seed'),
        ('', 'device'),
    ],
)
def test_bad_input_of_the_command(args, name, gpu, data, tmp_path, monkeypatch):
    "Odd numbers, a seed whose images are not there, no GPU: refused before anything is written."
    if name == 'device' and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    monkeypatch.setattr(
        sys, 'argv', ['gpu_table1.py', '--data', str(data), '--out', str(tmp_path / 'out'), *args.split()]
    )
    with pytest.raises(BadInput) as e:
        gpu.main()
    assert e.value.name == name and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('of', ['main', 'ambient'])
def test_a_dry_run_says_how_far_it_would_come(of, gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['gpu_table1.py', '--dry-run', '--of', of])
    planned, asked = gpu.turn_plan, []
    monkeypatch.setattr(gpu, 'turn_plan', lambda *given: asked.append(given) or planned(*given))
    gpu.main()
    assert asked == [(MaskTurns(), 9.0) if of == 'ambient' else (MethodTurns(), 9.3)]
    said = capsys.readouterr().out
    assert '4% of 990 TFLOP/s' in said and 'kimg of each' in said


@pytest.mark.parametrize('target, more', [('gpu-table1', ''), ('gpu-ambient', '--of ambient ')])
def test_make_prints_the_command(target, more):
    done = subprocess.run(['make', '-n', target, 'ARGS=--seed 2'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == f'python3 build/gpu/gpu_table1.py {more}--seed 2'
    ignored = subprocess.run(['git', 'check-ignore', '-q', 'build/gpu'], cwd=ROOT).returncode
    assert ignored in (0, 128), 'git must ignore the bundle'


@pytest.fixture(scope='module')
def masked(packed) -> list:
    "The rows of `--of ambient`, from its start to its end."
    process = start(packed, '--of', 'ambient', '--rows', 'rows/masked.json')
    said = process.communicate()[0]
    assert process.returncode == 0 and 'seed 1, --of ambient' in said and 'done' in said, said
    return load_rows(packed / 'rows' / 'masked.json')


def test_masked_images_by_the_same_command(masked, packed):
    points = points_in(masked)
    assert {name for name, _ in points} == {*MaskTurns.arms}, 'no last look'
    assert {len(points[arm, 1]) for arm in MaskTurns.arms} == {3} and (packed / 'out' / 'gpu_ambient.png').exists()


@pytest.mark.parametrize('page, rows, many', [('gpu_table1', 'story', 6), ('gpu_ambient', 'masked', 5)])
def test_the_page_shows_rows_when_there_are_some(page, rows, many, packed, tmp_path, monkeypatch, request):
    "The committed page, once with the rows of this test beside it and once without."
    rows = request.getfixturevalue(rows)
    rows = rows['rows'] if page == 'gpu_table1' else rows
    (tmp_path / 'nbs' / 'results').mkdir(parents=True)
    (tmp_path / 'settings.ini').write_text('')
    monkeypatch.chdir(tmp_path / 'nbs')

    def outputs():
        from IPython.core.interactiveshell import InteractiveShell

        shell, found = InteractiveShell(), []
        for c in nbformat.read(NBS / f'{page}.ipynb', 4).cells:
            if c.cell_type == 'code':
                done = shell.run_cell(c.source.replace('n=300', 'n=12'))
                done.raise_error()
                found.append(done.result)
        return found

    assert sum('Not run yet' in str(o) for o in outputs()) == many
    save_rows(rows, tmp_path / 'nbs' / 'results' / f'{page}.custom.json')
    shutil.copy(packed / 'out' / f'{page}.png', tmp_path / 'nbs' / 'results')
    shown = outputs()
    assert not any('Not run yet' in str(o) for o in shown) and any(type(o).__name__ == 'Image' for o in shown)
    words = ('two-regime', 'MFU') if page == 'gpu_table1' else ('p = 0.8 − p = 0', 'restored, 82% hidden')
    assert all(any(word in str(o) for o in shown) for word in words)
