"The laws of the house find what is planted against them, and measure what they say."

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tree import ROOT

SOUND = ['def f(x):\n    "One."\n    return x + 1', 'f(1)']  # an exported definition, a lesson with a value
BRANCHES = 'def f(x):\n' + ''.join(f'    if x == {i}:\n        return {i}\n' for i in range(15))
PLANTED = {  # law -> the cells that break it
    'lines formatted': ['def f(x):\n' + '    x += 1\n' * 350, 'f(1)'],
    'over 120 columns': [*SOUND, f'f({"1 + " * 40}1)'],
    'McCabe 16': [BRANCHES, 'f(1)'],
    'with two definitions': [SOUND[0] + '\n\n\nclass C:\n    pass', 'f(1)'],
    'without a lesson': [*(SOUND[0].replace('f(', f'f{i}(') for i in range(5)), 'f1(1)'],
    'with a semicolon': [SOUND[0], 'y = 1; f(y)'],
}


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import house

    return house


def build(folder: Path, cells: list[str], outputs=()) -> Path:
    "A tree of one room: what defines is exported, what does not is a lesson."
    exported = [c for c in cells if c.startswith(('def', 'class', 'from'))]
    nb = nbformat.v4.new_notebook()
    for source in ['#| default_exp room', *cells]:
        nb.cells.append(nbformat.v4.new_code_cell('#| export\n' * (source in exported) + source))
    nb.cells[-1].outputs = list(outputs)
    for name in ('nbs', 'ambient_nb'):
        (folder / name).mkdir()
    nbformat.write(nb, folder / 'nbs' / '00_room.ipynb')
    (folder / 'ambient_nb' / 'room.py').write_text('\n\n\n'.join(exported))
    return folder


@pytest.mark.parametrize('law', PLANTED)
def test_a_broken_law_is_found(law, house, tmp_path):
    (room,) = house.rooms(build(tmp_path, PLANTED[law])).values()
    (found,) = house.broken('00_room', room)
    assert found.startswith('00_room: ') and law in found


def test_the_command(tmp_path):
    "It names what is broken and exits with 1, or says that nothing is; it refuses to check nothing."
    (tmp_path / 'sound').mkdir()
    (tmp_path / 'bad').mkdir()
    build(tmp_path / 'sound', SOUND)
    build(tmp_path / 'bad', PLANTED['with a semicolon'])

    def check(*args):
        command = [sys.executable, ROOT / 'tools' / 'house.py', '--check', *args]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout.strip()

    assert check(tmp_path / 'sound') == (0, '1 rooms, no law broken')
    assert check(tmp_path / 'bad') == (1, '00_room: 1 lessons with a semicolon')
    assert check(tmp_path / 'sound', '--only', 'nothing')[0] == 1


def test_what_counts_as_a_lesson(house):
    kinds = {
        'import os': 'aside',
        '#| export\nimport os\nfrom sys import (\n    path,\n)': 'aside',
        '#| export\nIMPORTED = 3': 'export',
        '#| hide\nf(1)': 'aside',
        '#| echo: false\nf(1)': 'lesson',
        '%matplotlib inline\nx = 1': 'lesson',
        '# nothing': 'aside',
    }
    assert {source: house.kind(source) for source in kinds} == kinds


@pytest.mark.parametrize(
    'source, output, shown',
    [
        ('f(1)', dict(output_type='stream', text='2'), True),
        ('f(1)', None, False),  # a value of None, or a page that was not run
        ('y = f(1)', dict(output_type='stream', text='said on the way'), False),
        ('fig = draw()', dict(output_type='display_data', data={'image/png': ''}), True),
        ('assert f(1)', None, False),
    ],
)
def test_what_counts_as_shown(source, output, shown, house):
    assert house.shows(house.Cell(source, [output] if output else [])) == shown


def test_density(house):
    text = (
        'x = 1 + 1\n\n\ndef f(a, b):\n    """Two\n    lines."""\n\n    def g():\n        "One."\n        return a\n\n'
    )
    text += '    return g  # aside\n'
    assert house.density(text, house.body_lines(text)) == (5 + 2 + 2, 3)
    assert house.density('x = 1\n\n# aside\nx', {1, 2, 3, 4}) == (4, 2)
    assert str(house.together([house.Density(8, 3), house.Density(4, 2)])) == '2.4'


def test_mccabe_sees_every_method_of_a_name(house):
    text = 'class A:\n    def f(self):\n        return 1 if self else 2\n\n\nclass B:\n    def f(self):\n        pass\n'
    assert house.mccabe(text) == [('f', 2), ('f', 1)]
    assert house.mccabe('def f(x):\n    return [a and b or c for a in x if a]') == [('f', 1 + 1 + 1 + 2)]
    assert house.mccabe('def f():\n    for x in y:\n        pass\n    else:\n        pass') == [('f', 3)]
