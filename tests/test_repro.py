"Each reproduction runs by papermill from another folder, in smoke, and refuses a parameter it does not know."

import subprocess
from pathlib import Path

import nbformat
import pytest
import warm
from papermill import inspect_notebook
from tree import BIN, NBS, is_parameterized, notebooks

RUN_BY_PAPERMILL = [nb for nb in notebooks() if is_parameterized(nb)]
REPROS = [nb for nb in RUN_BY_PAPERMILL if nb.name.startswith('repro_')]
READS_ROWS = ['repro_halves.ipynb']  # draws what another command has measured: evidence in every profile
TRAINS_ON_REAL_IMAGES = [nb for nb in RUN_BY_PAPERMILL if nb.name.startswith('train_')]


def papermill(nb: Path, folder: Path, **parameters) -> subprocess.CompletedProcess:
    "Run a notebook in `folder`, its output there too."
    given = [a for k, v in parameters.items() for a in ('-p', k, str(v))]
    return warm.run([BIN / 'papermill', NBS / nb, 'out.ipynb', *given], cwd=folder)


def own_out(nb: Path, out: Path) -> dict:
    "The `out` parameter, where a notebook has one."
    return dict(out=out) if 'out' in inspect_notebook(str(NBS / nb)) else {}


@pytest.fixture(scope='session')
def runs(tmp_path_factory) -> Path:
    "One folder for all reproductions of this process, so that a training which several need is done once."
    return tmp_path_factory.mktemp('reproductions')


def check_smoke(nb: Path, folder: Path, out: Path) -> None:
    "It runs to its end, and its rows are no evidence."
    given, before = own_out(nb, out), {file: file.stat().st_mtime_ns for file in out.rglob('rows/*.json')}
    done = papermill(nb, folder, **given)
    assert done.returncode == 0, done.stderr[-3000:]
    page = nbformat.read(folder / 'out.ipynb', 4)
    tags = [t for c in page.cells for t in c.metadata.get('tags', [])]
    assert tags.count('parameters') == 1 and ('injected-parameters' in tags) == bool(given)
    if nb in REPROS:
        from ambient_nb.rows import load_rows

        written = [file for file in out.rglob('rows/*.json') if file.stat().st_mtime_ns != before.get(file)]
        rows = [r for file in written for r in load_rows(file)]
        assert rows and {r.profile for r in rows} == {'custom' if nb.name in READS_ROWS else 'smoke'}
        assert nb.name in READS_ROWS or not {r.verdict for r in rows} & {
            'agree',
            'disagree',
            'same direction',
            'opposite direction',
        }, 'a smoke row is no evidence'


@pytest.mark.parametrize('nb', [nb for nb in RUN_BY_PAPERMILL if nb not in TRAINS_ON_REAL_IMAGES], ids=str)
def test_smoke(nb, tmp_path, runs):
    check_smoke(nb, tmp_path, runs if nb in REPROS else tmp_path / 'runs')


@pytest.mark.real_data
@pytest.mark.parametrize('nb', TRAINS_ON_REAL_IMAGES, ids=str)
def test_smoke_on_real_images(nb, tmp_path, data_dir):
    check_smoke(nb, tmp_path, tmp_path / 'runs')


@pytest.mark.parametrize('nb', REPROS, ids=str)
def test_unknown_parameter(nb, tmp_path):
    "papermill only prints a notice: the notebook itself refuses, and nothing is half-written."
    done = papermill(nb, tmp_path, sigma_m=0.3, **own_out(nb, tmp_path / 'runs'))
    assert done.returncode == 1 and 'BadInput' in done.stderr and 'sigma_m' in done.stderr
    assert not list(tmp_path.rglob('*.json'))


def test_papermill_reads_what_was_typed(tmp_path):
    "`-p out 2026` is a number to papermill, `None` is None, and a long seed keeps its digits; nothing is half-written."
    nb, seed = Path('repro_table1.ipynb'), 2**53 + 1
    done = papermill(nb, tmp_path, out=2026, dry_run=True)
    assert done.returncode == 1 and 'BadInput: out=2026 is not allowed: out must be a path' in done.stderr
    done = papermill(nb, tmp_path, out='./2026', n=None, seeds=seed, dry_run=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'seeds=({seed},)' in (tmp_path / 'out.ipynb').read_text() and not (tmp_path / '2026').exists()
