"""How dense the house is: size, tokens a line, McCabe and lessons, room by room.

`python tools/house.py [TREE]` prints the table; `--check` exits with 1 where a law of the house is broken.
A module's size is what `ruff format` at 120 columns makes of it. Density is tokens a line: in the module over the
lines in bodies of functions, in lessons over all lines, comments and docstrings aside. A lesson is a code cell that
exports nothing; a cell that only imports is neither lesson nor exported. A lesson shows something if its committed
output is not empty and comes from its last statement or is a picture.
"""

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

COLUMNS, MAX_LINES, MAX_MCCABE, MAX_RUN = 120, 350, 15, 4
RUFF = [str(Path(sys.executable).parent / 'ruff')]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.Assert, ast.match_case)
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


class Density(NamedTuple):
    "Tokens on so many lines."

    tokens: int
    lines: int

    def __str__(self):
        return f'{self.tokens / max(self.lines, 1):.1f}'


class Room(NamedTuple):
    "What is measured of a room; lines are physical ones unless `formatted` says otherwise."

    formatted: int
    wide: int  # lines over 120 columns, lessons included
    density: Density  # of bodies
    lesson_density: Density
    mccabe: int  # the largest of a function
    crowded: int  # exported cells with more than one definition
    run: int  # longest run of exported cells without a lesson between them
    lessons: int
    shown: int  # lessons that end in a shown value
    semicolons: int  # in lessons
    taught: float  # lesson lines an exported line


class Cell(NamedTuple):
    "A code cell and what stands below it."

    source: str
    outputs: list[dict]


def ruff(*args: str, text: str) -> str:
    "What ruff prints of a module that it is given."
    done = subprocess.run(
        [*RUFF, *args, '--isolated', '--stdin-filename', 'room.py', '-'], input=text, capture_output=True, text=True
    )
    if done.returncode > 1 or (done.returncode and args[0] == 'format'):
        raise SystemExit(done.stderr)
    return done.stdout


def formatted(text: str) -> str:
    "A module as ruff formats it at 120 columns."
    return ruff('format', f'--line-length={COLUMNS}', text=text)


def mccabe(text: str) -> list[tuple[str, int]]:
    "Functions and their paths, as radon counts them: branches, loops, handlers, choices in a line, functions inside."

    def paths(node) -> int:
        extra = isinstance(node, BRANCHES) + (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0)
        extra += len(node.ifs) if isinstance(node, ast.comprehension) else 0
        extra += bool(node.orelse) if isinstance(node, (ast.For, ast.AsyncFor, ast.While, ast.Try)) else 0
        extra += isinstance(node, FUNCTIONS)
        return extra + sum(paths(child) for child in ast.iter_child_nodes(node))

    return [(f.name, paths(f)) for f in ast.walk(ast.parse(text)) if isinstance(f, FUNCTIONS)]


def lines_of(nodes) -> set[int]:
    "The lines that syntax stands on."
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}


def body_lines(text: str) -> set[int]:
    "The lines inside functions, docstrings aside."
    functions = [f for f in ast.walk(ast.parse(text)) if isinstance(f, FUNCTIONS)]
    docstrings = [f.body[0] for f in functions if ast.get_docstring(f) is not None]
    return lines_of(statement for f in functions for statement in f.body) - lines_of(docstrings)


def density(text: str, inside: set[int]) -> Density:
    "Tokens on some lines of a text, and those of them that have any."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    starts = [t.start[0] for t in tokens if t.type not in SILENT and t.start[0] in inside]
    return Density(len(starts), len(set(starts)))


def together(densities: list[Density]) -> Density:
    "The density of several texts."
    return Density(sum(d.tokens for d in densities), sum(d.lines for d in densities))


def code_cells(notebook: Path) -> list[Cell]:
    "A notebook's code cells."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return [Cell(''.join(c['source']), c['outputs']) for c in cells if c['cell_type'] == 'code']


def python(source: str) -> str:
    "A cell without what only IPython understands."
    return re.sub(r'^[%!].*$', 'pass', source, flags=re.M)


def kind(source: str) -> str:  # 'export', 'lesson' or 'aside'
    "What a code cell is."
    statements = ast.parse(python(source)).body
    if all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in statements):
        return 'aside'
    if re.search(r'^#\|\s*exporti?\b', source, re.M):
        return 'export'
    return 'aside' if re.search(r'^#\|\s*(hide|default_exp)', source, re.M) else 'lesson'


def is_crowded(source: str) -> bool:
    "Whether a cell has more than one function or class."
    return sum(isinstance(s, (*FUNCTIONS, ast.ClassDef)) for s in ast.parse(python(source)).body) > 1


def shows(cell: Cell) -> bool:
    "Whether a lesson ends in something to see."
    picture = any('image/png' in o.get('data', {}) for o in cell.outputs)
    return picture or (bool(cell.outputs) and isinstance(ast.parse(python(cell.source)).body[-1], ast.Expr))


def has_semicolon(source: str) -> bool:
    "Whether two statements share a line."
    tokens = tokenize.generate_tokens(io.StringIO(python(source)).readline)
    return any(t.type == tokenize.OP and t.string == ';' for t in tokens)


def is_wide(line: str) -> bool:
    "Whether a line passes the margin; the list of names that nbdev writes may."
    return len(line) > COLUMNS and not line.startswith('__all__')


def measure(module: Path, notebook: Path) -> Room:
    "One room."
    text, cells = module.read_text(encoding='utf-8'), code_cells(notebook)
    kinds = [kind(c.source) for c in cells]
    lessons, exported = ([c for c, k in zip(cells, kinds) if k == name] for name in ('lesson', 'export'))
    runs = ''.join({'export': 'e', 'lesson': ' '}.get(k, '') for k in kinds).split(' ')
    lines = [[line for c in of for line in c.source.splitlines()] for of in (lessons, exported)]
    return Room(
        len(formatted(text).splitlines()),
        sum(map(is_wide, text.splitlines())) + sum(map(is_wide, lines[0])),
        density(text, body_lines(text)),
        together([density(python(c.source), set(range(len(c.source.splitlines()) + 1))) for c in lessons]),
        max((paths for _, paths in mccabe(text)), default=0),
        sum(is_crowded(c.source) for c in exported),
        max(map(len, runs)),
        len(lessons),
        sum(map(shows, lessons)),
        sum(has_semicolon(c.source) for c in lessons),
        len(lines[0]) / max(len(lines[1]), 1),
    )


def rooms(tree: Path) -> dict[str, Room]:
    "Room -> its measurements, for every notebook that exports."
    found = {}
    for notebook in sorted((tree / 'nbs').glob('[0-9][0-9]*_*.ipynb')):
        name = next(
            (m[1] for c in code_cells(notebook) if (m := re.search(r'^#\|\s*default_exp\s+(\w+)', c.source, re.M))),
            None,
        )
        if name:
            found[notebook.stem] = measure(tree / 'ambient_nb' / f'{name}.py', notebook)
    return found


def broken(name: str, r: Room) -> list[str]:
    "The laws that a room breaks, in words."
    laws = {
        f'{r.formatted} lines formatted, at most {MAX_LINES}': r.formatted <= MAX_LINES,
        f'{r.wide} lines over {COLUMNS} columns': not r.wide,
        f'McCabe {r.mccabe}, at most {MAX_MCCABE}': r.mccabe <= MAX_MCCABE,
        f'{r.crowded} exported cells with two definitions': not r.crowded,
        f'{r.run} exported cells without a lesson, at most {MAX_RUN}': r.run <= MAX_RUN,
        f'{r.semicolons} lessons with a semicolon': not r.semicolons,
    }
    return [f'{name}: {law}' for law, holds in laws.items() if not holds]


def table(found: dict[str, Room]) -> str:
    "A line a room, and one for all."
    heads = 'room formatted wide tokens in-lessons McCabe crowded run lessons shown ; taught'.split()
    rows = [[name, *r[:-1], f'{r.taught:.2f}'] for name, r in found.items()]
    sums = [sum(column) for column in zip(*(r[:2] for r in found.values()))]
    dense = [together(column) for column in zip(*(r[2:4] for r in found.values()))]
    most = [max(r[i] for r in found.values()) for i in (4, 6)]
    counts = [sum(r[i] for r in found.values()) for i in (5, 7, 8, 9)]
    rows.append(['all', *sums, *dense, most[0], counts[0], most[1], *counts[1:], ''])
    return '\n'.join(f'{row[0]:22}' + ''.join(f'{value!s:>11}' for value in row[1:]) for row in [heads, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('tree', nargs='?', type=Path, default=Path(__file__).resolve().parents[1], help='a checkout')
    parser.add_argument(
        '--check', action='store_true', help='only name the laws that are broken; exit with 1 if any is'
    )
    parser.add_argument('--only', default='', help='only rooms whose name has this in it')
    args = parser.parse_args()
    found = {name: r for name, r in rooms(args.tree).items() if args.only in name}
    if not found:
        raise SystemExit(f'no room with {args.only!r} in its name in {args.tree}')
    if args.check:
        wrong = [line for name, r in found.items() for line in broken(name, r)]
        print('\n'.join(wrong) or f'{len(found)} rooms, no law broken')
        raise SystemExit(bool(wrong))
    print(table(found))


if __name__ == '__main__':
    main()
