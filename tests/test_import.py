"The package is light to import, and needs none of the tools it is built with."

import json
import subprocess
import sys

import pytest
from tree import rooms

HEAVY = (
    'pandas sklearn scipy matplotlib seaborn torchvision PIL torch_fidelity IPython ipywidgets papermill typer '
    'nbdev fastcore execnb'
).split()
BLOCKED = 'nbdev fastcore execnb ghapi pytest faiss transformers diffusers jupyterlab'.split()
IMPORTS = f"""
import importlib, json, random, sys, traceback
import ambient_nb.core
found = dict(heavy=sorted(set({HEAVY}) & set(sys.modules)), errors={{}})
for name in {BLOCKED}:
    sys.modules[name] = None
import numpy as np, torch
states = lambda: (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
before = states()
for module in {sorted(rooms())}:
    for name in [n for n in sys.modules if n.split('.')[0] == 'ambient_nb']:
        del sys.modules[name]
    try:
        importlib.import_module('ambient_nb.' + module)
    except Exception:
        found['errors'][module] = traceback.format_exc()
found['untouched'] = before == states()
print(json.dumps(found))
"""


@pytest.fixture(scope='module')
def found() -> dict:
    "What a fresh interpreter sees: core alone; then, without build tools and extras, every module anew."
    done = subprocess.run([sys.executable, '-c', IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_torch_and_numpy_only(found):
    assert found['heavy'] == []


@pytest.mark.parametrize('module', sorted(rooms()))
def test_needs_no_build_tool_and_no_extra(module, found):
    "Every module imports where only the runtime requirements are."
    assert found['errors'].get(module) is None


def test_import_touches_no_global_generator(found):
    assert found['untouched']
