"Room N imports only from rooms with a smaller number, by name, and stays small enough to read."
import ast

import pytest
from tree import ROOT, rooms

PLACE = rooms()
PACKAGE = ROOT/'ambient_nb'
MAX_LINES = {'networks': 500}


def imported(module: str) -> set[str]:
    "The rooms a module imports anywhere, function bodies included."
    found = set()
    for node in ast.walk(ast.parse((PACKAGE/f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): found |= {n.name.split('.')[1] for n in node.names if n.name.startswith('ambient_nb.')}
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0 or (node.module or '').split('.')[0] == 'ambient_nb'
            path = (node.module or '').removeprefix('ambient_nb').strip('.')
            if inside: found |= {path.split('.')[0]} if path else {n.name for n in node.names}
            assert not any(n.name == '*' for n in node.names), f'{module} star-imports {node.module}'
    return found & set(PLACE)


@pytest.mark.parametrize('module', sorted(PLACE))
def test_imports_only_lower_rooms(module):
    assert {m for m in imported(module) if PLACE[m] >= PLACE[module]} == set()


@pytest.mark.parametrize('module', sorted(PLACE))
def test_size(module):
    lines = len((PACKAGE/f'{module}.py').read_text(encoding='utf-8').splitlines())
    assert lines <= MAX_LINES.get(module, 350)


def test_places_are_unique():
    assert len(set(PLACE.values())) == len(PLACE)
