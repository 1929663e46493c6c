"Room N imports only from rooms with a smaller number, by name, and is built by the laws of the house."

import ast
import subprocess
import sys

import pytest
from tree import ROOT, rooms

PLACE = rooms()
PACKAGE = ROOT / 'ambient_nb'


def imported(module: str) -> set[str]:
    "The rooms a module imports anywhere, function bodies included."
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {n.name.split('.')[1] for n in node.names if n.name.startswith('ambient_nb.')}
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0 or (node.module or '').split('.')[0] == 'ambient_nb'
            path = (node.module or '').removeprefix('ambient_nb').strip('.')
            if inside:
                found |= {path.split('.')[0]} if path else {n.name for n in node.names}
            assert not any(n.name == '*' for n in node.names), f'{module} star-imports {node.module}'
    return found & set(PLACE)


@pytest.mark.parametrize('module', sorted(PLACE))
def test_imports_only_lower_rooms(module):
    assert {m for m in imported(module) if PLACE[m] >= PLACE[module]} == set()


def test_the_laws_of_the_house():
    "Size, width, paths and lessons of every room, as `python tools/house.py` measures them."
    done = subprocess.run([sys.executable, 'tools/house.py', '--check'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_form():
    "What `ruff format` makes of notebooks, tests and tools is what is committed."
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'format', '--check', 'nbs', 'tests', 'tools'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_a_public_name_has_one_meaning():
    homes = {}
    for module in PLACE:
        tree = ast.parse((PACKAGE / f'{module}.py').read_text(encoding='utf-8'))
        public = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == '__all__')
        for name in ast.literal_eval(public):
            homes.setdefault(name, []).append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_places_are_unique():
    assert len(set(PLACE.values())) == len(PLACE)
