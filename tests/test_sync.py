"""The CI triangle, in a copy of the tree: cleaned = committed, exported = committed, derived = committed.

That every notebook runs, its third side, is test_notebooks.py.
"""

import sys
from pathlib import Path

import pytest
import warm
from tree import BIN, copy


def contents(folder: Path, *globs: str) -> dict[str, bytes]:
    "File name -> bytes."
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for g in globs
        for p in folder.glob(g)
        if p.is_file() and '__pycache__' not in p.parts
    }


@pytest.mark.parametrize(
    'command, globs',
    [
        ([BIN / 'nbdev_clean'], ['nbs/**/*.ipynb']),
        ([BIN / 'nbdev_export'], ['ambient_nb/**/*']),
        (
            [sys.executable, 'tools/derive.py'],
            ['README.md', 'CITATION.cff', 'pyproject.toml', '_quarto.yml', 'nbs/index.ipynb', 'nbs/images/*'],
        ),
    ],
    ids=lambda v: Path(v[-1]).name if isinstance(v, list) else None,
)
def test_a_second_run_changes_nothing(command, globs, tmp_path):
    tree = copy(tmp_path / 'tree')
    before = contents(tree, *globs)
    done = warm.run(command, cwd=tree)
    assert done.returncode == 0, done.stderr
    after = contents(tree, *globs)
    assert sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k)) == [], 'run `make prepare`'
