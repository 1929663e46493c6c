"Every notebook runs (papermill's: test_repro.py); its committed form holds what a reader needs, and nothing private."

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from tree import BIN, NBS, ROOT, cells, is_parameterized, notebooks

ALL = notebooks()
LESSONS = [nb for nb in ALL if not is_parameterized(nb)]
RUN_BY_PAPERMILL = [nb for nb in ALL if is_parameterized(nb)]
HAS_SLOW = [nb for nb in LESSONS if any(re.search(r'^#\|\s*slow', c['source'], re.M) for c in cells(nb))]
PRIVATE = re.compile(r'(?<![\w.:/])/(?:home|root|Users|work|tmp|private|mnt|opt|var)/\w|[A-Z]:\\Users')


def nbdev_test(nb: Path, *flags: str) -> subprocess.CompletedProcess:
    "The tool's own runner on one notebook, from the root, in a process of its own."
    return warm.run([BIN / 'nbdev_test', '--path', NBS / nb, *flags], cwd=ROOT)


@pytest.mark.parametrize('nb', LESSONS, ids=str)
def test_runs(nb):
    done = nbdev_test(nb)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('nb', HAS_SLOW, ids=str)
def test_runs_with_its_slow_cells(nb):
    done = nbdev_test(nb, '--flags', 'slow')
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('nb', ALL, ids=str)
def test_committed_form(nb):
    content = json.loads((NBS / nb).read_text(encoding='utf-8'))
    code = [c for c in content['cells'] if c['cell_type'] == 'code']
    outputs = [o for c in code for o in c['outputs']]
    assert (NBS / nb).stat().st_size < 2**20
    assert content['metadata']['kernelspec']['name'] == 'python3'
    assert all(isinstance(c['source'], list) for c in content['cells']), 'source must be a list of lines'
    assert [o for o in outputs if o['output_type'] == 'error' or o.get('name') == 'stderr'] == []
    assert outputs or not code, 'no outputs: a reader of the page sees nothing'


@pytest.mark.parametrize('nb', ALL, ids=str)
def test_no_path_of_a_machine(nb):
    def text_of(cell):
        yield cell['source']
        for o in cell.get('outputs', []):
            yield ''.join(o.get('text', ''))
            yield from (''.join(v) for kind, v in o.get('data', {}).items() if kind.startswith('text/'))

    found = [m[0] for c in cells(nb) for text in text_of(c) for m in PRIVATE.finditer(text)]
    assert found == [] and str(ROOT) not in (NBS / nb).read_text(encoding='utf-8')


@pytest.mark.parametrize('nb', ALL, ids=str)
def test_page_shape(nb):
    "A title, a one-sentence claim, what the reader gains; one heading a cell; no star imports, no escape gone wrong."
    page = cells(nb)
    assert not any(re.search(r'[^\n\t\x20-\x7e\x80-\U0010ffff]', c['source']) for c in page)
    assert re.fullmatch(r'# \S.*\n\n> \S.*', page[0]['source']) and page[1]['cell_type'] == 'markdown'
    for c in page:
        if c['cell_type'] == 'markdown':
            assert len(re.findall(r'^#+ ', re.sub(r'```.*?```', '', c['source'], flags=re.S), re.M)) <= 1
        else:
            assert not re.search(r'^\s*from .* import \*', c['source'], re.M)


@pytest.mark.parametrize('nb', ALL, ids=str)
def test_parameters_cell(nb):
    "One cell carries papermill's tag where papermill runs, none elsewhere."
    tagged = [c for c in cells(nb) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == is_parameterized(nb)


@pytest.mark.parametrize('nb', RUN_BY_PAPERMILL, ids=str)
def test_needs_no_build_tool(nb):
    "nbdev and fastcore are not needed to run a reproduction."
    assert not any(
        re.search(r'^\s*(?:from|import) (?:nbdev|fastcore)\b', c['source'], re.M)
        for c in cells(nb)
        if c['cell_type'] == 'code'
    )


@pytest.mark.parametrize('nb', RUN_BY_PAPERMILL, ids=str)
def test_says_where_a_kernel_without_the_package_comes_from(nb):
    "papermill starts the kernel that Jupyter calls python3; the line stands in the traceback of what is not found."
    first = next(c['source'] for c in cells(nb) if c['cell_type'] == 'code' and 'ambient_nb' in c['source'])
    assert first.splitlines()[0].startswith("# Where ambient_nb is not found, Jupyter's python3 is another one")


def test_papermill_in_another_python_says_so(tmp_path, monkeypatch):
    other = tmp_path / 'other'
    (kernel := tmp_path / 'data' / 'kernels' / 'python3').mkdir(parents=True)
    other.mkdir()
    (other / 'ambient_nb.py').write_text("raise ModuleNotFoundError('No module named ambient_nb')\n")
    argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    about = dict(argv=argv, display_name='another', language='python', env=dict(PYTHONPATH=str(other)))
    (kernel / 'kernel.json').write_text(json.dumps(about))
    monkeypatch.setenv('JUPYTER_DATA_DIR', str(tmp_path / 'data'))
    monkeypatch.setenv('JUPYTER_PREFER_ENV_PATH', '0')
    command = [sys.executable, '-m', 'papermill', NBS / 'repro_theory_optimum.ipynb', tmp_path / 'o.ipynb']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and 'No module named ambient_nb' in done.stderr
    assert '`ambient-nb reproduce` has its own' in done.stderr
