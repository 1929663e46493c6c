"""How dense the house is: size, tokens a line, McCabe and lessons, room by room.

`python tools/house.py [TREE]` prints the table; `--check` exits with 1 where a law of the house is broken.
A module's size is what `ruff format` at 120 columns makes of it. Tokens a body line counts the tokens on those
lines that stand in the body of a function, comments and docstrings aside. A lesson is a code cell that exports
nothing; one that only imports is neither lesson nor exported.
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


class Room(NamedTuple):
    "What is measured of a room; lines are physical ones unless `formatted` says otherwise."

    formatted: int
    wide: int  # lines over 120 columns
    tokens: float  # a body line
    mccabe: int  # the largest of a function
    run: int  # longest run of exported cells without a lesson between them
    lessons: int
    shown: int  # lessons that end in a shown value
    semicolons: int  # in lessons
    taught: float  # lesson lines an exported line


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


def mccabe(text: str) -> dict[str, int]:
    "Function -> its paths, as radon counts them: branches, loops, handlers, choices within a line, functions inside."

    def paths(node) -> int:
        extra = isinstance(node, BRANCHES) + (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0)
        extra += len(node.ifs) if isinstance(node, ast.comprehension) else 0
        extra += bool(node.orelse) if isinstance(node, (ast.For, ast.While)) else 0
        extra += isinstance(node, FUNCTIONS)
        return extra + sum(paths(child) for child in ast.iter_child_nodes(node))

    return {f.name: paths(f) for f in ast.walk(ast.parse(text)) if isinstance(f, FUNCTIONS)}


def body_lines(text: str) -> set[int]:
    "The lines inside functions, docstrings aside."
    found = set()
    for f in ast.walk(ast.parse(text)):
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = f.body[1:] if ast.get_docstring(f) is not None else f.body
            for statement in body:
                found |= set(range(statement.lineno, statement.end_lineno + 1))
    return found


def tokens_a_line(text: str) -> float:
    "Tokens on the lines that stand in the body of a function."
    inside, counts = body_lines(text), {}
    for t in tokenize.generate_tokens(io.StringIO(text).readline):
        if t.type not in SILENT and t.start[0] in inside:
            counts[t.start[0]] = counts.get(t.start[0], 0) + 1
    return sum(counts.values()) / max(len(counts), 1)


def code_cells(notebook: Path) -> list[str]:
    "The sources of a notebook's code cells."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def kind(source: str) -> str:  # 'export', 'lesson' or 'aside'
    "What a code cell is."
    if re.search(r'^#\|\s*exporti?\b', source, re.M):
        return 'export' if 'import' not in source or re.search(r'^(def|class|@|\w+\s*=)', source, re.M) else 'aside'
    if re.search(r'^#\|\s*(hide|default_exp)', source, re.M) or not source.strip():
        return 'aside'
    tree = ast.parse(re.sub(r'^[%!].*$', 'pass', source, flags=re.M))
    return 'aside' if all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in tree.body) else 'lesson'


def ends_in_value(source: str) -> bool:
    "Whether a lesson's last statement shows something."
    last = ast.parse(re.sub(r'^[%!].*$', 'pass', source, flags=re.M)).body[-1]
    return isinstance(last, ast.Expr)


def has_semicolon(source: str) -> bool:
    "Whether two statements share a line."
    tokens = tokenize.generate_tokens(io.StringIO(re.sub(r'^[%!].*$', 'pass', source, flags=re.M)).readline)
    return any(t.type == tokenize.OP and t.string == ';' for t in tokens)


def measure(module: Path, notebook: Path) -> Room:
    "One room."
    text = module.read_text(encoding='utf-8')
    kinds = [(kind(s), s) for s in code_cells(notebook)]
    lessons, exported = ([s for k, s in kinds if k == name] for name in ('lesson', 'export'))
    runs = ''.join({'export': 'e', 'lesson': ' '}.get(k, '') for k, _ in kinds).split(' ')
    count = lambda sources: sum(len(s.splitlines()) for s in sources)
    return Room(
        len(formatted(text).splitlines()),
        sum(len(line) > COLUMNS and not line.startswith('__all__') for line in text.splitlines()),
        tokens_a_line(text),
        max(mccabe(text).values(), default=0),
        max(map(len, runs)),
        len(lessons),
        sum(map(ends_in_value, lessons)),
        sum(map(has_semicolon, lessons)),
        count(lessons) / max(count(exported), 1),
    )


def rooms(tree: Path) -> dict[str, Room]:
    "Room -> its measurements, for every notebook that exports."
    found = {}
    for notebook in sorted((tree / 'nbs').glob('[0-9][0-9]*_*.ipynb')):
        name = next(
            (m[1] for s in code_cells(notebook) if (m := re.search(r'^#\|\s*default_exp\s+(\w+)', s, re.M))), None
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
        f'{r.run} exported cells without a lesson, at most {MAX_RUN}': r.run <= MAX_RUN,
        f'{r.semicolons} lessons with a semicolon': not r.semicolons,
    }
    return [f'{name}: {law}' for law, holds in laws.items() if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('tree', nargs='?', type=Path, default=Path(__file__).resolve().parents[1], help='a checkout')
    parser.add_argument(
        '--check', action='store_true', help='only name the laws that are broken; exit with 1 if any is'
    )
    parser.add_argument('--only', default='', help='only rooms whose name has this in it')
    args = parser.parse_args()
    found = {name: r for name, r in rooms(args.tree).items() if args.only in name}
    if args.check:
        wrong = [line for name, r in found.items() for line in broken(name, r)]
        print('\n'.join(wrong) or f'{len(found)} rooms, no law broken')
        raise SystemExit(bool(wrong))
    print(
        f'{"room":22}{"formatted":>10}{"wide":>6}{"tokens":>8}{"McCabe":>8}{"run":>5}{"lessons":>9}{"shown":>7}{";":>4}{"taught":>8}'
    )
    for name, r in found.items():
        print(
            f'{name:22}{r.formatted:10}{r.wide:6}{r.tokens:8.1f}{r.mccabe:8}{r.run:5}{r.lessons:9}{r.shown:7}{r.semicolons:4}{r.taught:8.2f}'
        )
    total = lambda field: sum(getattr(r, field) for r in found.values())
    mean = sum(r.tokens * r.formatted for r in found.values()) / max(total('formatted'), 1)
    most = lambda field: max((getattr(r, field) for r in found.values()), default=0)
    print(
        f'{"all":22}{total("formatted"):10}{total("wide"):6}{mean:8.1f}{most("mccabe"):8}{most("run"):5}{total("lessons"):9}{total("shown"):7}{total("semicolons"):4}'
    )


if __name__ == '__main__':
    main()
