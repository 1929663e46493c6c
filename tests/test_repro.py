"Each reproduction runs by papermill as a reader runs it, from another folder, in the smoke profile; what is wrong is refused before it costs anything."
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill import inspect_notebook
from tree import NBS, is_parameterized, notebooks

RUN_BY_PAPERMILL = [nb for nb in notebooks() if is_parameterized(nb)]
REPROS = [nb for nb in RUN_BY_PAPERMILL if nb.name.startswith('repro_')]


def papermill(nb: Path, folder: Path, **parameters) -> subprocess.CompletedProcess:
    "Run a notebook in `folder`, its output there too."
    given = [a for k, v in parameters.items() for a in ('-p', k, str(v))]
    return subprocess.run([Path(sys.executable).parent/'papermill', NBS/nb, 'out.ipynb', *given], cwd=folder, capture_output=True, text=True)


def rows(folder: Path) -> list[dict]:
    "Every row stored under a folder."
    found = [json.loads(p.read_text()) for p in folder.rglob('*.json')]
    found = [r for f in found for r in (f if isinstance(f, list) else [f])]
    return [r for r in found if {'claim', 'profile', 'verdict'} <= set(r)]


@pytest.mark.parametrize('nb', RUN_BY_PAPERMILL, ids=str)
def test_smoke(nb, tmp_path):
    given = dict(out=tmp_path/'rows') if 'out' in inspect_notebook(str(NBS/nb)) else {}
    done = papermill(nb, tmp_path, **given)
    assert done.returncode == 0, done.stderr[-3000:]
    page = nbformat.read(tmp_path/'out.ipynb', 4)
    tags = [t for c in page.cells for t in c.metadata.get('tags', [])]
    assert tags.count('parameters') == 1 and ('injected-parameters' in tags) == bool(given)
    if nb in REPROS:
        written = rows(tmp_path)
        assert written and {r['profile'] for r in written} == {'smoke'}
        assert not {r['verdict'] for r in written} & {'agree', 'disagree', 'same direction', 'opposite direction'}, 'a smoke row is no evidence'


@pytest.mark.parametrize('nb', REPROS, ids=str)
def test_bad_parameters(nb, tmp_path):
    "One clear error that names the parameter and its value, and nothing half-written."
    known = inspect_notebook(str(NBS/nb))
    for name, value in [('no_such_parameter', 1), ('profile', 'huge'), ('dataset', 'mnist'), ('n', '300x')]:
        if name in known or name == 'no_such_parameter':
            done = papermill(nb, tmp_path, **{name: value}, **(dict(out=tmp_path/'rows') if 'out' in known else {}))
            assert done.returncode != 0 and name in done.stderr and str(value) in done.stderr, name
            assert 'BadInput' in done.stderr and not rows(tmp_path), name
