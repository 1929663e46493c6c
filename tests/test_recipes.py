"The recipes of CONTRIBUTING.md, followed word by word in a copy of the tree."

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import warm
from tree import BIN, ROOT, copy

from ambient_nb.core import rng
from ambient_nb.rows import load_rows

PAGE = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8').split('\n## Four recipes\n')[1]
RECIPES = dict(re.findall(r'^### (.+?)\n(.*?)(?=^##|\Z)', PAGE, re.M | re.S))
COUNTED = {name: int(now) for name, now in re.findall(r'^\| (A[^|]+) \|.*\| (\d+)[^|]*\|$', PAGE, re.M)}
STEP = re.compile(
    r'[Ii]n `(?P<file>\S+)`, (?P<where>below|last in) `(?P<name>\w+)`:$'
    r'|Copy `(?P<source>\S+)` to `(?P<target>\S+)`, write `(?P<new>\w+)` for `(?P<old>\w+)` in it'
    r'|^```(?P<kind>\w+)\n(?P<block>.*?)^```$',
    re.M | re.S,
)


def definition(source: str, name: str) -> ast.stmt | None:
    "Where a name is defined at the top of a cell or a file."
    for node in ast.parse(source).body if name in source else ():
        names = [getattr(t, 'id', None) for t in getattr(node, 'targets', [getattr(node, 'target', None)])]
        if name in (getattr(node, 'name', None), *names):
            return node
    return None


def with_last(source: str, name: str, line: str) -> str:
    "A literal's text with one more line before its closing brackets."
    lines = source.splitlines(keepends=True)
    end = definition(source, name).end_lineno
    while lines[end - 1].strip()[0] in ')]}':
        end -= 1
    return ''.join([*lines[:end], line, *lines[end:]])


class Tree:
    "A copy of the tree with a hand that does what a recipe says."

    def __init__(self, folder: Path):
        self.root, self.runs, self.touched, self.said = copy(folder / 'tree'), folder / 'runs', set(), []
        inherited = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST')}
        self.env = inherited | dict(PYTHONPATH=str(self.root), AMBIENT_NB_RUNS=str(self.runs))

    def follow(self, recipe: str) -> None:
        "Do its steps; the table above them counts the files."
        at = None
        for step in STEP.finditer(RECIPES[recipe]):
            if step['file']:
                at = [self.root / step['file'], step['where'], step['name']]
            elif step['source']:
                self.copied(*step.group('source', 'target', 'old', 'new'))
            elif step['kind'] == 'bash':
                for line in step['block'].splitlines():
                    self.command(line)
            else:
                self.write(at, step['block'])
        assert len([name for name in self.touched if not name.startswith('tests/')]) == COUNTED[recipe]

    def copied(self, source: str, target: str, old: str, new: str) -> None:
        page = nbformat.read(self.root / source, 4)
        for cell in page.cells:
            cell.source = re.sub(rf'\b{old}\b', new, cell.source)
        nbformat.write(page, self.root / target)
        self.touched.add(target)

    def write(self, at: list, block: str) -> None:
        "What a block adds to a file; a cell after another one comes below it."
        file, where, name = at
        self.touched.add(str(file.relative_to(self.root)))
        if file.suffix == '.json':
            content = json.loads(file.read_text(encoding='utf-8'))
            content[name].append(json.loads(block))
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
        elif file.suffix == '.py':
            file.write_text(with_last(file.read_text(encoding='utf-8'), name, block), encoding='utf-8')
        else:
            page = nbformat.read(file, 4)
            own = [i for i, c in enumerate(page.cells) if c.cell_type == 'code' and '#| export' in c.source]
            (i,) = [name] if isinstance(name, int) else [i for i in own if definition(page.cells[i].source, name)]
            if where == 'below':
                page.cells.insert(i + 1, nbformat.v4.new_code_cell(block.rstrip('\n'), id=f'recipe-{i + 1}'))
                at[2] = i + 1
            else:
                page.cells[i].source = with_last(page.cells[i].source + '\n', name, block).rstrip('\n')
            nbformat.write(page, file)

    def command(self, line: str) -> str:
        tool, *words = shlex.split(line)
        start = [sys.executable] if tool == 'python' else [BIN / tool]
        done = warm.run([*start, *words], cwd=self.root, env=self.env)
        assert done.returncode == 0, f'{line}\n{done.stdout[-2000:]}{done.stderr[-3000:]}'
        self.said.append(done.stdout)
        return done.stdout

    def rows(self) -> list:
        return [r for file in sorted((self.runs / 'rows').glob('*.json')) for r in load_rows(file)]

    def broken(self, monkeypatch) -> list[str]:
        "Laws of the house that the rooms now break; how the notebooks are formatted is one of them."
        monkeypatch.syspath_prepend(str(ROOT / 'tools'))
        import house

        pages = [self.root / name for name in sorted(self.touched) if name.endswith('.ipynb')]
        rooms = [(page, self.root / 'ambient_nb' / f'{page.stem.partition("_")[2]}.py') for page in pages]
        found = [law for nb, py in rooms if py.exists() for law in house.broken(nb.stem, house.measure(py, nb))]
        for args in (['format', '--check'], ['check']):
            done = subprocess.run([BIN / 'ruff', *args, *pages], cwd=self.root, capture_output=True, text=True)
            found += [done.stdout] * (done.returncode != 0)
        return found


def test_every_recipe_is_counted():
    assert set(COUNTED) == set(RECIPES)


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def pictures(tree) -> Path:
    "A folder of colour pictures in two classes."
    from PIL import Image

    for k in range(2):
        (tree.root / 'pictures' / f'class{k}').mkdir(parents=True)
        for i in range(30):
            pixels = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=rng(0, 'pictures', k, i))
            Image.fromarray(pixels.numpy()).save(tree.root / 'pictures' / f'class{k}' / f'{i}.png')
    return tree.root / 'pictures'


def test_a_loss(tree, monkeypatch):
    tree.follow('A loss')
    assert '3 passed' in tree.said[-1]
    assert not tree.broken(monkeypatch)


def test_a_figure_with_its_claims(tree, monkeypatch):
    tree.follow('A figure of a paper, with its claims')
    assert not tree.broken(monkeypatch)
    id, rows = 'ablation_rate/rate/memorized', tree.rows()
    spoken = [r for r in rows if r.claim == id]
    assert (
        len(spoken) == 4
        and {r.kind for r in spoken} == {'pair'}
        and {r.made_by['item'] for r in rows} == {'ablation_rate'}
    )
    assert any(text.startswith(f'{id}: a smaller') for text in tree.said)
    script = (
        'from ambient_nb.claims import claims_table\nfrom ambient_nb.rows import load_rows\n'
        f'table = claims_table("main", load_rows({str(next((tree.runs / "rows").glob("*.json")))!r}))\n'
        f'print((table.claim == "{id}").sum())'
    )
    assert tree.command(f'python -c {shlex.quote(script)}') == '4\n'
    assert '- repro_ablation_rate.ipynb' in (tree.root / '_quarto.yml').read_text(encoding='utf-8')


def test_an_encoder(tree, monkeypatch):
    tree.follow('An encoder')
    assert not tree.broken(monkeypatch)
    assert any('@ thumbnail-' in r.metric_id for r in tree.rows())
    assert not any('digits-cnn' in r.metric_id for r in tree.rows())


def test_a_data_set_of_ones_own(tree, pictures, monkeypatch):
    tree.follow('A data set of your own')
    rows = tree.rows()
    assert {(r.labels['dataset'], r.claim, r.made_by['data']) for r in rows} == {('shapes', None, 'shapes.zip')}
    assert any('@ pixels-' in r.metric_id for r in rows)


def test_a_data_set_by_name(tree, pictures, monkeypatch):
    tree.follow('A data set by name')
    assert not tree.broken(monkeypatch)
    rows = tree.rows()
    assert {r.labels['dataset'] for r in rows} == {'shapes'}
    assert 'table1/direction/memorized' in {r.claim for r in rows}
