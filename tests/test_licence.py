"Clean room: no foreign licence header, no import from a foreign code base, no text longer than ours may be."

import re
from pathlib import Path

import pytest
from tree import ASIDE, ROOT

SUFFIXES = {'.py', '.ipynb', '.md', '.toml', '.ini', '.cff', '.yml', '.json', '.css', '.txt', ''}
FOREIGN = {
    'a copyright line': re.compile(r'copyright\s*(?:\(c\)|©|\d{4})', re.I),
    'a rights clause': re.compile(
        r'all rights reserved|licensed under (?!the apache)|CC[- ]BY[- ]NC|Attribution-NonCommercial', re.I
    ),
    "NVIDIA's header": re.compile(r'NVIDIA CORPORATION'),
    'an import of foreign research code': re.compile(
        r'^\s*"?(?:import|from) (?:dnnlib|torch_utils|training|ambient_utils)\b', re.M
    ),
}


def texts(folder: Path = ROOT):
    "Every text file of the tree but the licence itself and this one."
    names = [p.name for p in folder.iterdir()]
    for path in (folder / n for n in sorted(set(names) - ASIDE(folder, names))):
        if path.is_dir() and not path.is_symlink():
            yield from texts(path)
        elif path.suffix in SUFFIXES and path not in (ROOT / 'LICENSE', Path(__file__).resolve()):
            yield path


@pytest.mark.parametrize('path', list(texts()), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_foreign(path):
    text = path.read_text(encoding='utf-8')
    if path.name == 'settings.ini':
        text = re.sub(r'^copyright = .*$', '', text, flags=re.M)
    assert [what for what, pattern in FOREIGN.items() if pattern.search(text)] == []
