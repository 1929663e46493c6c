"The package is light to import, and needs none of the tools it is built with."

import subprocess
import sys

import pytest
from tree import rooms

HEAVY = 'pandas sklearn scipy matplotlib seaborn torchvision PIL torch_fidelity IPython ipywidgets papermill typer nbdev fastcore execnb'.split()
BLOCKED = 'nbdev fastcore execnb ghapi pytest faiss transformers diffusers jupyterlab'.split()


def python(code: str) -> str:
    "stdout of a fresh interpreter."
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_torch_and_numpy_only():
    assert python(f'import sys, ambient_nb, ambient_nb.core; print(sorted(set({HEAVY}) & set(sys.modules)))') == '[]'


@pytest.mark.parametrize('module', sorted(rooms()))
def test_needs_no_build_tool_and_no_extra(module):
    "Every module imports where only the runtime requirements are."
    python(f"""
import sys
for name in {BLOCKED}: sys.modules[name] = None
import ambient_nb.{module}
""")


def test_import_touches_no_global_generator():
    code = f"""
import random, numpy as np, torch
before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
for m in {sorted(rooms())}: __import__('ambient_nb.' + m)
print(before == (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()))
"""
    assert python(code) == 'True'
